"""All that training carries from one step to the next, as one pytree."""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jaxdl.train.sharding import Rules, tree_shardings
from jaxdl.types import Array, Objective, PyTree


@flax.struct.dataclass
class TrainState:
    """Parameters float32. `ema` averages {'params', 'variables'}, or is None where none is kept."""

    step: Array
    params: PyTree
    variables: PyTree
    opt_state: PyTree
    key: Array
    ema: PyTree | None

    def weights(self, ema: bool = False) -> tuple[PyTree, PyTree]:
        """(params, variables) to evaluate: the averaged ones if asked for and kept."""
        if ema and self.ema is not None:
            return self.ema["params"], self.ema["variables"]
        return self.params, self.variables


def new_state(
    objective: Objective,
    tx: optax.GradientTransformation,
    key: Array,
    batch_spec: Mapping[str, Any],
    *,
    ema: bool,
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
        ema={"params": params, "variables": variables} if ema else None,
    )


def abstract_state(
    objective: Objective,
    tx: optax.GradientTransformation,
    key: Array,
    batch_spec: Mapping[str, Any],
    mesh: Mesh,
    *,
    ema: bool = False,
    rules: Rules = (),
) -> TrainState:
    """Shapes, types and shardings of the state, without computing it."""
    shapes = jax.eval_shape(lambda k: new_state(objective, tx, k, batch_spec, ema=ema), key)
    return jax.tree.map(
        lambda s, place: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=place),
        shapes,
        tree_shardings(shapes, mesh, rules),
    )


def init_state(
    objective: Objective,
    tx: optax.GradientTransformation,
    key: Array,
    batch_spec: Mapping[str, Any],
    mesh: Mesh,
    *,
    ema: bool = False,
    rules: Rules = (),
) -> TrainState:
    """The first state, born sharded: no device ever holds the whole of a split leaf.

    Args:
        objective: gives parameters and variables.
        tx: gives the optimizer's state.
        key: a typed PRNG key; the same key gives the same state on any mesh.
        batch_spec: name to shape and dtype of a training batch, its first axis included.
        mesh: from `make_mesh`.
        ema: whether to keep averaged weights.
        rules: where leaves live; see `tree_shardings`.
    """
    abstract = abstract_state(objective, tx, key, batch_spec, mesh, ema=ema, rules=rules)
    places = jax.tree.map(lambda s: s.sharding, abstract)
    init = jax.jit(
        lambda k: new_state(objective, tx, k, batch_spec, ema=ema),
        out_shardings=places,
        compiler_options=_quick_to_compile(mesh),
    )
    return init(key)


def _quick_to_compile(mesh: Mesh) -> dict[str, int] | None:
    # LLVM spends longer on hundreds of random draws than they take to run, unoptimised, once.
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    return {"xla_backend_optimization_level": 0} if on_cpu else None


def with_weights(
    state: TrainState, tx: optax.GradientTransformation, params: PyTree, variables: PyTree
) -> TrainState:
    """A first state that begins with these values, each placed where its own was.

    What the optimizer and the average derive from parameters is derived anew.
    """
    place = lambda values, like: jax.tree.map(
        lambda v, x: jax.device_put(v, x.sharding), values, like
    )
    params, variables = place(params, state.params), place(variables, state.variables)
    shardings = jax.tree.map(lambda x: x.sharding, state.opt_state)
    opt_state = jax.jit(tx.init, out_shardings=shardings)(params)
    ema = state.ema
    if ema is not None:
        # copies: the step donates its state, and no two of its leaves may be one array
        ema = jax.tree.map(jnp.copy, {"params": params, "variables": variables})
    return state.replace(params=params, variables=variables, opt_state=opt_state, ema=ema)
