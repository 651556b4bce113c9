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
from jaxdl.types import Array, Objective, PyTree


@flax.struct.dataclass
class TrainState:
    """Parameters float32; what a run does not keep is None.

    `average` is of {'params', 'variables'}; `loss_scale` is for float16.
    """

    step: Array
    params: PyTree
    variables: PyTree
    opt_state: PyTree
    key: Array
    average: PyTree | None = None
    loss_scale: Scale | None = None

    def weights(self, average: bool = False) -> tuple[PyTree, PyTree]:
        """(params, variables) to evaluate: the averaged ones if asked for and kept.

        Schedule-free optimizers average too: what they evaluate is not where they take gradients.
        """
        if average and self.average is not None:
            return self.average["params"], self.average["variables"]
        return evaluation_params(self.opt_state, self.params), self.variables


class StateSpec(NamedTuple):
    """Options of a train state: averaging, loss scaling, sharding rules."""

    average: bool = False
    loss_scale: LossScale | None = None
    rules: Rules = ()
    layout: Layout = Layout()


def new_state(
    objective: Objective,
    tx: optax.GradientTransformation,
    key: Array,
    batch_spec: Mapping[str, Any],
    spec: StateSpec,
) -> TrainState:
    """A state before its first step: pure, to be traced by `init_state` and `abstract_state`."""
    init_key, run_key = jax.random.split(key)
    batch = {k: jnp.zeros(s.shape, s.dtype) for k, s in batch_spec.items()}
    params, variables = objective.init(init_key, batch)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        variables=variables,
        opt_state=tx.init(params),
        key=run_key,
        average={"params": params, "variables": variables} if spec.average else None,
        loss_scale=first_scale(spec.loss_scale) if spec.loss_scale else None,
    )


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


def with_weights(
    state: TrainState, tx: optax.GradientTransformation, params: PyTree, variables: PyTree
) -> TrainState:
    """A first state that begins with these values, each placed where its own was.

    What the optimizer and the average derive from parameters is derived anew.
    """

    def place(values: PyTree, like: PyTree) -> PyTree:
        return jax.tree.map(lambda v, x: jax.device_put(v, x.sharding), values, like)

    params, variables = place(params, state.params), place(variables, state.variables)
    shardings = jax.tree.map(lambda x: x.sharding, state.opt_state)
    opt_state = jax.jit(tx.init, out_shardings=shardings)(params)
    average = state.average
    if average is not None:
        # copies: the step donates its state, and no two of its leaves may be one array
        average = jax.tree.map(jnp.copy, {"params": params, "variables": variables})
    return dataclasses.replace(
        state, params=params, variables=variables, opt_state=opt_state, average=average
    )
