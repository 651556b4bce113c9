"""Ranking metrics of a class's scores, exact over a whole split.

The Meaning and Use of the Area under a Receiver Operating Characteristic Curve. Hanley, McNeil
1982. https://doi.org/10.1148/radiology.143.1.7063747

Of two classes, the second is what is looked for; of more, each is, against all others, and the
mean is over the classes for which that means something: some examples are of them, and some not.
The logits of the whole split are kept on the host until the end.
"""

import math
from collections.abc import Callable

import numpy as np

from jaxdl.metrics.base import Metric, Outputs
from jaxdl.registry import register
from jaxdl.types import Array, Batch

_LARGE = 1e300


def mean_over_classes(
    score: Callable[[np.ndarray, np.ndarray], float], rows: dict[str, np.ndarray]
) -> float:
    """Mean over classes of `score`(is of the class (n,) bool, rank by its probability (n,)).

    Args:
        score: of one class.
        rows: `logits` (n, k) and `label` (n,).

    Returns:
        NaN where a logit is, or where only one class is there.
    """
    from scipy.stats import rankdata  # a second that training need not wait for

    logits, label = rows["logits"].astype(np.float64), rows["label"]
    if np.isnan(logits).any():
        return math.nan
    logits = np.clip(logits, -_LARGE, _LARGE)  # of infinite ones the difference is none
    if logits.shape[-1] == 2:
        # The same order as the probability's, which would be 1 for all that is above 37.
        scores = {1: logits[:, 1] - logits[:, 0]}
    else:
        scores = {k: log_probability(logits, k) for k in range(logits.shape[-1])}
    found = []
    for k, values in scores.items():
        positive = label == k
        if 0 < positive.sum() < len(label):
            found.append(score(positive, rankdata(values)))
    return float(np.mean(found)) if found else math.nan


def log_probability(logits: np.ndarray, k: int) -> np.ndarray:
    """Logarithm of the probability of class k, (n, c) -> (n,), equal where it is mathematically.

    Rows of which one is the other permuted, or moved by a constant, are tied, which the rounding of
    a softmax would undo: the summands are sorted.
    """
    from scipy.special import logsumexp

    # ln p_k = -ln(1 + sum_(j != k) exp(l_j - l_k))
    others = np.sort(np.delete(logits, k, axis=1) - logits[:, [k]], axis=1)
    result: np.ndarray = -np.logaddexp(0, logsumexp(others, axis=1))
    return result


def auroc_of(rows: dict[str, np.ndarray]) -> float:
    """Mean over classes of the area under the curve."""
    from sklearn.metrics import roc_auc_score

    return mean_over_classes(roc_auc_score, rows)


def average_precision_of(rows: dict[str, np.ndarray]) -> float:
    """Mean over classes of the average precision."""
    from sklearn.metrics import average_precision_score

    return mean_over_classes(average_precision_score, rows)


def _logits(outputs: Outputs, batch: Batch) -> dict[str, Array]:
    return {"logits": outputs["logits"], "label": batch["label"]}


@register("metrics")
def auroc() -> Metric:
    """Area under the ROC curve: how often one of a class scores above one of another; ties half."""
    return Metric(_logits, auroc_of, "concat")


@register("metrics")
def average_precision() -> Metric:
    """Area under the curve of precision over recall, in steps and not interpolated.

    Davis, Goadrich 2006. https://doi.org/10.1145/1143844.1143874
    """
    return Metric(_logits, average_precision_of, "concat")
