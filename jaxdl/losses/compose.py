"""Losses made of losses."""

from collections.abc import Callable
from typing import Annotated

import jax.numpy as jnp

from jaxdl.config import NonNegative, Positive
from jaxdl.errors import UserError
from jaxdl.losses.cross_entropy import cross_entropy
from jaxdl.losses.label import as_targets
from jaxdl.registry import Of, register
from jaxdl.types import Array

Loss = Annotated[Callable[[Array, Array], Array], Of("losses")]


@register("losses")
def weighted(
    logits: Array,
    label: Array,
    /,
    *,
    losses: tuple[Loss, ...] = (),
    weights: tuple[NonNegative, ...] = (),
) -> Array:
    """Weighted sum of other losses.

    sum_i w_i loss_i(logits, label), the weights fixed. It is what learned weights are compared
    with in Multi-Task Learning Using Uncertainty to Weigh Losses. Kendall, Gal, Cipolla 2017.
    https://arxiv.org/abs/1705.07115 (equation 1)

    Args:
        logits: (b, k).
        label: what all of the losses take.
        losses: the terms.
        weights: one for each term; none given, all are 1.

    Returns:
        (b,) float32.

    Raises:
        UserError: no losses, or another number of weights.
    """
    weights = weights or (1.0,) * len(losses)
    if not losses or len(weights) != len(losses):
        raise UserError(
            f"loss 'weighted' needs losses and a weight for each: it has {len(losses)} losses and "
            f"{len(weights)} weights"
        )
    return sum(w * f(logits, label) for w, f in zip(weights, losses, strict=True))


@register("losses")
def balanced(
    logits: Array,
    label: Array,
    /,
    *,
    loss: Loss = cross_entropy,
    weights: tuple[Positive, ...] = (),
) -> Array:
    """Another loss, in which classes that are rare, or dear, weigh more.

    w_label loss(logits, label).
    Logistic Regression in Rare Events Data. King, Zeng 2001.
    https://doi.org/10.1093/oxfordjournals.pan.a004868
    Their weights for n examples, n_j of them of class j, are n / (k n_j), whose mean over examples
    is 1. The mean stays one over examples: it is not divided by the sum of the weights.

    Args:
        logits: (b, k).
        label: (b,) integers, or (b, k) probabilities q, whose weight is sum_k q_k w_k.
        loss: of one example.
        weights: one for each class, two where k is 1. A run finds them, by the formula above, from
            its training labels if there are none; elsewhere all are 1.

    Returns:
        (b,) float32.

    Raises:
        UserError: another number of weights than of classes.
    """
    values, classes = loss(logits, label), max(logits.shape[-1], 2)
    if not weights:
        return values
    if len(weights) != classes:
        raise UserError(f"loss 'balanced' has {len(weights)} weights for {classes} classes")
    q = as_targets(logits, label)
    if logits.shape[-1] == 1:
        q = jnp.concatenate([1 - q, q], axis=-1)
    return jnp.sum(q * jnp.asarray([weights], jnp.float32), axis=-1) * values
