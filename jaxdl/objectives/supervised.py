"""Supervised classification: a mean loss of logits against labels."""

from collections.abc import Callable
from typing import Annotated

import jax.numpy as jnp

from jaxdl.config import NonNegative
from jaxdl.errors import UserError
from jaxdl.losses.cross_entropy import cross_entropy
from jaxdl.metrics.classification import correct, masked
from jaxdl.objectives.base import Model, on_target
from jaxdl.registry import Of, register
from jaxdl.types import Array, Aux, Batch, Objective, PyTree

Loss = Annotated[Callable[[Array, Array], Array], Of("losses")]


@register("objectives", mixed=True)
def supervised(
    model: Model,
    /,
    *,
    loss: Loss = cross_entropy,
    auxiliary_weight: NonNegative = 0.3,
    target: str = "label",
) -> Objective:
    """Minimise the mean over valid examples of `loss(logits, label)`.

    A label is one class, or what else the loss takes: any number of classes, probabilities,
    numbers.

    Of a mixture of two examples it is the mean of both labels' losses, weighed by `lam` and
    1 - `lam`: for cross-entropy the same as the loss of the mixed labels. The accuracy is that of
    the label with the larger weight.

    Args:
        model: what gives the logits.
        loss: of one example.
        auxiliary_weight: of the loss of each auxiliary head, in models that have such heads:
            https://arxiv.org/abs/1409.4842, section 5. Only training knows of them.
        target: key of the batch that is learned as the label.
    """

    def of_labels(logits: Array, batch: Batch) -> Array:
        values = loss(logits, batch["label"])
        if "mixed_label" not in batch:
            return values
        # l = s loss(y, a) + (1 - s) loss(y, b)
        lam = batch["lam"]
        return lam * values + (1 - lam) * loss(logits, batch["mixed_label"])

    def objective_loss(params: PyTree, variables: PyTree, batch: Batch, key: Array):
        outputs, variables = model.train(params, variables, batch, key)
        if outputs["logits"].ndim == 4 and batch["label"].ndim < 3:
            raise UserError(
                f"the model gives a map of logits, {outputs['logits'].shape}, for one label an "
                "example: train it with config.model.convolutional=false, and convert its "
                "parameters by jaxdl.nn.dense.to_convolutional"
            )
        # L = l(y) + weight sum_i l(y_i), y_i the auxiliary logits
        values = of_labels(outputs["logits"], batch)
        for logits in outputs.get("auxiliary_logits", ()):
            values = values + auxiliary_weight * of_labels(logits, batch)
        total, count = masked(values, batch)
        metrics = {"loss": (total, count)}
        if batch["label"].ndim == 1 and jnp.issubdtype(batch["label"].dtype, jnp.integer):
            metrics["accuracy"] = correct(outputs, _by_larger_weight(batch))
        return total / jnp.maximum(count, 1.0), Aux(variables, metrics, outputs)

    return on_target(Objective(model.init, objective_loss, model.predict), target)


def _by_larger_weight(batch: Batch) -> Batch:
    if "mixed_label" not in batch:
        return batch
    label = jnp.where(batch["lam"] >= 0.5, batch["label"], batch["mixed_label"])
    return {**batch, "label": label}
