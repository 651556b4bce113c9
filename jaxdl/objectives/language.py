"""Language modelling and, for a model that also reads a source, translation by teacher forcing."""

import jax
import jax.numpy as jnp

from jaxdl.losses.cross_entropy import cross_entropy
from jaxdl.metrics.language import correct_successors, over_successors
from jaxdl.objectives.base import Model
from jaxdl.objectives.supervised import Loss
from jaxdl.registry import register
from jaxdl.types import Array, Aux, Batch, Objective, PyTree


@register("objectives", unit="token")
def language(model: Model, /, *, loss: Loss = cross_entropy) -> Objective:
    """Minimise the mean, over tokens but the first, of `loss(logits of the place before, token)`.

    Padding, and examples that the batch's mask takes out, count for nothing. The perplexity is
    e to the metric 'loss', as long as that is the cross-entropy without smoothing.
    """

    def objective_loss(params: PyTree, variables: PyTree, batch: Batch, key: Array):
        outputs, variables = model.train(params, variables, batch, key)
        # L = -mean_j log p(token_j+1 | token_0 ... token_j)
        values = jax.vmap(loss, 1, 1)(outputs["logits"][:, :-1], batch["tokens"][:, 1:])
        total, count = over_successors(values, batch)
        metrics = {"loss": (total, count), "accuracy": correct_successors(outputs, batch)}
        return total / jnp.maximum(count, 1.0), Aux(variables, metrics, outputs)

    return Objective(model.init, objective_loss, model.predict)
