"""Metrics of targets that are not one class each: multilabels, soft labels and numbers."""

import jax.numpy as jnp
import optax

from jaxdl.metrics.base import Metric, Outputs, Pair
from jaxdl.metrics.classification import masked
from jaxdl.registry import register
from jaxdl.types import Array, Batch


def _rows(label: Array) -> Array:
    """Targets (b, k) float32; of a label (b,), which is one number each, (b, 1)."""
    return (label[:, None] if label.ndim == 1 else label).astype(jnp.float32)


def _right(outputs: Outputs, batch: Batch) -> Array:
    """True for each answer (b, k) that is right: yes where the probability is above 1/2."""
    return (outputs["logits"] > 0) == (_rows(batch["label"]) > 0.5)


@register("metrics", target=("multilabel",))
def multilabel_accuracy() -> Metric:
    """Fraction of all yes-or-no answers that are right: 1 - Hamming loss."""

    def sums(outputs: Outputs, batch: Batch) -> Pair:
        return masked(jnp.mean(_right(outputs, batch).astype(jnp.float32), axis=-1), batch)

    return Metric(sums)


@register("metrics", target=("multilabel",))
def exact_match() -> Metric:
    """Fraction of examples whose answers are all right: subset accuracy."""

    def sums(outputs: Outputs, batch: Batch) -> Pair:
        return masked(jnp.all(_right(outputs, batch), axis=-1).astype(jnp.float32), batch)

    return Metric(sums)


@register("metrics", target=("soft",))
def soft_cross_entropy() -> Metric:
    """Mean of -sum_k q_k log p_k for probabilities q of classes, in nats."""

    def sums(outputs: Outputs, batch: Batch) -> Pair:
        losses = optax.losses.softmax_cross_entropy(outputs["logits"], batch["label"])
        return masked(losses, batch)

    return Metric(sums)


def _errors(outputs: Outputs, batch: Batch) -> Array:
    return outputs["logits"] - _rows(batch["label"])


@register("metrics", target=("numbers",))
def mean_squared_error() -> Metric:
    """Mean over examples and numbers of the squared error."""

    def sums(outputs: Outputs, batch: Batch) -> Pair:
        return masked(jnp.mean(_errors(outputs, batch) ** 2, axis=-1), batch)

    return Metric(sums)


@register("metrics", target=("numbers",))
def mean_absolute_error() -> Metric:
    """Mean over examples and numbers of the absolute error."""

    def sums(outputs: Outputs, batch: Batch) -> Pair:
        return masked(jnp.mean(jnp.abs(_errors(outputs, batch)), axis=-1), batch)

    return Metric(sums)
