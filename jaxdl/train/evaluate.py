"""Evaluation over a whole split: every example counts once, on any number of devices."""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.train.sharding import fetch, replicated
from jaxdl.types import Array, Batch, Metrics, Objective, PyTree

Evaluate = Callable[[PyTree, PyTree, Iterable[Batch]], dict[str, np.ndarray]]


def ratio(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """The quotient, entry by entry; NaN where nothing was counted."""
    nothing = np.full(np.broadcast_shapes(np.shape(total), np.shape(count)), np.nan)
    return np.divide(total, count, out=nothing, where=count > 0)


class Metric(NamedTuple):
    """What is measured: sums that add up over batches, and the value that they make in the end."""

    sums: Callable[[dict[str, Array], Batch], tuple[Array, Array]]
    """(outputs, batch) -> (sum, count), on the device"""
    value: Callable[[np.ndarray, np.ndarray], np.ndarray | float] = ratio
    """(sum, count) of a whole split, float64 -> the value"""


def make_evaluate(
    objective: Objective, metrics: Mapping[str, Metric], mesh: jax.sharding.Mesh
) -> Evaluate:
    """A function (params, variables, batches) -> name to value, computed by one jitted step.

    Batches are padded to one size and carry a `mask`; sums stay on the device until the end.
    """

    @jax.jit(out_shardings=replicated(mesh))
    def one(params: PyTree, variables: PyTree, batch: Batch) -> Metrics:
        outputs = objective.predict(params, variables, batch)
        return {name: metric.sums(outputs, batch) for name, metric in metrics.items()}

    def evaluate(params: PyTree, variables: PyTree, batches: Iterable[Batch]):
        # Summed on the host in float64: float32 stops counting at 2^24 examples.
        total: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for part in _lagged(one(params, variables, batch) for batch in batches):
            for name, pair in part.items():
                add = [np.asarray(x, np.float64) for x in pair]
                total[name] = tuple(map(np.add, total.get(name, (0.0, 0.0)), add))
        return {name: metrics[name].value(*pair) for name, pair in total.items()}

    return evaluate


def make_predict(objective: Objective, mesh: jax.sharding.Mesh):
    """A function (params, variables, batches) -> dict of NumPy arrays over the whole split.

    Gives `label` (n,), `prediction` (n,) and `confidence` (n,), the probability of the
    prediction; padding is cut off.
    """

    @jax.jit(out_shardings=replicated(mesh))
    def one(params: PyTree, variables: PyTree, batch: Batch) -> dict[str, Array]:
        probabilities = jax.nn.softmax(objective.predict(params, variables, batch)["logits"])
        return {
            "label": batch["label"],
            "prediction": jnp.argmax(probabilities, axis=-1),
            "confidence": jnp.max(probabilities, axis=-1),
            "mask": batch["mask"],
        }

    def predict(params: PyTree, variables: PyTree, batches: Iterable[Batch]):
        parts = list(_lagged(one(params, variables, batch) for batch in batches))
        whole = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
        valid = whole.pop("mask") > 0
        return {k: v[valid] for k, v in whole.items()}

    return predict


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


def _lagged(results: Iterable[PyTree]) -> Iterable[PyTree]:
    """Fetch each result only after the next was dispatched, so that the device never waits."""
    previous = None
    for result in results:
        if previous is not None:
            yield fetch(previous)
        previous = result
    if previous is not None:
        yield fetch(previous)
