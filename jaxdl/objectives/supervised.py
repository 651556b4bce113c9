"""Supervised classification: a mean loss of logits against labels."""

from collections.abc import Callable
from typing import Annotated

import jax.numpy as jnp

from jaxdl.losses.cross_entropy import cross_entropy
from jaxdl.metrics.classification import accuracy, masked
from jaxdl.objectives.base import Model
from jaxdl.registry import Of, register
from jaxdl.types import Array, Aux, Batch, Objective, PyTree

Loss = Annotated[Callable[[Array, Array], Array], Of("losses")]


@register("objectives")
def supervised(model: Model, /, *, loss: Loss = cross_entropy) -> Objective:
    """Minimise the mean over valid examples of `loss(logits, label)`."""

    def objective_loss(params: PyTree, variables: PyTree, batch: Batch, key: Array):
        outputs, variables = model.train(params, variables, batch, key)
        total, count = masked(loss(outputs["logits"], batch["label"]), batch)
        metrics = {"loss": (total, count), "accuracy": accuracy(outputs, batch)}
        return total / jnp.maximum(count, 1.0), Aux(variables, metrics, outputs)

    return Objective(model.init, objective_loss, model.predict)
