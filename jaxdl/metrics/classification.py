"""Metrics of single-label classification, exact over any batching: padding counts for nothing."""

from functools import partial

import jax
import jax.numpy as jnp
import optax

from jaxdl.config import Count
from jaxdl.metrics.base import Metric, Outputs, Pair
from jaxdl.metrics.segmentation import pixels
from jaxdl.registry import register
from jaxdl.types import VOID, Array, Batch, mask_of


def masked(values: Array, batch: Batch) -> Pair:
    """(sum, count) of one value an example (b,), over those that are not padding."""
    mask = mask_of(batch)
    # A padded value may be NaN, and NaN * 0 is NaN: choose rather than multiply.
    return jnp.sum(jnp.where(mask > 0, values, 0.0) * mask), jnp.sum(mask)


def correct(outputs: Outputs, batch: Batch) -> Pair:
    """(sum, count) of the examples whose largest logit is the label's."""
    hit = jnp.argmax(outputs["logits"], axis=-1) == batch["label"]
    return masked(hit.astype(jnp.float32), batch)


@register("metrics")
def accuracy() -> Metric:
    """Fraction of examples whose largest logit is the label's."""
    return Metric(correct)


@register("metrics")
def top_k(*, k: Count = 5) -> Metric:
    """Fraction of examples with the label among the k largest logits; ties: the lower class."""

    def sums(outputs: Outputs, batch: Batch) -> Pair:
        logits = outputs["logits"]
        _, best = jax.lax.top_k(logits, min(k, logits.shape[-1]))
        hit = jnp.any(best == batch["label"][:, None], axis=-1)
        return masked(hit.astype(jnp.float32), batch)

    return Metric(sums)


def negative_log_likelihood(outputs: Outputs, batch: Batch) -> Pair:
    """(sum, count) of -log p of the label, in nats."""
    losses = optax.losses.softmax_cross_entropy_with_integer_labels(
        outputs["logits"], batch["label"]
    )
    return masked(losses, batch)


@register("metrics")
def cross_entropy() -> Metric:
    """Mean negative log-likelihood of the label, in nats, without smoothing."""
    return Metric(negative_log_likelihood)


def confusions(outputs: Outputs, batch: Batch, ignore: int | None = VOID) -> Pair:
    """Counts (k, k) of (label, prediction), rows the truth, and their sum; of examples or pixels.

    Args:
        outputs: with `logits` (b, k), or (b, h', w', k).
        batch: with `label` (b,), or (b, h, w).
        ignore: label of pixels that count for nothing.
    """
    logits, label, weight = outputs["logits"], batch["label"], mask_of(batch)
    if label.ndim == 3:
        logits, label, weight = pixels(logits, batch, ignore)
    k = logits.shape[-1]
    cell = label * k + jnp.argmax(logits, axis=-1)
    # Integers, as a batch of large maps has more pixels than the 2^24 that float32 counts to.
    valid = (weight > 0).astype(jnp.int32)
    return jnp.zeros(k * k, jnp.int32).at[cell].add(valid).reshape(k, k), jnp.sum(valid)


@register("metrics", unit=("example", "pixel"))
def confusion(*, ignore: int | None = VOID) -> Metric:
    """Joint frequency of (label, prediction), a (k, k) matrix whose rows are the truth.

    Args:
        ignore: label of pixels that count for nothing ("void"); null where all count.
    """
    return Metric(partial(confusions, ignore=ignore), names="matrix")
