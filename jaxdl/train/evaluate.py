"""Evaluation over a whole split: every example counts once, on any number of devices."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.metrics.base import Metric
from jaxdl.train.sharding import fetch, replicated
from jaxdl.types import Array, Batch, Objective, PyTree, mask_of

Evaluate = Callable[[PyTree, PyTree, Iterable[Batch]], dict[str, Any]]


def make_evaluate(
    objective: Objective, metrics: Mapping[str, Metric], mesh: jax.sharding.Mesh
) -> Evaluate:
    """A function (params, variables, batches) -> name to value, computed by one jitted step.

    Batches are padded to one size and carry a `mask`. Of a batch, only what the metrics return
    comes to the host. Without any batch, every value is NaN.
    """

    @jax.jit(out_shardings=replicated(mesh))
    def one(params: PyTree, variables: PyTree, batch: Batch) -> tuple[PyTree, Array]:
        outputs = objective.predict(params, variables, batch)
        found = {name: metric.sums(outputs, batch) for name, metric in metrics.items()}
        return found, mask_of(batch)

    def evaluate(params: PyTree, variables: PyTree, batches: Iterable[Batch]):
        totals = Totals(metrics)
        for found, mask in lagged(one(params, variables, batch) for batch in batches):
            totals.add(found, mask)
        return totals.values()

    return evaluate


class Totals:
    """Running totals of the batches of a split, merged on the host."""

    def __init__(self, metrics: Mapping[str, Metric]):
        self._metrics = metrics
        # In float64: float32 stops counting at 2^24 examples.
        self._sums: dict[str, tuple[np.ndarray, ...]] = {}
        self._rows: dict[str, list[dict[str, np.ndarray]]] = {}

    def add(self, found: Mapping[str, Any], mask: np.ndarray) -> None:
        """Take what the metrics gave of one batch, whose examples are where the mask is 1."""
        for name, part in found.items():
            if self._metrics[name].merge == "concat":
                valid = {key: array[mask > 0] for key, array in part.items()}
                self._rows.setdefault(name, []).append(valid)
            else:
                pair = [np.asarray(x, np.float64) for x in part]
                self._sums[name] = tuple(map(np.add, self._sums.get(name, (0.0, 0.0)), pair))

    def values(self) -> dict[str, Any]:
        """Name to value; NaN where there was no batch."""
        metrics = self._metrics
        values = {name: metrics[name].value(*pair) for name, pair in self._sums.items()}
        values |= {name: metrics[name].value(_joined(rows)) for name, rows in self._rows.items()}
        return {name: values.get(name, math.nan) for name in metrics}


def _joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def predict_maps(
    objective: Objective, mesh: jax.sharding.Mesh, params: PyTree, variables: PyTree, batch: Batch
) -> dict[str, np.ndarray]:
    """`image`, `label` and `prediction` of a few examples that are arrays on the host.

    Images (n, h, w, c) as they are stored, labels (n, h, w); predictions (n, h', w') are of the
    middle where the model's map is smaller.
    """

    @jax.jit(out_shardings=replicated(mesh))
    def one(params: PyTree, variables: PyTree, batch: Batch) -> Array:
        return jnp.argmax(objective.predict(params, variables, batch)["logits"], axis=-1)

    prediction = fetch(one(params, variables, batch))
    return {"image": batch["image"], "label": batch["label"], "prediction": prediction}


def lagged(results: Iterable[PyTree]) -> Iterable[PyTree]:
    """Fetch each result only after the next was dispatched, so that the device never waits."""
    previous = None
    for result in results:
        if previous is not None:
            yield fetch(previous)
        previous = result
    if previous is not None:
        yield fetch(previous)
