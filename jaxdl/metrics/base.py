"""A metric: what a batch adds to it, how batches merge, and the value of a whole split."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxdl.types import Array, Batch, as_label

Outputs = dict[str, Array]
Pair = tuple[Array, Array]


def ratio(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """The quotient, entry by entry; NaN where nothing was counted."""
    nothing = np.full(np.broadcast_shapes(np.shape(total), np.shape(count)), np.nan)
    return np.divide(total, count, out=nothing, where=count > 0)


class Metric(NamedTuple):
    """The value of a builder of the kind `metrics`: pure functions, so that metrics nest."""

    sums: Callable[[Outputs, Batch], Pair | dict[str, Array]]
    """(outputs, batch) -> (sum, count), or a dict of arrays (b, ...), on the device"""
    value: Callable[..., Any] = ratio
    """(sum, count) of a whole split, float64 -> the value; or the dict of arrays (n, ...) -> it.
    A value is a number, a dict of numbers, an array (k,) over classes, or a matrix"""
    merge: Literal["add", "concat"] = "add"
    """Sums are added up; rows of arrays are put together, those of padding left out"""
    names: tuple[str, ...] | Literal["classes", "matrix"] = ()
    """Of the numbers that the value holds, where it is not one number; those that are not named
    here are measured all the same, but a run cannot be judged by them"""


def on_target(metric: Metric, target: str) -> Metric:
    """The same metric, which reads another target of the batch as `label`."""
    if target in ("label", "tokens"):
        return metric
    return metric._replace(
        sums=lambda outputs, batch: metric.sums(outputs, as_label(batch, target))
    )


def entries(metric: Metric, classes: Sequence[str]) -> list[str]:
    """Names of a metric's numbers, behind its own: '' for the one number of a scalar.

    Args:
        metric: whose `names` say what its value holds.
        classes: the name of each class; see `class_keys`.
    """
    if metric.names == "matrix":
        return []
    names = classes if metric.names == "classes" else metric.names
    return [f"/{name}" for name in names] or [""]


def class_keys(class_names: Sequence[str], num_classes: int | None) -> tuple[str, ...]:
    """The name of each class as a key: a number where it has none, or where two have the same."""
    names = [*class_names, *map(str, range(len(class_names), num_classes or 0))]
    names = [name.replace("/", "|") for name in names]
    return tuple(f"{name} ({i})" if names.count(name) > 1 else name for i, name in enumerate(names))


def by_name(
    values: Mapping[str, Any], metrics: Mapping[str, Metric], classes: Sequence[str]
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """The numbers that values hold, 'iou/sky' of a vector, and apart from them the matrices.

    Args:
        values: metric to value, of a whole split.
        metrics: the same metrics.
        classes: the name of each class; of an array of another length, numbers are the names.
    """
    numbers: dict[str, float] = {}
    matrices: dict[str, np.ndarray] = {}
    for metric, value in values.items():
        if isinstance(value, Mapping):
            numbers |= {f"{metric}/{key}": float(x) for key, x in value.items()}
        elif np.ndim(value) == 0:
            numbers[metric] = float(value)
        elif np.ndim(value) == 1:
            declared = metrics[metric].names
            names = classes if isinstance(declared, str) or not declared else declared
            names = names if len(names) == len(value) else range(len(value))
            numbers |= {f"{metric}/{n}": float(x) for n, x in zip(names, value, strict=True)}
        else:
            matrices[metric] = np.asarray(value)
    return numbers, matrices
