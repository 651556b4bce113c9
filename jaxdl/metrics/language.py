"""Metrics of models that say what token comes next; perplexity is e to the cross-entropy."""

import math

import jax.numpy as jnp
import numpy as np
import optax

from jaxdl.metrics.classification import Outputs, Pair
from jaxdl.registry import register
from jaxdl.types import PADDING, Array, Batch, mask_of


def over_successors(values: Array, batch: Batch) -> Pair:
    """(sum, count) of one value (b, t - 1) for each token that has one before it.

    Padding counts for nothing, and neither do examples that the batch's mask takes out.
    """
    weight = (batch["tokens"][:, 1:] != PADDING) * mask_of(batch)[:, None]
    # A padded value may be NaN, and NaN * 0 is NaN: choose rather than multiply.
    return jnp.sum(jnp.where(weight > 0, values, 0.0) * weight), jnp.sum(weight)


@register("metrics", unit="token")
def next_token_accuracy(outputs: Outputs, batch: Batch, /) -> Pair:
    """Share of tokens that had the largest logit at the place before theirs."""
    hit = jnp.argmax(outputs["logits"][:, :-1], axis=-1) == batch["tokens"][:, 1:]
    return over_successors(hit.astype(jnp.float32), batch)


@register("metrics", unit="token")
def next_token_cross_entropy(outputs: Outputs, batch: Batch, /) -> Pair:
    """Mean negative log-likelihood of each token given those before it, in nats."""
    losses = optax.losses.softmax_cross_entropy_with_integer_labels(
        outputs["logits"][:, :-1], batch["tokens"][:, 1:]
    )
    return over_successors(losses, batch)


def exp_of_mean(total: np.ndarray, count: np.ndarray) -> float:
    """e^(total / count); infinite where a float cannot hold it, NaN where nothing was counted."""
    if not count > 0:
        return math.nan
    with np.errstate(over="ignore"):
        return float(np.exp(np.float64(total) / count))


@register("metrics", unit="token", value=exp_of_mean)
def perplexity(outputs: Outputs, batch: Batch, /) -> Pair:
    """e to the mean negative log-likelihood over a whole split: between how many tokens it wavers.

    A uniform guess has the size of the vocabulary.
    """
    return next_token_cross_entropy(outputs, batch)


@register("metrics", unit="token")
def bits_per_token(outputs: Outputs, batch: Batch, /) -> Pair:
    """Mean negative log2-likelihood of each token: what an arithmetic coder would write for it."""
    total, count = next_token_cross_entropy(outputs, batch)
    return total / math.log(2), count
