"""An objective of somebody's own, loaded by --import: soft labels of a frozen teacher."""

import jax
import jax.numpy as jnp

from jaxdl.config import NonNegative
from jaxdl.metrics.segmentation import weighted
from jaxdl.objectives.features import add_penalty
from jaxdl.objectives.frozen_model import Frozen
from jaxdl.registry import register
from jaxdl.types import Objective, mask_of


@register("regularizers")
def soft_labels(objective: Objective, /, *, teacher: Frozen, weight: NonNegative = 1.0):
    """Add the cross-entropy with a teacher's probabilities."""

    def init(key, batch):
        params, variables = objective.init(key, batch)
        return params, teacher.init(key, batch, variables)

    def loss(params, variables, batch, key):
        value, aux = objective.loss(params, variables, batch, key)
        soft = jax.nn.softmax(teacher.predict(variables, batch)["logits"])
        values = -jnp.sum(soft * jax.nn.log_softmax(aux.outputs["logits"]), axis=-1)
        penalty = weighted(values, mask_of(batch))
        return add_penalty(value, aux, penalty, weight=weight, name="soft_labels")

    return objective._replace(init=init, loss=loss)


@register("regularizers")
def unlucky(objective: Objective, /, *, probability: float):
    """Make the loss of some steps, by their keys, not a number."""

    def loss(params, variables, batch, key):
        value, aux = objective.loss(params, variables, batch, key)
        return jnp.where(jax.random.uniform(key) < probability, jnp.nan, value), aux

    return objective._replace(loss=loss)
