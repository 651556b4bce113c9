"""Metrics of models that say what token comes next; perplexity is e to the cross-entropy."""

import math

import jax.numpy as jnp
import numpy as np
import optax

from jaxdl.metrics.base import Metric, Outputs, Pair
from jaxdl.registry import register
from jaxdl.types import PADDING, Array, Batch, mask_of


def over_successors(values: Array, batch: Batch) -> Pair:
    """(sum, count) of one value (b, t - 1) for each token that has one before it.

    Padding counts for nothing, and neither do examples that the batch's mask takes out.
    """
    weight = (batch["tokens"][:, 1:] != PADDING) * mask_of(batch)[:, None]
    # A padded value may be NaN, and NaN * 0 is NaN: choose rather than multiply.
    return jnp.sum(jnp.where(weight > 0, values, 0.0) * weight), jnp.sum(weight)


def correct_successors(outputs: Outputs, batch: Batch) -> Pair:
    """(sum, count) of the tokens that had the largest logit at the place before theirs."""
    hit = jnp.argmax(outputs["logits"][:, :-1], axis=-1) == batch["tokens"][:, 1:]
    return over_successors(hit.astype(jnp.float32), batch)


@register("metrics", unit="token")
def next_token_accuracy() -> Metric:
    """Fraction of tokens that had the largest logit at the place before theirs."""
    return Metric(correct_successors)


def successors_nll(outputs: Outputs, batch: Batch) -> Pair:
    """(sum, count) of -log p of each token given those before it, in nats."""
    losses = optax.losses.softmax_cross_entropy_with_integer_labels(
        outputs["logits"][:, :-1], batch["tokens"][:, 1:]
    )
    return over_successors(losses, batch)


@register("metrics", unit="token")
def next_token_cross_entropy() -> Metric:
    """Mean negative log-likelihood of each token given those before it, in nats."""
    return Metric(successors_nll)


def exp_of_mean(total: np.ndarray, count: np.ndarray) -> float:
    """e^(total / count); infinite where a float cannot hold it, NaN where nothing was counted."""
    if not count > 0:
        return math.nan
    with np.errstate(over="ignore"):
        return float(np.exp(np.float64(total) / count))


@register("metrics", unit="token")
def perplexity() -> Metric:
    """exp(mean negative log-likelihood per token) over the split.

    A uniform guess has the size of the vocabulary.
    """
    return Metric(successors_nll, exp_of_mean)


@register("metrics", unit="token")
def bits_per_token() -> Metric:
    """Mean negative log2-likelihood of each token: what an arithmetic coder would write for it."""

    def sums(outputs: Outputs, batch: Batch) -> Pair:
        total, count = successors_nll(outputs, batch)
        return total / math.log(2), count

    return Metric(sums)
