"""Batch statistics of averaged weights, which no training step has seen.

Averaging Weights Leads to Wider Optima and Better Generalization. Izmailov, Podoprikhin, Garipov,
Vetrov, Wilson 2018. https://arxiv.org/abs/1803.05407 (section 3.2)
"""

from collections.abc import Callable, Iterable

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdl.nn.norm import average_statistics
from jaxdl.types import Array, Batch, Objective, PyTree

Reestimate = Callable[[PyTree, PyTree, Iterable[Batch], Array], PyTree]


def make_reestimate(objective: Objective) -> Reestimate:
    """A function (params, variables, batches, key) -> variables with new batch statistics.

    They are the mean over these batches in training mode, augmentation and dropout included, for
    which the key is. Nothing but `batch_stats` changes.
    """

    @jax.jit
    def one(params: PyTree, variables: PyTree, batch: Batch, key: Array, i: Array) -> PyTree:
        with nn.intercept_methods(average_statistics(1 / (i + 1.0))):
            aux = objective.loss(params, variables, batch, jax.random.fold_in(key, i))[1]
        return aux.variables["batch_stats"]

    def reestimate(
        params: PyTree, variables: PyTree, batches: Iterable[Batch], key: Array
    ) -> PyTree:
        for i, batch in enumerate(batches):
            statistics = one(params, variables, batch, key, jnp.uint32(i))
            variables = {**variables, "batch_stats": statistics}
        return variables

    return reestimate
