"""Focal loss: cross-entropy that leaves aside what is already easy.

Focal Loss for Dense Object Detection. Lin, Goyal, Girshick, He, Dollar 2017.
https://arxiv.org/abs/1708.02002
The paper's is `sigmoid_focal`, a sum over classes; there the sum over anchors is divided by the
number of objects, which an objective's mean over examples does not do.
"""

import jax
import jax.numpy as jnp
import optax

from jaxdl.config import NonNegative, Rate
from jaxdl.losses.label import as_targets
from jaxdl.registry import register
from jaxdl.types import Array

_TINY = 1e-12  # below the least of 1 - p that float32 tells from 0 by expm1(log p)


@register("losses", target=("classes", "soft"))
def focal(logits: Array, label: Array, /, *, gamma: NonNegative = 2.0) -> Array:
    """Focal loss over a softmax: cross-entropy that leaves aside what is already easy.

    -sum_k q_k (1 - p_k)^gamma log p_k with p = softmax(logits), in nats. The paper's alpha, a
    weight for each class, is the loss `balanced` around this one.

    Args:
        logits: (b, k).
        label: (b,) integers, or (b, k) probabilities.
        gamma: how much less easy examples weigh; 0 is cross-entropy.

    Returns:
        (b,) float32.
    """
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    rest = jnp.maximum(-jnp.expm1(log_p), _TINY)
    return -jnp.sum(as_targets(logits, label) * rest**gamma * log_p, axis=-1)


@register("losses", target=("classes", "multilabel", "soft"))
def sigmoid_focal(
    logits: Array,
    label: Array,
    /,
    *,
    alpha: Rate | None = 0.25,
    gamma: NonNegative = 2.0,
) -> Array:
    """Focal loss of the paper: binary cross-entropy that leaves aside what is already easy.

    -sum_k a_k (1 - p_k)^gamma log p_k, p_k the probability given to the right yes or no.

    Args:
        logits: (b, k), or (b, 1) where there are two classes.
        label: as binary cross-entropy's.
        alpha: a_k, the weight of a class that is there; one that is not weighs 1 - alpha. Null
            gives both the weight 1.
        gamma: how much less easy answers weigh; 0 is binary cross-entropy, weighed.

    Returns:
        (b,) float32.
    """
    answers = optax.losses.sigmoid_focal_loss(
        logits.astype(jnp.float32), as_targets(logits, label), alpha=alpha, gamma=gamma
    )
    return jnp.sum(answers, axis=-1)
