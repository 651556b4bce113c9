"""Initialise parameters without compiling the initialiser.

XLA makes a kernel of every draw, hundreds of them for a network, and compiles for seconds what runs
once. But random bits are a function of (key, position) alone, and nearly every first value is an
elementwise function of bits and numbers. So the program is read equation by equation, and one
small function, compiled once, draws any stretch of all the values that are drawn alike. Whatever is
no such value is computed as it stands.

Parallel Random Numbers: As Easy as 1, 2, 3. Salmon, Moraes, Dror, Shaw 2011.
https://doi.org/10.1145/2063384.2063405
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jax.interpreters.partial_eval import dce_jaxpr
from jax.sharding import Sharding

from jaxdl.train.scan import reads
from jaxdl.types import Array, PyTree

STRETCH = 2**16  # numbers drawn at a time: what they pass through stays in the second cache
AHEAD = 32  # stretches that are asked for at once, and drawn by all cores
ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))  # of Threefry-2x32's rounds

ELEMENTWISE = {
    "abs", "add", "and", "bitcast_convert_type", "clamp", "convert_element_type", "copy", "cos",
    "div", "eq", "erf", "erf_inv", "erfc", "exp", "exp2", "expm1", "floor", "ge", "gt",
    "integer_pow", "is_finite", "le", "log", "log1p", "logistic", "lt", "max", "min", "mul", "ne",
    "neg", "nextafter", "not", "or", "pow", "rem", "round", "rsqrt", "select_n", "shift_left",
    "shift_right_arithmetic", "shift_right_logical", "sign", "sin", "sqrt", "square",
    "stop_gradient", "sub", "tan", "tanh", "xor",
}  # fmt: skip
# Calls of a program within the program, and where it stands.
CALLS = {
    "jit": "jaxpr",
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}
SAME_ORDER = ("broadcast_in_dim", "expand_dims", "reshape", "squeeze")


class Op(NamedTuple):
    """An elementwise operation on the values of others, or the bits of a key."""

    primitive: core.Primitive | None
    params: tuple[tuple[str, Any], ...]
    operands: tuple[Any, ...]


class Field(NamedTuple):
    """An array that is not there yet: each number a function of its position alone."""

    shape: tuple[int, ...]
    dtype: Any
    value: Any
    """An `Op`, or a number."""
    is_random: bool
    """If not, all numbers are alike."""


def materialize(
    program: Callable[..., PyTree], *args: Any, shardings: Callable[[PyTree], PyTree]
) -> PyTree:
    """Run a pure program, each returned array created under its sharding.

    The numbers are those of `program(*args)` run operation by operation, under any sharding. No
    device ever holds more than its part; a process holds one whole array at a time, and fills the
    parts of its own devices.

    Args:
        program: such as the first state of a key.
        args: the same in every process.
        shardings: gives a tree of shardings for the tree of shapes.
    """
    closed, shapes = jax.make_jaxpr(program, return_shape=True)(*args)
    jaxpr, used = dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    inputs = [x for x, is_used in zip(jax.tree.leaves(args), used, strict=True) if is_used]
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        values = _read(jaxpr, closed.consts, inputs)
        leaves: list[Any] = [None] * len(values)
        shardings = jax.tree.leaves(shardings(shapes))
        # each value once, since an average begins as what it is of
        alike: dict[int, list[int]] = {}
        for i, value in enumerate(values):
            alike.setdefault(id(value), []).append(i)
        for positions in alike.values():
            whole = _array(values[positions[0]])
            for i in positions:
                leaves[i] = _placed(whole, shardings[i])
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)


def _placed(whole: Any, sharding: Sharding) -> Array:
    whole = whole if _is_key(whole) else np.asarray(whole)
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])


def _read(jaxpr: core.Jaxpr, consts: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
    """Results of a program: fields where they can be, else arrays."""
    known: dict[core.Var, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    known.update(zip(jaxpr.invars, inputs, strict=True))

    def value(atom: core.Var | core.Literal) -> Any:
        is_literal = isinstance(atom, core.Literal)
        return np.asarray(atom.val, atom.aval.dtype) if is_literal else known[atom]

    for eqn in jaxpr.eqns:
        known.update(zip(eqn.outvars, _results(eqn, [*map(value, eqn.invars)]), strict=True))
    return [*map(value, jaxpr.outvars)]


def _results(eqn: core.JaxprEqn, operands: list[Any]) -> Sequence[Any]:
    name, out = eqn.primitive.name, eqn.outvars[0].aval
    if _is_key(out) and (made := _key(eqn, operands)) is not None:
        return [made]
    if name in CALLS:
        called = eqn.params[CALLS[name]]
        results = _read(called.jaxpr, called.consts, operands)
        # What is compiled as one has other last bits when it is computed piece by piece.
        if name != "jit" or all(isinstance(r, Field) or _is_key(r) for r in results):
            return results
    if name == "scan" and not reads(eqn).carry:
        return _turns(eqn, operands)
    if name == "random_bits" and _counts(operands[0], out):
        return [Field(out.shape, out.dtype, Op(None, (), (operands[0],)), True)]
    fields = [*map(_as_field, operands)]
    if all(f and (not f.is_random or math.prod(f.shape) == out.size) for f in fields):
        if name in SAME_ORDER:
            return [fields[0]._replace(shape=out.shape)]
        if name in ELEMENTWISE:
            params = tuple(sorted(eqn.params.items()))
            op = Op(eqn.primitive, params, tuple(f.value for f in fields))
            return [Field(out.shape, out.dtype, op, any(f.is_random for f in fields))]
    found = eqn.primitive.bind(*map(_array, operands), **eqn.params)
    return found if eqn.primitive.multiple_results else [found]


def _counts(key: Array, out: Any) -> bool:
    """True if bits are the function of key and position that `_stretch` computes."""
    return _is_threefry(key) and key.shape == () and out.dtype == jnp.uint32 and out.size < 2**32


def _is_key(x: Any) -> bool:
    return jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)


def _is_threefry(key: Array) -> bool:
    known = jax.random.key_impl(key) == "threefry2x32"
    return known and jax.config.jax_threefry_partitionable


def _key(eqn: core.JaxprEqn, operands: Sequence[Any]) -> Array | None:
    """Keys derived from keys, computed without compiling anything; None where one is not known."""
    if not (operands and _is_key(operands[0]) and _is_threefry(operands[0])):
        return None
    key, *others = operands
    words, params = np.asarray(jax.random.key_data(key)), eqn.params
    match eqn.primitive.name:
        case "random_fold_in" if key.shape == np.shape(others[0]) == ():
            words = np.concatenate(_threefry(words, np.asarray(_array(others[0]))[None]))
        case "random_split" if key.shape == ():
            position = np.arange(math.prod(params["shape"]), dtype=np.uint32)
            words = np.stack(_threefry(words, position), -1).reshape(*params["shape"], 2)
        case "slice":
            bounds = params["start_indices"], params["limit_indices"]
            words = words[*map(slice, *bounds, params["strides"] or key.ndim * (1,))]
        case "squeeze":
            words = words.squeeze(params["dimensions"])
        case _:
            return None
    return jax.random.wrap_key_data(words, impl="threefry2x32")


def _as_field(x: Any) -> Field | None:
    if isinstance(x, Field) or _is_key(x) or x.size != 1:
        return x if isinstance(x, Field) else None
    return Field(x.shape, x.dtype, np.asarray(x).reshape(()), False)


def _turns(eqn: core.JaxprEqn, operands: list[Any]) -> list[Any]:
    """Of a loop whose turns know nothing of each other, such as over the blocks of a network."""
    body, n = eqn.params["jaxpr"], reads(eqn).consts
    fixed, rows = operands[:n], [_array(x) for x in operands[n:]]
    turns = [
        _read(body.jaxpr, body.consts, [*fixed, *(x[i] for x in rows)])
        for i in range(eqn.params["length"])
    ]
    results = []
    for values, result in zip(zip(*turns, strict=True), eqn.outvars, strict=True):
        results.append(np.empty(result.aval.shape, result.aval.dtype))
        for row, value in zip(results[-1], values, strict=True):
            row[...] = _array(value)
    return results


def _array(x: Any) -> Any:
    """The numbers of a field; anything else as it is."""
    if not isinstance(x, Field):
        return x
    tape, keys, numbers = _written(x.value)
    if not x.is_random:
        return np.broadcast_to(_play(tape, (), numbers), x.shape)
    values = np.empty(math.prod(x.shape), x.dtype)
    for begin in range(0, values.size, AHEAD * STRETCH):
        starts = range(begin, min(begin + AHEAD * STRETCH, values.size), STRETCH)
        asked = [_stretch(tape, np.uint32(start), keys, numbers) for start in starts]
        for start, stretch in zip(starts, asked, strict=True):
            part = values[start : start + STRETCH]
            part[:] = np.asarray(stretch)[: part.size]
    return values.reshape(x.shape)


def _written(value: Any) -> tuple[tuple[Any, ...], list[np.ndarray], list[np.ndarray]]:
    """Operations in their order, each by the places of its operands; their keys and numbers."""
    tape: list[Any] = []
    keys: list[np.ndarray] = []
    numbers: list[np.ndarray] = []
    positions: dict[int, int] = {}

    def write(x: Any) -> int:
        if id(x) in positions:
            return positions[id(x)]
        if not isinstance(x, Op):
            entry = ("number", len(numbers))
            numbers.append(x)
        elif x.primitive is None:
            entry = ("bits", len(keys))
            keys.append(np.asarray(jax.random.key_data(x.operands[0])))
        else:
            entry = (x.primitive, x.params, tuple(map(write, x.operands)))
        tape.append(entry)
        positions[id(x)] = len(tape) - 1
        return positions[id(x)]

    write(value)
    return tuple(tape), keys, numbers


def _play(tape: tuple[Any, ...], bits: Sequence[Array], numbers: Sequence[Any]) -> Any:
    done: list[Any] = []
    for what, *how in tape:
        if what == "number":
            done.append(numbers[how[0]])
        elif what == "bits":
            done.append(bits[how[0]])
        else:
            params, indices = how
            operands = jnp.broadcast_arrays(*(done[i] for i in indices))
            done.append(what.bind(*operands, **dict(params)))
    return done[-1]


@functools.partial(jax.jit, static_argnums=0)
def _stretch(
    tape: tuple[Any, ...], start: Array, keys: Sequence[Array], numbers: Sequence[Array]
) -> Array:
    """Numbers `start` to `start` + STRETCH of a field."""
    position = start + jnp.arange(STRETCH, dtype=jnp.uint32)
    return _play(tape, [_bits(key, position) for key in keys], numbers)


def _bits(key: Array, position: Array) -> Array:
    """(n,): the bits that `jax.random.bits` of a key (2,) has at positions (n,)."""
    a, b = _threefry(key, position)
    return a ^ b


def _threefry(key: Array, position: Array) -> tuple[Array, Array]:
    """Both words of Threefry-2x32 at the count (0, position).

    JAX's own `threefry_2x32` loops over the rounds on CPU, and takes more than twice as long.

    Args:
        key: (2,), the data of a key.
        position: (n,), of 32 bits as the key.

    Returns:
        two of (n,); a key made of this one is such a pair.
    """
    words = key[0], key[1], key[0] ^ key[1] ^ np.uint32(0x1BD11BDA)
    a, b = words[0], position + words[1]
    for turn in range(5):
        for distance in ROTATIONS[turn % 2]:
            a = a + b
            b = a ^ (b << distance | b >> (32 - distance))
        a = a + words[(turn + 1) % 3]
        b = b + words[(turn + 2) % 3] + np.uint32(turn + 1)
    return a, b
