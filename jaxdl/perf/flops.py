"""Multiply-adds of any function, counted on its jaxpr: nothing is computed or compiled.

The same number on every backend, since convolutions are traced as an accelerator gets them, and
the body of a scan counts as often as it runs (XLA's own cost analysis counts it once). Products
alone count, as in torchvision's `_ops` and PyTorch's `FlopCounterMode`: dots and convolutions, also
those that a compiler would leave out as unused. What a foreign call hides is not counted.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import Jaxpr, JaxprEqn, jaxprs_in_params

from jaxdl.errors import UserError
from jaxdl.nn import conv


def macs(function: Callable[..., Any], *args: Any) -> int:
    """Multiply-adds of `function(*args)`, by all devices together.

    Args:
        function: anything that JAX traces; a gradient or a whole training step too.
        args: pytrees of arrays or of `jax.ShapeDtypeStruct`.

    Raises:
        UserError: for a product that runs a number of times known only when it runs.
    """
    return sum(times * products(equation) for equation, times, _ in walk(trace(function, *args)))


def flops(function: Callable[..., Any], *args: Any) -> int:
    """Floating-point operations of the products: a multiply-add is two."""
    return 2 * macs(function, *args)


def trace(function: Callable[..., Any], *args: Any) -> Jaxpr:
    """The jaxpr of `function(*args)`, with convolutions written as an accelerator gets them."""
    with conv.target("tpu"):
        return jax.make_jaxpr(function)(*args).jaxpr


def walk(jaxpr: Jaxpr, times: int = 1, scope: str = "") -> Iterator[tuple[JaxprEqn, int, str]]:
    """Each innermost equation in order, how often it runs, and the named scopes around it.

    Of a `cond`, the branch with the most multiply-adds is walked. A scan is walked as its first
    rounds and its last, so that the end of a round is seen to meet the start of the next.

    Raises:
        UserError: for a product that runs a number of times known only when it runs.
    """
    for equation in jaxpr.eqns:
        inner = list(jaxprs_in_params(equation.params))
        here = f"{scope}/{equation.source_info.name_stack}"
        if equation.primitive.name == "cond":
            yield from walk(max(inner, key=_total), times, here)
        elif len(inner) == 1 and not _declares(equation):
            for rounds in _rounds(equation, here):
                yield from walk(inner[0], times * rounds, here)
        elif not inner or _declares(equation):
            yield equation, times, here
        elif any(map(_total, inner)):  # a while loop, or a solver that iterates
            raise _uncountable(equation, here)


def products(equation: JaxprEqn) -> int:
    """Multiply-adds of one equation: of a dot or a convolution, else 0."""
    count = _PRODUCTS.get(equation.primitive.name)
    return count(equation) if count else 0


def _declares(equation: JaxprEqn) -> bool:
    """True if a kernel declares its cost itself; how often its loops run may depend on the tile."""
    return equation.primitive.name == "pallas_call" and bool(equation.params["cost_estimate"])


def _total(jaxpr: Jaxpr) -> int:
    return sum(times * products(equation) for equation, times, _ in walk(jaxpr))


def _rounds(equation: JaxprEqn, scope: str) -> tuple[int, ...]:
    """Number of times that an equation runs its inner program."""
    name, params = equation.primitive.name, equation.params
    if name == "scan":
        return (params["length"] - 1, 1) if params["length"] > 1 else (params["length"],)
    if name == "shard_map":  # its shapes are those of one device
        return (math.prod(params["mesh"].shape[axis] for axis in params["newly_manual_axes"]),)
    if name == "pallas_call":
        grid = params["grid_mapping"].grid
        if not all(isinstance(n, int) for n in grid):
            raise _uncountable(equation, scope)
        return (math.prod(grid),)
    return (1,)


def _uncountable(equation: JaxprEqn, scope: str) -> UserError:
    where = "/".join(filter(None, scope.split("/")))
    return UserError(
        f"the products of a '{equation.primitive.name}'{where and f' in {where}'} cannot be "
        "counted, since how often they run is known only when they do: write it as a scan, or as "
        "a fori_loop between fixed bounds"
    )


def _dot(equation: JaxprEqn) -> int:
    # y[b m n] = sum_k l[b m k] r[b k n]
    (contracted, _), _ = equation.params["dimension_numbers"]
    return _size(equation.outvars[0]) * _size(equation.invars[0], contracted)


def _ragged_dot(equation: JaxprEqn) -> int:
    # A row meets the matrix of its own group alone; in the matrices' gradient each group gets an
    # output of its own, from its own rows.
    numbers = equation.params["ragged_dot_dimension_numbers"]
    (contracted, _), _ = numbers.dot_dimension_numbers
    count = _size(equation.outvars[0]) * _size(equation.invars[0], contracted)
    by_group = set(numbers.lhs_ragged_dimensions) & set(contracted)
    return count // equation.invars[2].aval.shape[-1] if by_group else count


def _conv(equation: JaxprEqn) -> int:
    """Every tap of every output counts, also where it reads padding.

    Of a transposed convolution every tap of every input counts: what lies between and around the
    inputs is zero. On an axis it shows as a dilated input, or an output longer than the input. So
    a convolution's two gradients cost as much as itself each, while its kernel fits its map. (The
    kernel's gradient of a transposed one at stride 1 looks like a wide kernel on padding, and
    comes out larger.)
    """
    left, right, out = equation.params["dimension_numbers"]
    lhs, rhs, y = (v.aval.shape for v in (*equation.invars, *equation.outvars))
    # y[b o p] = sum_ci x[b c p+i] k[o c i]
    count = y[out[0]] * y[out[1]] * rhs[right[1]]
    axes = zip(left[2:], right[2:], out[2:], equation.params["lhs_dilation"], strict=True)
    for i, r, o, dilation in axes:
        transposed = dilation > 1 or y[o] > lhs[i]
        count *= lhs[i] * min(rhs[r], y[o]) if transposed else y[o] * rhs[r]
    return count


def _kernel(equation: JaxprEqn) -> int:
    return equation.params["cost_estimate"].flops // 2


def _size(variable: Any, axes: tuple[int, ...] | None = None) -> int:
    shape = variable.aval.shape
    return math.prod(shape if axes is None else (shape[a] for a in axes))


_PRODUCTS = {
    "dot_general": _dot,
    "ragged_dot_general": _ragged_dot,
    "conv_general_dilated": _conv,
    "pallas_call": _kernel,
}
