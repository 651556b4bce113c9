"""Metrics of single-label classification, exact over any batching: padding counts for nothing."""

import jax
import jax.numpy as jnp
import optax

from jaxdl.config import Count
from jaxdl.registry import register
from jaxdl.types import Array, Batch, mask_of

Outputs = dict[str, Array]
Pair = tuple[Array, Array]


def masked(values: Array, batch: Batch) -> Pair:
    """(sum, count) of one value an example (b,), over those that are not padding."""
    mask = mask_of(batch)
    # A padded value may be NaN, and NaN * 0 is NaN: choose rather than multiply.
    return jnp.sum(jnp.where(mask > 0, values, 0.0) * mask), jnp.sum(mask)


@register("metrics")
def accuracy(outputs: Outputs, batch: Batch, /) -> Pair:
    """Share of examples whose largest logit is the label's."""
    hit = jnp.argmax(outputs["logits"], axis=-1) == batch["label"]
    return masked(hit.astype(jnp.float32), batch)


@register("metrics")
def top_k(outputs: Outputs, batch: Batch, /, *, k: Count = 5) -> Pair:
    """Share of examples whose label is among the k largest logits; ties go to the lower class."""
    logits = outputs["logits"]
    _, best = jax.lax.top_k(logits, min(k, logits.shape[-1]))
    hit = jnp.any(best == batch["label"][:, None], axis=-1)
    return masked(hit.astype(jnp.float32), batch)


@register("metrics")
def cross_entropy(outputs: Outputs, batch: Batch, /) -> Pair:
    """Mean negative log-likelihood of the label, in nats, without smoothing."""
    losses = optax.losses.softmax_cross_entropy_with_integer_labels(
        outputs["logits"], batch["label"]
    )
    return masked(losses, batch)


@register("metrics")
def confusion(outputs: Outputs, batch: Batch, /) -> Pair:
    """Joint frequency of (label, prediction), a (k, k) matrix whose rows are the truth."""
    k = outputs["logits"].shape[-1]
    cell = batch["label"] * k + jnp.argmax(outputs["logits"], axis=-1)
    mask = mask_of(batch)
    counts = jnp.zeros(k * k, jnp.float32).at[cell].add(mask)
    return counts.reshape(k, k), jnp.sum(mask)
