"""All that training carries from one step to the next, as one pytree."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jaxdl.optim.schedule_free import evaluation_params
from jaxdl.train.materialize import materialize
from jaxdl.train.precision import LossScale, Scale, first_scale
from jaxdl.train.sharding import Layout, Rules, tree_shardings
from jaxdl.types import CONSTANT, EXTRA, Array, Objective, PyTree


@flax.struct.dataclass
class TrainState:
    """Parameters float32; what a run does not keep is None.

    `average` is of {'params', 'variables'} without `EXTRA`; `loss_scale` is for float16;
    `constant` is what the variables hold under `CONSTANT`: no step changes it or is donated it.
    """

    step: Array
    params: PyTree
    variables: PyTree
    opt_state: PyTree
    key: Array
    average: PyTree | None = None
    loss_scale: Scale | None = None
    constant: PyTree | None = None

    @property
    def all_variables(self) -> PyTree:
        """The variables as an objective takes them, with the constants."""
        return self.variables if self.constant is None else self._whole(self.variables)

    def _whole(self, variables: PyTree) -> PyTree:
        beside = {EXTRA: self.variables.get(EXTRA), CONSTANT: self.constant}
        return {**variables, **{name: x for name, x in beside.items() if x is not None}}

    def weights(self, average: bool = False) -> tuple[PyTree, PyTree]:
        """(params, variables) to evaluate: the averaged ones if asked for and kept.

        What is never averaged stands beside averaged variables as it is.
        Schedule-free optimizers average too: what they evaluate is not where they take gradients.
        """
        if average and self.average is not None:
            return self.average["params"], self._whole(self.average["variables"])
        return evaluation_params(self.opt_state, self.params), self.all_variables


class StateSpec(NamedTuple):
    """Options of a train state: averaging, loss scaling, sharding rules."""

    average: bool = False
    loss_scale: LossScale | None = None
    rules: Rules = ()
    layout: Layout = Layout()


def run_key(key: Array) -> Array:
    """The key of every step's randomness, of that of a first state."""
    return jax.random.split(key)[1]


def new_state(
    objective: Objective,
    tx: optax.GradientTransformation,
    key: Array,
    batch_spec: Mapping[str, Any],
    spec: StateSpec,
) -> TrainState:
    """A state before its first step: pure, to be traced by `init_state` and `abstract_state`."""
    init_key = jax.random.split(key)[0]
    batch = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), dict(batch_spec))
    params, variables = objective.init(init_key, batch)
    variables, constant = split_constant(variables)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        variables=variables,
        opt_state=tx.init(params),
        key=run_key(key),
        average=averaged(params, variables) if spec.average else None,
        loss_scale=first_scale(spec.loss_scale) if spec.loss_scale else None,
        constant=constant,
    )


def split_constant(variables: PyTree) -> tuple[PyTree, PyTree | None]:
    """(variables that may move, those that never do, or None)."""
    moving = {name: x for name, x in variables.items() if name != CONSTANT}
    return moving, variables.get(CONSTANT)


def averaged(params: PyTree, variables: PyTree) -> PyTree:
    """The part of the weights that an average is of."""
    return {"params": params, "variables": {k: x for k, x in variables.items() if k != EXTRA}}


def abstract_state(
    objective: Objective,
    tx: optax.GradientTransformation,
    key: Array,
    batch_spec: Mapping[str, Any],
    mesh: Mesh,
    spec: StateSpec = StateSpec(),  # noqa: B008, immutable
) -> TrainState:
    """Shapes, types and shardings of the state, without computing it."""
    shapes = jax.eval_shape(lambda k: new_state(objective, tx, k, batch_spec, spec), key)
    state: TrainState = jax.tree.map(
        lambda s, place: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=place),
        shapes,
        tree_shardings(shapes, mesh, spec.rules, spec.layout),
    )
    return state


def init_state(
    objective: Objective,
    tx: optax.GradientTransformation,
    key: Array,
    batch_spec: Mapping[str, Any],
    mesh: Mesh,
    spec: StateSpec = StateSpec(),  # noqa: B008, immutable
) -> TrainState:
    """The first state, born sharded: no device ever holds the whole of a split leaf.

    Args:
        objective: gives parameters and variables.
        tx: gives the optimizer's state.
        key: a typed PRNG key; the same key gives the same state on any mesh.
        batch_spec: name to shape and dtype of a training batch, its first axis included.
        mesh: from `make_mesh`.
        keeps: what else there is, and where leaves live; see `tree_shardings`.
    """
    state: TrainState = materialize(
        lambda k: new_state(objective, tx, k, batch_spec, spec),
        key,
        shardings=lambda shapes: tree_shardings(shapes, mesh, spec.rules, spec.layout),
    )
    return state


def replaced(
    state: TrainState, tx: optax.GradientTransformation, params: PyTree, variables: PyTree
) -> TrainState:
    """A first state with other values: pure, to be traced.

    What the optimizer and the average derive from parameters is derived anew.
    """
    variables, constant = split_constant(variables)
    return dataclasses.replace(
        state,
        params=params,
        variables=variables,
        opt_state=tx.init(params),
        average=None if state.average is None else averaged(params, variables),
        constant=constant,
    )


def with_weights(
    state: TrainState, tx: optax.GradientTransformation, params: PyTree, variables: PyTree
) -> TrainState:
    """A first state that begins with these values, each placed where its own was.

    Variables may hold the constants; without them, the state keeps its own.
    What the optimizer and the average derive from parameters is derived anew.
    """

    def place(values: PyTree, like: PyTree) -> PyTree:
        return jax.tree.map(lambda v, x: jax.device_put(v, x.sharding), values, like)

    variables, constant = split_constant(variables)
    params, variables = place(params, state.params), place(variables, state.variables)
    constant = state.constant if constant is None else place(constant, state.constant)
    shardings = jax.tree.map(lambda x: x.sharding, state.opt_state)
    opt_state = jax.jit(tx.init, out_shardings=shardings)(params)
    average = state.average
    if average is not None:
        # copies: the step donates its state, and no two of its leaves may be one array
        average = jax.tree.map(jnp.copy, averaged(params, variables))
    return dataclasses.replace(
        state,
        params=params,
        variables=variables,
        opt_state=opt_state,
        average=average,
        constant=constant,
    )
