"""The train step: joins objective, gradient method and optimizer; alone applies updates."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax

from jaxdl.train.gradients import GradientMethod, Loss, full_batch_grad, scaled
from jaxdl.train.precision import LossScale, Scale, next_scale
from jaxdl.train.sharding import replicated
from jaxdl.train.state import TrainState, averaged, split_constant
from jaxdl.types import CONSTANT, Array, Aux, Batch, Metrics, MultiStepBatch, Objective, PyTree

SMALL = 2**12
"""Numbers of a leaf that shares its norm's program with others."""

Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def make_step(
    objective: Objective,
    tx: optax.GradientTransformationExtraArgs,
    gradient: GradientMethod = full_batch_grad,
    *,
    average: Callable[[Array], Array] | None = None,
    loss_scale: LossScale | None = None,
    skip_nonfinite: bool = True,
) -> Step:
    """A pure function (state, batch) -> (next state, metrics as (sum, count)).

    Besides the objective's own, the metrics hold the global norms of gradient, parameters and
    update. Randomness is a function of the run's key and the step alone.

    Args:
        objective: what is minimised.
        tx: how parameters move.
        gradient: how the gradient is taken.
        average: steps done -> the fraction that the newest weights take in their running average.
        loss_scale: for float16, how the number that multiplies the loss moves.
        skip_nonfinite: where the gradient is not finite, change nothing but the step and the loss
            scale, and count it in the metric 'skipped'; the other metrics of that step count 0.
    """
    tx = optax.with_extra_args_support(tx)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        scale = cast(Scale, state.loss_scale)  # there wherever the step has a rule for it
        method = gradient if loss_scale is None else scaled(gradient, scale.value)
        take = method(_given(objective.loss, state.constant))
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
        metrics = aux.metrics | {k: (_norm(v), one) for k, v in norms.items()}
        new = dataclasses.replace(
            state, params=params, variables=aux.variables, opt_state=opt_state
        )
        if average is not None:
            fraction = average(state.step)
            latest = averaged(params, aux.variables)
            new = dataclasses.replace(
                new, average=jax.tree.map(lambda a, x: _lerp(a, x, fraction), state.average, latest)
            )
        if skip_nonfinite or loss_scale is not None:
            # A norm is finite only if all that it is taken of is; SAM's second gradient shows in
            # the update.
            sizes = jnp.stack([loss, *(metrics[name][0] for name in norms)])
            finite = jnp.all(jnp.isfinite(sizes))
            new = _select(finite, new, state)
            metrics = jax.tree.map(lambda x: jnp.where(finite, x, jnp.zeros_like(x)), metrics)
            metrics["skipped"] = (1 - finite.astype(jnp.float32), one)
            if loss_scale is not None:
                new = dataclasses.replace(new, loss_scale=next_scale(loss_scale, scale, finite))
                metrics["loss_scale"] = (scale.value, one)
        return dataclasses.replace(new, step=state.step + 1), metrics

    return step


def _given(loss: Loss, constant: PyTree | None) -> Loss:
    """The loss of variables without the constants, which no gradient method has to carry."""
    if constant is None:
        return loss

    def of_moving(params: PyTree, variables: PyTree, batch: Batch, key: Array) -> tuple[Array, Aux]:
        value, aux = loss(params, {**variables, CONSTANT: constant}, batch, key)
        return value, aux._replace(variables=split_constant(aux.variables)[0])

    return of_moving


def _norm(tree: PyTree) -> Array:
    # Most leaves are biases and scales. One sum for each of them, three times, took 2 of the 13 s
    # that ResNet-50's step compiled on CPU.
    leaves = jax.tree.leaves(tree)
    small = [x.ravel() for x in leaves if x.size <= SMALL]
    large = [x for x in leaves if x.size > SMALL]
    norm: Array = optax.tree.norm([*large, jnp.concatenate(small)] if small else large)
    return norm


def multi_step(step: Step) -> Callable[[TrainState, MultiStepBatch], tuple[TrainState, Metrics]]:
    """Several steps as one program, for networks whose step is over before it is asked for.

    Metrics are those of all its steps, added up.
    """

    def steps(state: TrainState, run: MultiStepBatch) -> tuple[TrainState, Metrics]:
        constant = state.constant

        def body(i: Array, carry: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
            state, sums = carry
            state, metrics = step(dataclasses.replace(state, constant=constant), run.batch(i))
            return dataclasses.replace(state, constant=None), jax.tree.map(jnp.add, sums, metrics)

        shapes = jax.eval_shape(lambda s: step(s, run.batch(jnp.int32(0)))[1], state)
        sums = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        first = dataclasses.replace(state, constant=None)
        end: tuple[TrainState, Metrics] = jax.lax.fori_loop(0, run.steps, body, (first, sums))
        return dataclasses.replace(end[0], constant=constant), end[1]

    return steps


def _select(finite: Array, new: TrainState, old: TrainState) -> TrainState:
    moved = ("params", "variables", "opt_state", "average")

    def pick(x: PyTree, y: PyTree) -> PyTree:
        return jax.tree.map(lambda a, b: jnp.where(finite, a, b), x, y)

    picked = {name: pick(getattr(new, name), getattr(old, name)) for name in moved}
    return dataclasses.replace(new, **picked)


def _lerp(average: Array, new: Array, fraction: Array) -> Array:
    # a = a + fraction (x - a), and x itself where fraction is 1 or where nothing has moved
    if not jnp.issubdtype(new.dtype, jnp.floating):
        return new
    return jnp.where(new == average, new, (1 - fraction) * average + fraction * new)


def compile_step(step: Step, state: TrainState) -> Step:
    """The step jitted: the state donated and kept where it lives, metrics on every device.

    Constants are an argument of their own, which is not donated.
    """
    shardings = jax.tree.map(lambda x: x.sharding, dataclasses.replace(state, constant=None))
    everywhere = replicated(jax.tree.leaves(shardings)[0].mesh)
    compiled = partial(jax.jit, donate_argnums=0, out_shardings=(shardings, everywhere))
    if state.constant is None:
        return cast(Step, compiled(step))

    def moving(state: TrainState, constant: PyTree, batch: Batch) -> tuple[TrainState, Metrics]:
        state, metrics = step(dataclasses.replace(state, constant=constant), batch)
        return dataclasses.replace(state, constant=None), metrics

    return _BesideConstants(compiled(moving))


class _BesideConstants:
    """A step at any stage of compilation, called as others are: with a state that has constants."""

    def __init__(self, stage: Any):
        self._stage = stage

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stage, name)

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        new, metrics = self._stage(dataclasses.replace(state, constant=None), state.constant, batch)
        return dataclasses.replace(new, constant=state.constant), metrics

    def lower(self, state: TrainState, batch: PyTree) -> "_BesideConstants":
        return _BesideConstants(
            self._stage.lower(dataclasses.replace(state, constant=None), state.constant, batch)
        )

    def compile(self, *options: Any) -> "_BesideConstants":
        return _BesideConstants(self._stage.compile(*options))
