"""A loss cut in three at its stack of blocks: what comes before, the blocks, what comes after.

The loss is traced once, and its program is cut at the one scan over parameters, which is what
`nn/stack.py` makes of equal blocks. So neither network nor objective knows of it, and what is
random, cast, frozen, penalised or computed again in the backward pass stays as it was.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Var, jaxpr_as_fun

from jaxdl.errors import UserError
from jaxdl.train.scan import reads
from jaxdl.types import Array, Aux, Batch, PyTree

Values = Sequence[Array]


class Cut(NamedTuple):
    """The pieces, as pure functions of flat sequences of arrays."""

    depth: int
    """Blocks in the stack."""
    fixed: Callable[[PyTree], tuple[Values, Values]]
    """params -> (rows, rest), all that the other pieces read of them: what belongs to each block,
    stacked along axis 0, and what does not"""
    own: Callable[[PyTree, Batch, Array], Values]
    """(variables, micro-batch, key) -> all that is a micro-batch's own"""
    before: Callable[[Values, Values], Array]
    """(rest, own) -> what the first block reads"""
    blocks: Callable[[Values, Values, Values, Array, Array], Array]
    """(rows of some blocks in turn, rest, own, number of the first of them, x) -> x"""
    after: Callable[[Values, Values, Array], tuple[Array, Aux]]
    """(rest, own, x) -> (loss, Aux without outputs)"""


def cut(
    loss: Callable[..., tuple[Array, Aux]],
    params: PyTree,
    variables: PyTree,
    batch: Batch,
    key: Array,
) -> Cut:
    """Cut a loss, given the arrays of one micro-batch to trace it with.

    Weights that the loss disturbs anew at each call are in `rest`, as nothing about them is fixed.

    Raises:
        UserError: there is not exactly one stack of blocks, or micro-batches must go through the
            network one at a time.
    """
    shape = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype)
    args = jax.tree.map(shape, (params, variables, batch, key))
    closed, shapes = jax.make_jaxpr(loss, return_shape=True)(*args)
    jaxpr, consts = closed.jaxpr, closed.consts
    value, aux = jax.tree.unflatten(jax.tree.structure(shapes), jaxpr.outvars)
    wanted, treedef = jax.tree.flatten((value, aux.variables, aux.metrics))
    of_params = len(jax.tree.leaves(params))
    weights, inputs = jaxpr.invars[:of_params], jaxpr.invars[of_params:]

    stack = _stack(jaxpr, weights)
    n, depth = reads(stack).consts, stack.params["length"]
    still, x, read, y = stack.invars[:n], stack.invars[n], stack.invars[n + 1 :], stack.outvars[0]
    carried = zip(inputs, jax.tree.leaves(aux.variables), strict=False)
    _refuse_dependence(jaxpr, stack, wanted, [a for a, b in carried if a is not b])

    # What follows from weights alone is computed once. Not so casts to the compute type, that the
    # gradients of micro-batches add up in float32, and copies for each example.
    casts = {e.outvars[0]: e.invars[0] for e in _of(jaxpr, "convert_element_type")}
    copies = [e.outvars[0] for e in _of(jaxpr, "broadcast_in_dim") if _grows(e)]
    followed = _reached(jaxpr, weights) - _reached(jaxpr, [*inputs, *casts, *copies])
    fixed = {v for v in followed if jnp.issubdtype(v.aval.dtype, jnp.inexact)}
    # Blocks read rows of the stacked weights, and what is made for each of them, such as keys.
    source = {v: casts[v] if casts.get(v) in fixed else v for v in read}
    rows = _distinct(v for v in source.values() if v in fixed)
    made = _distinct(v for v in source.values() if v not in fixed)
    # The rest: what is left of that for what is made, before the blocks and in them and after.
    goals = [x, *still, *made, *wanted]
    uses = [v for eqn in _making(jaxpr, goals, [*fixed, y]) for v in eqn.invars]
    rest = _distinct(v for v in _vars([*uses, *goals]) if v in fixed)

    given = [*rest, *jaxpr.constvars, *inputs]
    of_fixed = _program(jaxpr, [*jaxpr.constvars, *weights], [*rows, *rest])
    of_before = _program(jaxpr, given, [x])
    of_blocks = _program(jaxpr, given, [*still, *made])
    of_after = _program(jaxpr, [*given, y], wanted)
    block = jaxpr_as_fun(stack.params["jaxpr"])

    def blocks(own_rows: Values, rest: Values, own: Values, first: Array, x: Array) -> Array:
        values = of_blocks(*rest, *own)
        constant, size = values[:n], own_rows[0].shape[0]
        sliced = [jax.lax.dynamic_slice_in_dim(v, first, size) for v in values[n:]]
        found = dict(zip([*rows, *made], [*own_rows, *sliced], strict=True))

        def body(x: Array, own: Values) -> tuple[Array, None]:
            return block(*constant, x, *own)[0], None

        values = [found[source[v]].astype(v.aval.dtype) for v in read]
        return jax.lax.scan(body, x, values)[0]

    def fixed_of(params: PyTree) -> tuple[Values, Values]:
        values = of_fixed(*consts, *jax.tree.leaves(params))
        return values[: len(rows)], values[len(rows) :]

    def after(rest: Values, own: Values, x: Array) -> tuple[Array, Aux]:
        value, variables, metrics = jax.tree.unflatten(treedef, of_after(*rest, *own, x))
        return value, Aux(variables, metrics, {})

    return Cut(
        depth,
        fixed_of,
        lambda *inputs: [*consts, *jax.tree.leaves(inputs)],
        lambda rest, own: of_before(*rest, *own)[0],
        blocks,
        after,
    )


def _stack(jaxpr: Jaxpr, weights: Iterable[Var]) -> JaxprEqn:
    """The one scan over parameters that hands a single array on."""
    follows = _reached(jaxpr, weights)

    def is_stack(eqn: JaxprEqn) -> bool:
        consts, carry, _ = reads(eqn)
        return carry == 1 and not follows.isdisjoint(_vars(eqn.invars[consts + 1 :]))

    found = [eqn for eqn in _of(jaxpr, "scan") if is_stack(eqn)]
    if len(found) != 1:
        raise UserError(
            "a pipeline needs a network of one stack of equal blocks, such as a ViT or a decoder, "
            f"and this one has {len(found) or 'none'}: set config.gradient.method=full_batch"
        )
    return found[0]


def _refuse_dependence(
    jaxpr: Jaxpr, stack: JaxprEqn, wanted: Iterable[object], moving: Iterable[Var]
) -> None:
    """Micro-batches are in the blocks at the same time: none may read there what another left."""
    later = _reached(jaxpr, moving)
    sown = set(stack.outvars[1:])
    live = _making(jaxpr, wanted, ())
    used = {v for eqn in live for v in _vars(eqn.invars)} | set(_vars(wanted))
    if not later.isdisjoint(_vars(stack.invars)) or not sown.isdisjoint(used):
        raise UserError(
            "a pipeline has several micro-batches in its blocks at once, and there or before them "
            "this network keeps statistics from one to the next, as batch norms do"
        )


def _of(jaxpr: Jaxpr, primitive: str) -> list[JaxprEqn]:
    """The equations of a primitive that read a variable."""
    return [e for e in jaxpr.eqns if e.primitive.name == primitive and _vars(e.invars)]


def _grows(eqn: JaxprEqn) -> bool:
    return eqn.outvars[0].aval.size > eqn.invars[0].aval.size


def _vars(atoms: Iterable[object]) -> list[Var]:
    return [v for v in atoms if isinstance(v, Var)]


def _distinct(found: Iterable[Var]) -> list[Var]:
    return list(dict.fromkeys(found))


def _reached(jaxpr: Jaxpr, begin: Iterable[Var]) -> set[Var]:
    """All that depends on these variables of a program, themselves included."""
    found = set(begin)
    for eqn in jaxpr.eqns:
        if not found.isdisjoint(_vars(eqn.invars)):
            found.update(eqn.outvars)
    return found


def _making(jaxpr: Jaxpr, wanted: Iterable[object], given: Iterable[Var]) -> list[JaxprEqn]:
    """The equations that make what is wanted of what is given."""
    known, missing, found = set(given), set(_vars(wanted)) - set(given), []
    for eqn in reversed(jaxpr.eqns):
        if not missing.isdisjoint(eqn.outvars):
            missing.update(v for v in _vars(eqn.invars) if v not in known)
            found.append(eqn)
    return found[::-1]


def _program(jaxpr: Jaxpr, given: Sequence[Var], wanted: Sequence[object]) -> Callable[..., Values]:
    """A part of a program as a function of its inputs."""
    eqns = _making(jaxpr, wanted, given)
    part = jaxpr.replace(constvars=[], invars=given, outvars=wanted, eqns=eqns)
    return jaxpr_as_fun(ClosedJaxpr(part, ()))
