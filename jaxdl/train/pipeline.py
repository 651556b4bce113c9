"""Pipelines: gradient methods that send micro-batches through the stages of a network in turn.

The blocks of a network are split over the mesh's axis `stage`, and what one stage makes of a
micro-batch travels to the next while it turns to another. All stages run one program over the
ticks of a schedule (`pipeline_schedule.py`): at each tick a forward pass, a backward pass, both or
none. A stage keeps what it read, and computes its blocks again in the backward pass. What comes
before and after the blocks (`pipeline_cut.py`) is computed by every stage, with weights gathered
whole, and counts at the first and the last, for which the others would wait anyway. Over `data`
every stage is split as the whole network would be; over `fsdp` and `tensor`, its blocks are.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxdl.errors import UserError
from jaxdl.registry import register
from jaxdl.train import pipeline_schedule
from jaxdl.train.gradients import GradFn, GradientMethod, Loss, split_microbatches
from jaxdl.train.pipeline_cut import Cut, Values, cut
from jaxdl.train.pipeline_schedule import Schedule
from jaxdl.types import Array, Aux, Batch, PyTree

AXIS = "stage"


@register("gradient_methods")
def gpipe(micro_batches: int, mesh: Mesh, /) -> GradientMethod:
    """Stages of blocks: all forward passes, then all backward passes.

    Huang et al. 2019. https://arxiv.org/abs/1811.06965. A stage holds what it read of every
    micro-batch.
    """
    return _pipeline("gpipe", pipeline_schedule.gpipe, micro_batches, mesh)


@register("gradient_methods")
def one_f_one_b(micro_batches: int, mesh: Mesh, /) -> GradientMethod:
    """Stages of blocks: one forward pass, one backward pass in turn (1F1B).

    Narayanan et al. 2020. https://arxiv.org/abs/2006.09503. As fast as `gpipe`, and what a stage
    holds does not grow with the number of micro-batches.
    """
    return _pipeline("one_f_one_b", pipeline_schedule.one_f_one_b, micro_batches, mesh)


def _pipeline(
    name: str, plan: Callable[[int, int], Schedule], micro_batches: int, mesh: Mesh
) -> GradientMethod:
    stages = mesh.shape[AXIS]
    if stages < 2:
        raise UserError(f"gradient method '{name}' needs config.mesh.stage of 2 or more")
    if micro_batches < stages:
        raise UserError(
            f"gradient method '{name}' needs as many micro-batches as stages: "
            f"config.gradient.accumulate={stages} or more"
        )
    return partial(pipelined, plan(stages, micro_batches), mesh)


def pipelined(schedule: Schedule, mesh: Mesh, loss: Loss) -> GradFn:
    """The gradient that `accumulate_grads` computes, from a pipeline of stages.

    Args:
        schedule: of the passes of all micro-batches.
        mesh: with as many stages as the schedule has.
        loss: of a network of one stack of equal blocks; reports Aux.metrics['loss'].
    """
    n, stages = int(schedule.forward.max()) + 1, mesh.shape[AXIS]

    def grad_fn(params: PyTree, variables: PyTree, batch: Batch, key: Array):
        micro = split_microbatches(batch, n)
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(n, dtype=jnp.uint32))
        pieces = cut(loss, params, variables, jax.tree.map(lambda x: x[0], micro), key)
        if pieces.depth % stages:
            raise UserError(
                f"config.mesh.stage {stages} does not divide the network's {pieces.depth} blocks"
            )
        run = jax.shard_map(
            partial(_stage, schedule, pieces),
            mesh=mesh,
            axis_names={AXIS},
            in_specs=(P(AXIS), P(None, AXIS), P(AXIS), P(), P(), P(), P()),
            out_specs=P(AXIS),
            check_vma=False,
        )
        numbers = jnp.arange(stages, dtype=jnp.int32)
        table = jnp.stack([schedule.forward, schedule.backward], axis=-1)
        fixed, pull = jax.vjp(pieces.fixed, params)
        rows, rest, last = run(numbers, table, *fixed, variables, micro, keys)
        # Of what all stages share, each has the gradient of what it did with it.
        grads = (rows, [g.sum(0) for g in rest])
        (grads,) = pull(jax.tree.map(lambda g, w: g.astype(w.dtype), grads, fixed))
        (value, metrics), variables = jax.tree.map(lambda x: x[-1], last)
        total = jnp.maximum(metrics["loss"][1], 1.0)
        value, grads = jax.tree.map(lambda x: x / total, (value, grads))
        return (value, Aux(variables, metrics, {})), grads

    return grad_fn


class _Carry(NamedTuple):
    """State of a stage between two ticks."""

    x: Array
    """what the stage before made at the last tick"""
    d_y: Array
    """the gradient that the stage after made at the last tick"""
    slots: Array
    """what was read of micro-batches whose backward pass is to come"""
    grads: tuple[Values, Values]
    """sums over micro-batches, to rows and rest"""
    sums: PyTree
    """(loss times examples, metrics), at the last stage"""
    variables: PyTree
    """as the last micro-batch left them, at the last stage"""


def _stage(
    schedule: Schedule,
    pieces: Cut,
    number: Array,
    table: Array,
    rows: Values,
    rest: Values,
    variables: PyTree,
    micro: Batch,
    keys: Array,
) -> tuple[Values, Values, PyTree]:
    """All that one stage does: gradients to its rows; to the rest (1, ...); (sums, variables)."""
    number, stages = number[0], schedule.forward.shape[1]
    is_first, is_last = number == 0, number == stages - 1

    def own(carry: _Carry, i: Array) -> Values:
        return pieces.own(carry.variables, jax.tree.map(lambda x: x[i], micro), keys[i])

    def before(inputs: Values, rest: Values) -> Array:
        return pieces.before(_whole(rest), inputs)

    def blocks(inputs: Values, rows: Values, rest: Values, x: Array) -> Array:
        return pieces.blocks(rows, rest, inputs, number * rows[0].shape[0], x)

    def weighted(inputs: Values, rest: Values, y: Array) -> tuple[Array, PyTree]:
        value, aux = pieces.after(_whole(rest), inputs, y)
        value = value * jax.lax.stop_gradient(aux.metrics["loss"][1])
        return value, ((value, aux.metrics), aux.variables)

    def forward(carry: _Carry, i: Array) -> Array:
        inputs = own(carry, i)
        x = jnp.where(is_first, before(inputs, rest), carry.x)
        return blocks(inputs, rows, rest, x)

    def backward(carry: _Carry, i: Array) -> tuple[_Carry, Array]:
        inputs = own(carry, i)
        x, pull_before = jax.vjp(partial(before, inputs), rest)
        x = jnp.where(is_first, x, carry.slots[i % schedule.slots])
        y, pull_blocks = jax.vjp(partial(blocks, inputs), rows, rest, x)
        value, pull_after, (sums, variables) = jax.vjp(
            partial(weighted, inputs), rest, y, has_aux=True
        )
        of_after, d_y = pull_after(jnp.ones_like(value))
        of_rows, of_blocks, d_x = pull_blocks(jnp.where(is_last, d_y, carry.d_y))
        (of_before,) = pull_before(d_x)
        works = i >= 0
        at_last = partial(_add, works & is_last)
        of_rest = jax.tree.map(at_last, carry.grads[1], of_after)
        of_rest = jax.tree.map(partial(_add, works), of_rest, of_blocks)
        of_rest = jax.tree.map(partial(_add, works & is_first), of_rest, of_before)
        return carry._replace(
            grads=(jax.tree.map(partial(_add, works), carry.grads[0], of_rows), of_rest),
            sums=jax.tree.map(at_last, carry.sums, sums),
            variables=jax.tree.map(partial(jnp.where, works & is_last), variables, carry.variables),
        ), d_x

    def tick(carry: _Carry, planned: Array) -> tuple[_Carry, None]:
        (i, j), (any_forward, any_backward) = planned
        at = i % schedule.slots
        kept = jnp.where(i >= 0, carry.x, carry.slots[at])
        carry = carry._replace(slots=carry.slots.at[at].set(kept))
        nothing = jnp.zeros_like(carry.x)
        y = jax.lax.cond(any_forward, lambda: forward(carry, i), lambda: nothing)
        carry, d_x = jax.lax.cond(
            any_backward, lambda: backward(carry, j), lambda: (carry, nothing)
        )
        onwards = [(s, s + 1) for s in range(stages - 1)]
        return carry._replace(
            x=jax.lax.ppermute(y, AXIS, onwards),
            d_y=jax.lax.ppermute(d_x, AXIS, [(b, a) for a, b in onwards]),
        ), None

    zeros = lambda s: jnp.zeros(s.shape, s.dtype)
    wide = lambda w: jnp.zeros(w.shape, jnp.promote_types(w.dtype, jnp.float32))
    inputs = pieces.own(variables, jax.tree.map(lambda x: x[0], micro), keys[0])
    x = zeros(jax.eval_shape(before, inputs, rest))
    carry = _Carry(
        x=x,
        d_y=x,
        slots=jnp.zeros((schedule.slots, *x.shape), x.dtype),
        grads=jax.tree.map(wide, (rows, rest)),
        sums=jax.tree.map(zeros, jax.eval_shape(weighted, inputs, rest, x)[1][0]),
        variables=variables,
    )
    # Whether any stage has such a pass at a tick: all take the same way, as they must where other
    # axes of the mesh make them speak to each other. One that has none computes for nobody.
    busy = jnp.stack([(t >= 0).any(1) for t in (schedule.forward, schedule.backward)], axis=-1)
    carry, _ = jax.lax.scan(tick, carry, (table[:, 0], busy))
    shared = jax.tree.map(lambda x: x[None], (carry.grads[1], (carry.sums, carry.variables)))
    return carry.grads[0], *shared


def _add(counts: Array, total: Array, more: Array) -> Array:
    return total + jnp.where(counts, more, jnp.zeros_like(more)).astype(total.dtype)


def _whole(rest: Values) -> Values:
    # XLA's partitioner (jax 0.10.2) aborts on a gather from logits that are split by classes, which
    # is how a loss picks the label's.
    return [jax.lax.with_sharding_constraint(x, P()) for x in rest]
