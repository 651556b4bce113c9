"""A refresh of somebody's own, loaded by --import, and the objective that it is for."""

import os
import signal

import jax.numpy as jnp
import numpy as np

from jaxdl.config import Duration
from jaxdl.objectives.base import put
from jaxdl.registry import register
from jaxdl.train.refresh import Refresh
from jaxdl.types import EXTRA, Objective


@register("regularizers")
def scaled_loss(objective: Objective, /):
    """Multiply the loss by a number that only refreshes change."""

    def init(key, batch):
        params, variables = objective.init(key, batch)
        return params, put(variables, EXTRA, "scale", jnp.ones(()))

    def loss(params, variables, batch, key):
        value, aux = objective.loss(params, variables, batch, key)
        scale = variables[EXTRA]["scale"]
        return value * scale, aux._replace(metrics=aux.metrics | {"scale": (scale, jnp.ones(()))})

    return objective._replace(init=init, loss=loss)


@register("refreshes")
def measured_scale(*, every: Duration = "1 epoch", kill: int = 0, value: str = "") -> Refresh:
    """Set the number from the losses so far, the parameters, and the training examples."""

    def extra(state, measurements, batches):
        if kill and int(state.step) == kill and "LETHAL" in os.environ:
            os.kill(os.getpid(), signal.SIGKILL)
        seen = [v for line in measurements for k, v in sorted(line.items()) if k != "step"]
        pixels = sum(float(np.sum(batch["image"])) for batch in batches("validation"))
        weights = float(jnp.sum(state.params["head"]["logits"]["kernel"] ** 2))
        number = 1 + 0.1 * np.sin(np.sum(seen) + pixels + weights)
        new = {"shape": jnp.ones(3), "type": 1}.get(value, jnp.float32(number))
        return {"scale" if value != "name" else "scales": new}

    return Refresh(every, extra)
