"""Micro-benchmarks of this machine: the cost of program shapes as XLA compiles them.

`docs/gpu.md` and `docs/tpu.md` say what is behind each of them.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdl.perf.roofline import (
    CLOCKS,
    QUICK,
    Clock,
    Effort,
    Roofline,
    effort,
    measure,
    timed,
    triad,
)
from jaxdl.perf.table import aligned, amount
from jaxdl.types import Array

STRIDES = (1, 2, 4, 8, 16, 32)


class Sizes(NamedTuple):
    """Sizes of the programs that are timed."""

    effort: Effort
    widths: tuple[int, ...]
    """Sides of a square matrix, around those that hardware is made for."""
    rows: int
    """Rows of the matrix that is multiplied with it."""
    read: int
    """Numbers read, each so many apart."""
    side: int
    """Of a square matrix that is summed by rows and by columns."""
    largest: tuple[int, ...]
    """Bytes worked on, beyond those of the roofline."""


WIDTHS = (120, 124, 127, 128, 129, 132, 136, 248, 255, 256, 257, 264)


def sizes(quick: bool = False) -> Sizes:
    """Sizes that suit the default backend, or tiny ones."""
    if quick:
        return Sizes(QUICK, (16, 17), 64, 2**12, 64, ())
    if jax.default_backend() == "cpu":
        return Sizes(effort(), WIDTHS, 4096, 2**22, 4096, (2**30,))
    return Sizes(effort(), WIDTHS, 2**17, 2**25, 16384, ())


class Probe(NamedTuple):
    """Figures of the default device."""

    roofline: Roofline
    dtype: str
    """In which `widths` were multiplied."""
    widths: tuple[tuple[int, float], ...]
    """(n, FLOP/s of (rows, n) times (n, n))"""
    strides: tuple[tuple[int, float], ...]
    """(numbers from one to the next, bytes/s of those that are used)"""
    rows: float
    """Bytes/s of a sum along the axis whose numbers are neighbours."""
    columns: float
    """Bytes/s of a sum along the other one."""
    call: float
    """Seconds from calling a program that does next to nothing to its answer."""


def probe(seconds: float = 5.0, clock: Clock = CLOCKS["wall"], quick: bool = False) -> Probe:
    """Measure the default device; compiling comes on top of `seconds`.

    Args:
        seconds: of measuring in all.
        clock: tells the time.
        quick: on next to nothing, to see that it works.
    """
    how = sizes(quick)
    each = seconds / 2 / (len(how.widths) + len(STRIDES) + len(how.largest) + 3)
    roofline = measure(seconds / 2, clock, how.effort)
    more = tuple((n, triad(n, each, clock, how.effort.bytes)) for n in how.largest)
    if more:
        roofline = roofline._replace(cache=(*roofline.cache, *more), bandwidth=more[-1][1])
    dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    time_of = partial(timed, seconds=each, clock=clock)
    matrix = jnp.ones((how.side, how.side), jnp.float32)
    along = lambda axis: matrix.nbytes / time_of(_sum, (matrix, matrix[0]), axis=axis)
    return Probe(
        roofline,
        dtype,
        tuple((n, _product(n, how.rows, dtype, time_of)) for n in how.widths),
        tuple((n, _strided(n, how.read, time_of)) for n in STRIDES),
        along(1),
        along(0),
        time_of(_next, jnp.float32(0)),
    )


def _product(n: int, rows: int, dtype: str, time_of: Any) -> float:
    x, w = jnp.ones((rows, n), dtype), jnp.eye(n, dtype=dtype)
    return 2 * rows * n * n / time_of(_times, (x, w))


@partial(jax.jit, donate_argnums=0)
def _times(state: tuple[Array, Array]) -> tuple[Array, Array]:
    x, w = state
    return x @ w, w


def _strided(stride: int, read: int, time_of: Any) -> float:
    x, total = jnp.ones(read * stride, jnp.float32), jnp.zeros(read, jnp.float32)
    # Two numbers read and one written.
    return 3 * total.nbytes / time_of(_add_every, (x, total), stride=stride)


@partial(jax.jit, static_argnames="stride", donate_argnums=0)
def _add_every(state: tuple[Array, Array], stride: int) -> tuple[Array, Array]:
    x, total = state
    return x, total + x[::stride]


@partial(jax.jit, static_argnames="axis")
def _sum(state: tuple[Array, Array], axis: int) -> tuple[Array, Array]:
    x, _ = state
    return x, jnp.sum(x, axis=axis)


@jax.jit
def _next(x: Array) -> Array:
    return x + 1


# As text


def text(result: Probe) -> str:
    """A short table."""
    roofline = result.roofline
    rate = lambda x, unit: amount(round(x), unit)
    rows = [
        ("product", dtype, f"{rate(peak, 'FLOP/s')}, ridge at {roofline.ridge(dtype):.0f} FLOP/B")
        for dtype, peak in roofline.flops.items()
    ]
    best = max(speed for _, speed in result.widths)
    rows += [
        (f"{result.dtype} by width", str(n), f"{rate(x, 'FLOP/s')}  {x / best:.0%}")
        for n, x in result.widths
    ]
    rows += [("memory by size", _size(n), rate(x, "B/s")) for n, x in roofline.cache]
    near = result.strides[0][1]
    rows += [
        ("every so many", str(n), f"{rate(x, 'B/s')} used  {x / near:.0%}")
        for n, x in result.strides
    ]
    rows += [
        ("sum along", "rows", rate(result.rows, "B/s")),
        ("sum along", "columns", rate(result.columns, "B/s")),
        ("a call", "", f"{result.call * 1e6:.0f} us"),
    ]
    names = [name for name, *_ in rows]
    shown = [
        ("" if name == before else name, *figures)
        for before, (name, *figures) in zip(["", *names], rows, strict=False)
    ]
    return "\n".join([roofline.device, *aligned(shown, "<><")])


def _size(n: int) -> str:
    for power, unit in ((30, "GiB"), (20, "MiB")):
        if n >= 2**power:
            return f"{n >> power} {unit}"
    return f"{n >> 10} KiB"


def as_dict(result: Probe) -> dict[str, Any]:
    """For JSON."""
    roofline = result.roofline
    ridge = {dtype: roofline.ridge(dtype) for dtype in roofline.flops}
    return {**result._asdict(), "roofline": {**roofline._asdict(), "ridge": ridge}}
