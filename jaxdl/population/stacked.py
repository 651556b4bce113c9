"""States of members side by side along axis 0, with one copy of constants for all of them."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxdl.train.sharding import AXES, replicated
from jaxdl.train.state import TrainState
from jaxdl.types import Array, PyTree


def mesh_of(members: int) -> Mesh:
    """As many devices as hold equal numbers of members."""
    devices = jax.devices()
    size = max(d for d in range(1, len(devices) + 1) if members % d == 0)
    shape = (size, *[1] * (len(AXES) - 1))
    kinds = (AxisType.Auto,) * len(AXES)
    return Mesh(np.asarray(devices[:size]).reshape(shape), AXES, axis_types=kinds)


def places(states: TrainState, mesh: Mesh) -> TrainState:
    """Shardings: members over the devices, constants whole on each of them."""
    member = NamedSharding(mesh, PartitionSpec(AXES[0]))
    constant = jax.tree.map(lambda _: replicated(mesh), states.constant)
    moving = jax.tree.map(lambda _: member, states.replace(constant=None))
    return moving.replace(constant=constant)


def rows_of(states: TrainState, rows: int | np.ndarray) -> TrainState:
    """The state of one member by its row, or those of several."""
    moving = jax.tree.map(lambda x: x[rows], states.replace(constant=None))
    return moving.replace(constant=states.constant)


def over_members(
    function: Callable[..., PyTree], states: TrainState, *args: Any, in_axes: Any = 0
) -> PyTree:
    """`jax.vmap` of a function of one member's state, which may return a state too.

    Args:
        function: called as (state, *args).
        states: of all members.
        args: mapped by `in_axes`.
        in_axes: of the state, always 0, and of the arguments.
    """
    constant = states.constant

    def one(state: TrainState, *args: Any) -> PyTree:
        return _with(function(state.replace(constant=constant), *args), None)

    results = jax.vmap(one, in_axes=in_axes)(states.replace(constant=None), *args)
    return _with(results, constant)


def fresh_members(first: Callable[..., TrainState], values: PyTree, seeds: Array) -> TrainState:
    """First states of all members; the constants are those of the first one.

    Args:
        first: (values, seed) -> a member's state.
        values: leaves (n,).
        seeds: (n,).
    """
    constants = []

    def moving(*args: Any) -> TrainState:
        state = first(*args)
        constants.append(state.constant)
        return state.replace(constant=None)

    states = jax.vmap(moving)(values, seeds)
    if constants[0] is None:
        return states
    alone = first(jax.tree.map(lambda x: x[0], values), seeds[0])
    return states.replace(constant=alone.constant)


def _with(results: PyTree, constant: PyTree | None) -> PyTree:
    is_state = lambda x: isinstance(x, TrainState)
    put = lambda x: x.replace(constant=constant) if is_state(x) else x
    return jax.tree.map(put, results, is_leaf=is_state)
