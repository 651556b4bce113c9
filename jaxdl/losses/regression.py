"""Distances of outputs from targets that are numbers: regression, and classes as one-hot points."""

import jax.numpy as jnp
import optax

from jaxdl.config import Positive
from jaxdl.losses.label import as_targets
from jaxdl.registry import register
from jaxdl.types import Array


@register("losses", target=("classes", "soft", "numbers"))
def squared_error(logits: Array, label: Array, /) -> Array:
    """Squared distance from the target.

    sum_k (y_k - t_k)^2: the sum over outputs, without a half.
    For classes: Evaluation of Neural Architectures Trained with Square Loss vs Cross-Entropy in
    Classification Tasks. Hui, Belkin 2020. https://arxiv.org/abs/2006.07322

    Args:
        logits: outputs (b, k).
        label: (b, k) numbers; (b,) numbers where k is 1; or (b,) integers, as one-hot.

    Returns:
        (b,) float32.
    """
    errors = optax.losses.squared_error(logits.astype(jnp.float32), as_targets(logits, label))
    return jnp.sum(errors, axis=-1)


@register("losses", target=("classes", "soft", "numbers"))
def huber(logits: Array, label: Array, /, *, delta: Positive = 1.0) -> Array:
    """Huber loss: quadratic in small errors, linear in large ones.

    sum_k h(y_k - t_k), h(e) = e^2 / 2 up to delta, and delta (|e| - delta / 2) beyond.
    Robust Estimation of a Location Parameter. Huber 1964.
    https://doi.org/10.1214/aoms/1177703732

    Args:
        logits: outputs (b, k).
        label: (b, k) numbers; (b,) numbers where k is 1; or (b,) integers, as one-hot.
        delta: the error from which on the loss grows no faster than linearly.

    Returns:
        (b,) float32.
    """
    errors = optax.losses.huber_loss(
        logits.astype(jnp.float32), as_targets(logits, label), delta=delta
    )
    return jnp.sum(errors, axis=-1)
