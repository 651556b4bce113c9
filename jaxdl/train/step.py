"""The step: objective, gradient taker and optimizer joined. The only place that applies updates."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from jaxdl.train.gradients import Taker, plain
from jaxdl.train.sharding import replicated
from jaxdl.train.state import TrainState
from jaxdl.types import Array, Batch, Metrics, Objective, PyTree

Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def make_step(
    objective: Objective,
    tx: optax.GradientTransformationExtraArgs,
    gradient: Taker = plain,
    *,
    ema_decay: float | None = None,
) -> Step:
    """A pure function (state, batch) -> (next state, metrics as (sum, count)).

    Besides the objective's own, the metrics hold the global norms of gradient, parameters and
    update. Randomness is a function of the run's key and the step alone.
    """
    take = gradient(objective.loss)
    tx = optax.with_extra_args_support(tx)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        (loss, aux), grads = take(state.params, state.variables, batch, key)

        def grad_fn(params: PyTree) -> PyTree:
            # The same batch, key and variables: only the point differs.
            return take(params, state.variables, batch, key)[1]

        updates, opt_state = tx.update(
            grads, state.opt_state, state.params, value=loss, grad_fn=grad_fn
        )
        params = optax.apply_updates(state.params, updates)
        norms = {"gradient_norm": grads, "parameter_norm": params, "update_norm": updates}
        one = jnp.ones((), jnp.float32)
        metrics = aux.metrics | {k: (optax.tree.norm(v), one) for k, v in norms.items()}
        state = state.replace(
            step=state.step + 1,
            params=params,
            variables=aux.variables,
            opt_state=opt_state,
            ema=_average(state, params, aux.variables, ema_decay),
        )
        return state, metrics

    return step


def _average(
    state: TrainState, params: PyTree, variables: PyTree, decay: float | None
) -> PyTree | None:
    if decay is None:
        return None
    # ema = d ema + (1 - d) x, with d = min(decay, (1 + t) / (10 + t)) so that early averages
    # are not dominated by the initial weights (as tf.train.ExponentialMovingAverage).
    t = state.step.astype(jnp.float32)
    d = jnp.minimum(decay, (1 + t) / (10 + t))
    new = {"params": params, "variables": variables}
    return jax.tree.map(lambda old, x: _mix(old, x, d), state.ema, new)


def _mix(old: Array, new: Array, d: Array) -> Array:
    return d * old + (1 - d) * new if jnp.issubdtype(new.dtype, jnp.floating) else new


def compile_step(step: Step, state: TrainState) -> Step:
    """The step jitted: the state donated and kept where it lives, metrics on every device."""
    places = jax.tree.map(lambda x: x.sharding, state)
    everywhere = replicated(jax.tree.leaves(places)[0].mesh)
    return jax.jit(step, donate_argnums=0, out_shardings=(places, everywhere))
