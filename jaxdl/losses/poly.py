"""Poly-1: cross-entropy with another first term of its expansion in powers of 1 - p.

PolyLoss: A Polynomial Expansion Perspective of Classification Loss Functions. Leng, Tan, Liu,
Cubuk, Shi, Cheng, Anguelov 2022. https://arxiv.org/abs/2204.12511
"""

from typing import Annotated

import jax.numpy as jnp
import msgspec
import optax

from jaxdl.config import Rate
from jaxdl.losses.label import as_targets
from jaxdl.registry import register
from jaxdl.types import Array


@register("losses", target=("classes", "soft"))
def poly1(
    logits: Array,
    label: Array,
    /,
    *,
    epsilon: Annotated[float, msgspec.Meta(ge=-1)] = 2.0,
    label_smoothing: Rate = 0.0,
) -> Array:
    """Cross-entropy with another first coefficient of its expansion in powers of 1 - p.

    -sum_k q_k log p_k + epsilon sum_k q_k (1 - p_k) with p = softmax(logits).

    Args:
        logits: (b, k).
        label: (b,) integers, or (b, k) probabilities.
        epsilon: what is added to the first coefficient, which is 1. The paper's: 2 for ImageNet,
            -1 for detection.
        label_smoothing: fraction of the label's mass spread evenly over all k classes, in both
            terms.

    Returns:
        (b,) float32, at least 0.
    """
    targets = optax.losses.smooth_labels(as_targets(logits, label), label_smoothing)
    return optax.losses.poly_loss_cross_entropy(
        logits.astype(jnp.float32), targets, epsilon=epsilon
    )
