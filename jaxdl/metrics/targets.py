"""Metrics of targets that are not one class each: multilabels, soft labels and numbers."""

import math

import jax.numpy as jnp
import numpy as np
import optax

from jaxdl.metrics.base import Metric, Outputs, Pair, ratio
from jaxdl.metrics.classification import masked
from jaxdl.registry import register
from jaxdl.types import Array, Batch, mask_of


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


@register("metrics", target=("numbers",))
def root_mean_squared_error() -> Metric:
    """Square root of `mean_squared_error`, in the unit of the numbers."""
    sums = mean_squared_error().sums
    return Metric(sums, lambda total, count: np.sqrt(ratio(total, count)))


def _scores(outputs: Outputs, batch: Batch) -> dict[str, Array]:
    return {"logits": outputs["logits"], "label": _rows(batch["label"])}


def r2_of(rows: dict[str, np.ndarray]) -> float:
    """1 - sum (y - t)^2 / sum (t - mean t)^2, the mean over numbers; NaN of fewer than 2 rows."""
    from sklearn.metrics import r2_score

    label, answer = (rows[key].astype(np.float64) for key in ("label", "logits"))
    if len(label) < 2 or not np.isfinite(answer).all():
        return math.nan
    return float(r2_score(label, answer))


@register("metrics", target=("numbers",))
def r2() -> Metric:
    """Coefficient of determination: the fraction of the variance that is explained.

    1 is perfect; predicting the mean gives 0, and worse predictions are below.
    """
    return Metric(_scores, r2_of, "concat")


def auroc_by_label(rows: dict[str, np.ndarray]) -> np.ndarray:
    """The area under the curve of each label, (k,); NaN of one that all or no examples have."""
    from sklearn.metrics import roc_auc_score

    truth, scores = rows["label"] > 0.5, rows["logits"].astype(np.float64)
    return np.array(
        [
            roc_auc_score(t, s) if 0 < t.sum() < len(t) and np.isfinite(s).all() else math.nan
            for t, s in zip(truth.T, scores.T, strict=True)
        ]
    )


def _mean_of_measured(values: np.ndarray) -> float:
    measured = values[~np.isnan(values)]
    return float(measured.mean()) if len(measured) else math.nan


@register("metrics", target=("multilabel",))
def multilabel_auroc() -> Metric:
    """Area under the ROC curve of each label; NaN of one that all examples have, or none."""
    return Metric(_scores, auroc_by_label, "concat", "classes")


@register("metrics", target=("multilabel",))
def mean_multilabel_auroc() -> Metric:
    """Mean of `multilabel_auroc` over the labels that some examples have, and some have not."""
    return Metric(_scores, lambda rows: _mean_of_measured(auroc_by_label(rows)), "concat")


def f1_by_label(both: np.ndarray, either: np.ndarray) -> np.ndarray:
    """2 TP / (2 TP + FP + FN) of each label, (k,); 0 of one that nothing has or is said to have."""
    return np.divide(2 * both, either, out=np.zeros(np.shape(both)), where=either > 0)


def _answers(outputs: Outputs, batch: Batch) -> Pair:
    """(TP, 2 TP + FP + FN) of each label, each (k,)."""
    valid = (mask_of(batch) > 0)[:, None]
    truth = ((_rows(batch["label"]) > 0.5) & valid).astype(jnp.float32)
    answer = ((outputs["logits"] > 0) & valid).astype(jnp.float32)
    return jnp.sum(truth * answer, axis=0), jnp.sum(truth + answer, axis=0)


@register("metrics", target=("multilabel",))
def multilabel_f1() -> Metric:
    """F1 of each label, answered with yes where its probability is above 1/2."""
    return Metric(_answers, f1_by_label, names="classes")


@register("metrics", target=("multilabel",))
def mean_multilabel_f1() -> Metric:
    """Mean of `multilabel_f1` over labels: macro F1."""
    return Metric(_answers, lambda both, either: float(np.mean(f1_by_label(both, either))))
