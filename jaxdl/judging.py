"""The value that a run is judged by, and which of two values is better: decided here alone.

A run is judged by one measured number, such as 'validation/accuracy', or by a score over several,
such as 'mean(validation/accuracy, ood/accuracy)'.
"""

import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxdl.errors import UserError, choices

SCORES: dict[str, Callable[[Sequence[float]], float]] = {
    "mean": statistics.fmean,
    "min": min,
    "max": max,
}
_SCORE = re.compile(r"\s*(\w+)\s*\((.*)\)\s*", re.DOTALL)

Lines = Sequence[Mapping[str, Any]]
"""Of a metric log: a step, and what was measured at it."""


class Score(NamedTuple):
    """One number of several measurements."""

    name: str
    """of `SCORES`"""
    keys: tuple[str, ...]
    """of metrics, such as 'validation/accuracy'"""

    def __call__(self, values: Sequence[float]) -> float:
        """The score of one value for each key; NaN where one is."""
        return math.nan if any(map(math.isnan, values)) else float(SCORES[self.name](values))


def score(monitor: str) -> Score:
    """The score that a monitor describes; a key alone is the mean of itself.

    Raises:
        UserError: a score of another name, or over nothing.
    """
    found = _SCORE.fullmatch(monitor)
    if found is None:
        return Score("mean", (monitor,))
    keys = tuple(key.strip() for key in found[2].split(",") if key.strip())
    if found[1] not in SCORES:
        raise UserError(f"config.evaluation.monitor: {choices(found[1], SCORES)}")
    if not keys:
        raise UserError(f"config.evaluation.monitor '{monitor}' is a score over nothing")
    return Score(found[1], keys)


def metric_of(monitor: str) -> str:
    """The metric that a run is judged by, whatever the splits: '' for a score over several."""
    metrics = {key.partition("/")[2] for key in score(monitor).keys}
    return metrics.pop() if len(metrics) == 1 else ""


def series(lines: Lines, monitor: str) -> list[tuple[int, float]]:
    """(step, value) of what a run is judged by, at each line; NaN where it was not finite.

    A score has a value at the steps at which all that it is over were measured.
    """
    judged = score(monitor)
    curves = [
        [(line["step"], _float(line[key])) for line in lines if key in line] for key in judged.keys
    ]
    if len(curves) == 1:
        return curves[0]
    by_step = [dict(curve) for curve in curves]
    common = sorted(set.intersection(*map(set, by_step)))
    return [(step, judged([values[step] for values in by_step])) for step in common]


def badness(value: float | None, mode: str) -> float:
    """A number that is smaller for a better value; what is unknown or NaN is the worst.

    Args:
        value: measured, or None.
        mode: 'max' or 'min': which is best.
    """
    if value is None or math.isnan(value):
        return math.inf
    return value if mode == "min" else -value


def best(history: Sequence[float], mode: str, min_delta: float = 0.0) -> int | None:
    """Position of the last value that beat the best before it by more than `min_delta`.

    Args:
        history: one value an evaluation, in order; NaN never is the best.
        mode: 'max' or 'min'.
        min_delta: gains of this or less do not count.
    """
    found = None
    for i, value in enumerate(history):
        if math.isnan(value):
            continue
        if found is None or badness(history[found], mode) - badness(value, mode) > min_delta:
            found = i
    return found


def _float(value: Any) -> float:
    return math.nan if value is None else value
