"""Center loss: features of a class gather around its centre.

A Discriminative Feature Learning Approach for Deep Face Recognition. Wen, Zhang, Li, Qiao 2016.
https://doi.org/10.1007/978-3-319-46478-7_31
What differs: means over the batch stand for the paper's sums, in the joint loss and so in the
weight; centres begin at 0.
"""

from typing import Annotated

import jax
import jax.numpy as jnp
import msgspec

from jaxdl.config import NonNegative
from jaxdl.metrics.segmentation import weighted
from jaxdl.objectives.base import put
from jaxdl.objectives.features import add_penalty, pool_features, unmixed_mask
from jaxdl.registry import register
from jaxdl.types import EXTRA, Array, Batch, Objective, PyTree

CENTERS = "centers"
"""The entry of the extra variables that holds one centre a class, (k, d) float32."""


@register("regularizers", target=("classes",))
def center_loss(
    objective: Objective,
    /,
    *,
    weight: NonNegative = 0.003,
    alpha: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5,
) -> Objective:
    """Add the squared distance of features from their class's centre, and move the centres.

    L + weight / 2 mean_i ||x_i - c_{y_i}||^2. The centres have no gradient; each step moves them
    towards their class's features of this batch. Micro-batches of an accumulated batch move them
    one after the other. Mixed examples, whose `lam` is below 1, have no one centre: they feel no
    pull and move none, so where every example is a mixture the metric is 0 / 0.

    Args:
        objective: whose outputs have logits (b, k), and features (b, d) or (b, h, w, d).
        weight: the paper's lambda; the metric 'center_loss' is without it.
        alpha: how far the centres move.
    """

    def init(key: Array, batch: Batch) -> tuple[PyTree, PyTree]:
        params, variables = objective.init(key, batch)
        _, aux = jax.eval_shape(objective.loss, params, variables, batch, key)
        width = jax.eval_shape(pool_features, aux.outputs).shape[-1]
        classes = aux.outputs["logits"].shape[-1]
        return params, put(variables, EXTRA, CENTERS, jnp.zeros((classes, width), jnp.float32))

    def loss(params: PyTree, variables: PyTree, batch: Batch, key: Array):
        centers = variables[EXTRA][CENTERS]
        value, aux = objective.loss(params, variables, batch, key)
        mask, x = unmixed_mask(batch), pool_features(aux.outputs)
        gap = jnp.where(mask[:, None] > 0, x - centers[batch["label"]], 0.0)
        # L_C = 1/2 ||x_i - c_{y_i}||^2
        penalty = weighted(jnp.sum(gap**2, axis=-1) / 2, mask)
        value, aux = add_penalty(value, aux, penalty, weight=weight, name="center_loss")
        moved = centers + alpha * _pull(gap, batch["label"], mask, len(centers))
        return value, aux._replace(variables=put(aux.variables, EXTRA, CENTERS, moved))

    return objective._replace(init=init, loss=loss)


def _pull(gap: Array, label: Array, mask: Array, classes: int) -> Array:
    """-delta_c_j = sum_i [y_i = j] (x_i - c_j) / (1 + sum_i [y_i = j]), (k, d)."""
    member = jax.nn.one_hot(label, classes) * mask[:, None]
    total = jnp.matmul(member.T, gap, precision=jax.lax.Precision.HIGHEST)
    return total / (1 + jnp.sum(member, axis=0)[:, None])
