"""First value that is not finite: the layer, the gradient or the update that holds it.

The step at hand is done again outside of any compiled program, module by module. That takes seconds
and is done when a run has diverged, or when somebody asks.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdl import tree
from jaxdl.train.gradients import accumulate_grads, scaled
from jaxdl.train.sharding import fetch
from jaxdl.train.state import TrainState
from jaxdl.types import Array, Batch, Objective, PyTree


def first_nonfinite(
    objective: Objective,
    tx: optax.GradientTransformationExtraArgs,
    state: TrainState,
    batch: Batch,
    step: int,
    *,
    micro_batches: int = 1,
    examples: Mapping[str, Sequence[int] | np.ndarray] | None = None,
) -> str | None:
    """The first value that is not finite when this state takes this step, in words; None if none.

    In order: parameters, the batch, modules in the order in which they finish, so that the
    innermost comes first, the loss, its gradient, the update.

    Args:
        objective: what is minimised.
        tx: how parameters move.
        state: from before the step, or after it where it was skipped.
        batch: of the step.
        step: its number; randomness follows from it.
        micro_batches: how many the batch is cut into.
        examples: the number of each example of the batch, to name those that are not finite, by
            stream, '' the main one.
    """
    for name, leaf in tree.flatten({"params": state.params, **state.all_variables}).items():
        if not _finite(leaf):
            return f"{name} before the step"
    for name, values in tree.flatten(batch).items():
        if not _finite(values):
            whose = _whose(values, (examples or {}).get(name.rpartition("/")[0]))
            return f"'{name}' of the batch{whose}"
    key = jax.random.fold_in(state.key, step)
    variables = state.all_variables
    for i in range(micro_batches):
        part, own = batch, key
        if micro_batches > 1:
            part = jax.tree.map(lambda x, i=i: x[i::micro_batches], batch)
            own = jax.random.fold_in(key, jnp.uint32(i))
        found, variables = _forward(objective, state.params, variables, part, own)
        if found:
            return found
    return _backward(objective, tx, state, batch, key, micro_batches)


def _forward(
    objective: Objective, params: PyTree, variables: PyTree, batch: Batch, key: Array
) -> tuple[str | None, PyTree]:
    found: list[str] = []
    calls: Counter[str] = Counter()

    def look(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        out = call(*args, **kwargs)
        if found or context.method_name != "__call__":
            return out
        path = "/".join(context.module.path)
        calls[path] += not _traced(out)
        if not _finite(out) and _finite((args, kwargs)):
            again = f", call {calls[path]}" if calls[path] > 1 else ""
            found.append(f"the output of {path} ({type(context.module).__name__}{again})")
        return out

    # A scan is then a loop, in which each turn is seen.
    with jax.disable_jit(), nn.intercept_methods(look):
        loss, aux = objective.loss(params, variables, batch, key)
    if found:
        return found[0], aux.variables
    if not _finite(loss):
        return "the loss, of finite outputs", aux.variables
    for name, leaf in tree.flatten(aux.variables).items():
        if not _finite(leaf):
            return f"{name} after the step", aux.variables
    return None, aux.variables


def _backward(
    objective: Objective,
    tx: optax.GradientTransformationExtraArgs,
    state: TrainState,
    batch: Batch,
    key: Array,
    micro_batches: int,
) -> str | None:
    method = accumulate_grads(micro_batches)
    if state.loss_scale is not None:
        method = scaled(method, state.loss_scale.value)
    take = method(objective.loss)

    @jax.jit
    def gradients_at(state: TrainState, batch: Batch) -> tuple[PyTree, PyTree]:
        (loss, _), grads = take(state.params, state.all_variables, batch, key)
        second = lambda params: take(params, state.all_variables, batch, key)[1]
        given = {"value": loss, "grad_fn": second}
        return grads, tx.update(grads, state.opt_state, state.params, **given)[0]

    for what, values in zip(("gradient", "update"), gradients_at(state, batch), strict=True):
        for name, leaf in tree.flatten(values).items():
            if not _finite(leaf):
                return f"the {what} of {name}"
    return None


def _traced(values: PyTree) -> bool:
    return any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(values))


def _finite(values: PyTree) -> bool:
    """True if all numbers are finite; traced values count as finite."""

    def one(x: Any) -> bool:
        if not isinstance(x, jax.Array) or isinstance(x, jax.core.Tracer):
            return True
        is_float = jnp.issubdtype(x.dtype, jnp.inexact)
        return not is_float or bool(fetch(jnp.all(jnp.isfinite(x))))

    return all(one(x) for x in jax.tree.leaves(values))


def _whose(values: Array, examples: Sequence[int] | np.ndarray | None) -> str:
    """', examples 12 and 40 of the split', where this process has them all."""
    if examples is None or not values.is_fully_addressable:
        return ""
    wrong = ~np.isfinite(np.asarray(values)).reshape(len(values), -1).all(1)
    numbers = np.unique(np.asarray(examples)[wrong])
    shown = ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")
    return f", in the training examples {shown}"
