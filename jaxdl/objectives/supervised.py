"""Supervised classification: a mean loss of logits against labels."""

from collections.abc import Callable
from typing import Annotated

import jax.numpy as jnp

from jaxdl.config import NonNegative
from jaxdl.losses.cross_entropy import cross_entropy
from jaxdl.metrics.classification import accuracy, masked
from jaxdl.objectives.base import Model
from jaxdl.registry import Of, register
from jaxdl.types import Array, Aux, Batch, Objective, PyTree

Loss = Annotated[Callable[[Array, Array], Array], Of("losses")]


@register("objectives")
def supervised(
    model: Model, /, *, loss: Loss = cross_entropy, auxiliary_weight: NonNegative = 0.3
) -> Objective:
    """Minimise the mean over valid examples of `loss(logits, label)`.

    Args:
        model: what gives the logits.
        loss: of one example.
        auxiliary_weight: of the loss of each auxiliary head, in models that have such heads:
            https://arxiv.org/abs/1409.4842, section 5. Only training knows of them.
    """

    def objective_loss(params: PyTree, variables: PyTree, batch: Batch, key: Array):
        outputs, variables = model.train(params, variables, batch, key)
        # L = loss(y, label) + weight sum_i loss(y_i, label), y_i the auxiliary logits
        values = loss(outputs["logits"], batch["label"])
        for logits in outputs.get("auxiliary_logits", ()):
            values = values + auxiliary_weight * loss(logits, batch["label"])
        total, count = masked(values, batch)
        metrics = {"loss": (total, count), "accuracy": accuracy(outputs, batch)}
        return total / jnp.maximum(count, 1.0), Aux(variables, metrics, outputs)

    return Objective(model.init, objective_loss, model.predict)
