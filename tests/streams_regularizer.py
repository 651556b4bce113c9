"""A regularizer for tests: the objective's loss on a further stream."""

import jax.numpy as jnp

from jaxdl.registry import register
from jaxdl.types import Objective


@register("regularizers")
def on_stream(
    objective: Objective,
    /,
    *,
    stream: str = "target",
    view: str | None = None,
) -> Objective:
    """Adds the loss on a stream's images, whose labels are 0 where it has none."""

    def loss(params, variables, batch, key):
        value, aux = objective.loss(params, variables, batch, key)
        seen = batch[stream][view] if view else batch[stream]
        label = seen.get("label", jnp.zeros(seen["image"].shape[0], jnp.int32))
        inner = {**batch, "image": seen["image"], "label": label}
        other, more = objective.loss(params, aux.variables, inner, key)
        metrics = aux.metrics | {"stream_loss": more.metrics["loss"]}
        return value + 0.5 * other, aux._replace(variables=more.variables, metrics=metrics)

    return objective._replace(loss=loss)
