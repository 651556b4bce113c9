"""Binary cross-entropy: each class a question of its own, to be answered with yes or no.

With k classes of which one is right: ResNet strikes back. Wightman, Touvron, Jegou 2021.
https://arxiv.org/abs/2110.00476
"""

import jax.numpy as jnp
import optax

from jaxdl.config import Rate
from jaxdl.losses.label import as_targets
from jaxdl.registry import register
from jaxdl.types import Array


@register("losses", target=("classes", "multilabel", "soft"))
def binary_cross_entropy(logits: Array, label: Array, /, *, label_smoothing: Rate = 0.0) -> Array:
    """Binary cross-entropy, each class a question of its own.

    -sum_k t_k log p_k + (1 - t_k) log(1 - p_k) with p = sigmoid(logits), in nats: the sum over
    classes, as of a likelihood, not their mean.

    Args:
        logits: (b, k), or (b, 1) where there are two classes.
        label: (b,) integers, one-hot in [0, k) or 0 and 1 where k is 1; or (b, k) probabilities,
            of which any number may be 1.
        label_smoothing: fraction e of each answer's mass spread over yes and no,
            t -> (1 - e) t + e / 2.

    Returns:
        (b,) float32.
    """
    targets = (1 - label_smoothing) * as_targets(logits, label) + label_smoothing / 2
    answers = optax.losses.sigmoid_binary_cross_entropy(logits.astype(jnp.float32), targets)
    return jnp.sum(answers, axis=-1)
