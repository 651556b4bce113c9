"""Metrics of the confusion matrix of a whole split: precision, recall, F1 and agreement.

Evaluation: from precision, recall and F-measure to ROC, informedness, markedness and correlation.
Powers 2011. https://arxiv.org/abs/2010.16061

Rows of a matrix (k, k) are the truth, columns what was predicted. Values are those of
scikit-learn: a quotient of nothing is 0, and a mean is over the classes that are there or
predicted.
"""

import math
from functools import partial
from typing import Literal

import numpy as np

from jaxdl.metrics.base import Metric
from jaxdl.metrics.classification import confusions
from jaxdl.registry import register

Average = Literal["macro", "micro", "weighted"]


def quotient(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Entry by entry, 0 where there is nothing to divide by."""
    zero = np.zeros(np.broadcast_shapes(np.shape(numerator), np.shape(denominator)))
    return np.divide(numerator, denominator, out=zero, where=denominator > 0)


def averaged(
    numerator: np.ndarray, denominator: np.ndarray, matrix: np.ndarray, average: Average
) -> float:
    """One number of a quotient for each class (k,), by its confusion matrix.

    Args:
        numerator: counts (k,).
        denominator: counts (k,).
        matrix: (k, k).
        average: 'macro', all classes weigh the same; 'micro', all counts do; 'weighted', classes
            weigh by the examples they have.

    Returns:
        NaN where the matrix is empty.
    """
    truth, predicted = matrix.sum(axis=1), matrix.sum(axis=0)
    if not truth.sum() > 0:
        return math.nan
    if average == "micro":
        return float(quotient(numerator.sum(), denominator.sum()))
    weight = truth if average == "weighted" else (truth + predicted) > 0
    return float(np.average(quotient(numerator, denominator), weights=weight))


def precision_of(matrix: np.ndarray, count: np.ndarray, average: Average = "macro") -> float:
    """Of the examples predicted as a class, the fraction that belong to it."""
    return averaged(np.diag(matrix), matrix.sum(axis=0), matrix, average)


def recall_of(matrix: np.ndarray, count: np.ndarray, average: Average = "macro") -> float:
    """Of a class's examples, the fraction predicted as it."""
    return averaged(np.diag(matrix), matrix.sum(axis=1), matrix, average)


def f1_of(matrix: np.ndarray, count: np.ndarray, average: Average = "macro") -> float:
    """2 p r / (p + r) = 2 TP / (2 TP + FP + FN) of each class."""
    both = matrix.sum(axis=0) + matrix.sum(axis=1)
    return averaged(2 * np.diag(matrix), both, matrix, average)


def balanced_accuracy_of(matrix: np.ndarray, count: np.ndarray) -> float:
    """Mean of recall over the classes that occur."""
    there = matrix.sum(axis=1) > 0
    recall = np.diag(matrix)[there] / matrix.sum(axis=1)[there]
    return float(np.mean(recall)) if there.any() else math.nan


def matthews_of(matrix: np.ndarray, count: np.ndarray) -> float:
    """Correlation of truth and prediction, each as k indicators; 0 where one is constant."""
    truth, predicted = matrix.sum(axis=1), matrix.sum(axis=0)
    n = matrix.sum()
    if not n > 0:
        return math.nan
    # R = (c n - t . p) / sqrt((n^2 - p . p) (n^2 - t . t)), c the hits
    spread = (n**2 - predicted @ predicted) * (n**2 - truth @ truth)
    return float(quotient(np.trace(matrix) * n - truth @ predicted, np.sqrt(spread)))


def kappa_of(matrix: np.ndarray, count: np.ndarray) -> float:
    """Agreement beyond that of chance; NaN where chance alone agrees everywhere."""
    n = matrix.sum()
    by_chance = matrix.sum(axis=1) @ matrix.sum(axis=0)
    # (p_o - p_e) / (1 - p_e), times n^2
    possible = n**2 - by_chance
    return float((np.trace(matrix) * n - by_chance) / possible) if possible > 0 else math.nan


@register("metrics")
def precision(*, average: Average = "macro") -> Metric:
    """Of the examples predicted as a class, the fraction that belong to it, averaged over classes.

    'micro' is the accuracy, as every example has one label and one prediction.
    """
    return Metric(confusions, partial(precision_of, average=average))


@register("metrics")
def recall(*, average: Average = "macro") -> Metric:
    """Of a class's examples, the fraction predicted as it, averaged over classes.

    'micro' and 'weighted' are the accuracy.
    """
    return Metric(confusions, partial(recall_of, average=average))


@register("metrics")
def f1(*, average: Average = "macro") -> Metric:
    """Harmonic mean of precision and recall of each class, averaged over classes."""
    return Metric(confusions, partial(f1_of, average=average))


@register("metrics")
def balanced_accuracy() -> Metric:
    """Mean of recall over the classes that occur. https://doi.org/10.1109/ICPR.2010.764"""
    return Metric(confusions, balanced_accuracy_of)


@register("metrics")
def matthews() -> Metric:
    """Matthews' correlation of truth and prediction, for k classes as Gorodkin 2004 has it.

    https://doi.org/10.1016/j.compbiolchem.2004.09.006
    """
    return Metric(confusions, matthews_of)


@register("metrics")
def kappa() -> Metric:
    """Cohen's agreement of truth and prediction beyond chance.

    https://doi.org/10.1177/001316446002000104
    """
    return Metric(confusions, kappa_of)
