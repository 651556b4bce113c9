"""Cross-entropy of a categorical label, hard or soft.

Label smoothing: Rethinking the Inception Architecture for Computer Vision. Szegedy, Vanhoucke,
Ioffe, Shlens, Wojna 2015. https://arxiv.org/abs/1512.00567
"""

import jax
import jax.numpy as jnp
import optax

from jaxdl.config import Rate
from jaxdl.registry import register
from jaxdl.types import Array


@register("losses", target=("classes", "soft"))
def cross_entropy(logits: Array, label: Array, /, *, label_smoothing: Rate = 0.0) -> Array:
    """-sum_k q_k log p_k with p = softmax(logits), in nats.

    Args:
        logits: (b, k).
        label: (b,) integers, or (b, k) probabilities.
        label_smoothing: fraction of the label's mass spread evenly over all k classes.

    Returns:
        (b,) float32.
    """
    logits = logits.astype(jnp.float32)
    if label.ndim == logits.ndim - 1 and label_smoothing == 0:
        return optax.losses.softmax_cross_entropy_with_integer_labels(logits, label)
    if label.ndim == logits.ndim - 1:
        label = jax.nn.one_hot(label, logits.shape[-1])
    # q = (1 - e) * label + e / k
    return optax.losses.softmax_cross_entropy(
        logits, optax.losses.smooth_labels(label, label_smoothing)
    )
