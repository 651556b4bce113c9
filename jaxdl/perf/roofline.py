"""Roofline of a machine, measured: peak arithmetic, memory bandwidth, and the ridge between.

Roofline: An Insightful Visual Performance Model for Multicore Architectures. Williams, Waterman,
Patterson 2009. https://doi.org/10.1145/1498765.1498785. Peaks here are what XLA's own matrix
product and its own vector sum reach, not what the hardware is said to have: a network is compiled
by the same compiler. What makers say stands in `CHIPS`.
"""

import math
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdl.errors import UserError, choices
from jaxdl.types import Array

Clock = Callable[[], float]
"""Seconds since some moment."""

CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}
"""Wall clock; or CPU seconds, for one pinned core of a machine that others use as well."""


class Roofline(NamedTuple):
    """Peaks of one device."""

    device: str
    flops: dict[str, float]
    """FLOP/s of the square product that ran best, by the type of its factors; a multiply-add is
    two. 'float32' is as JAX multiplies by default: in bfloat16 on a TPU, in TF32 on recent GPUs."""
    bandwidth: float
    """Bytes/s of main memory, read and written counted."""
    cache: tuple[tuple[int, float], ...]
    """(bytes worked on, bytes/s) from small to large: the levels of memory show as steps. Where
    little is worked on, the time to start a kernel shows instead."""

    def ridge(self, dtype: str) -> float:
        """FLOPs a byte from which arithmetic is the limit, and below which memory is."""
        return self._peak(dtype) / self.bandwidth

    def attainable(self, flops: float, bytes: float, dtype: str) -> float:
        """FLOP/s at best of a program that does `flops` and moves `bytes`."""
        # P = min(peak, I * B), I = flops / bytes
        peak = self._peak(dtype)
        return min(peak, flops / bytes * self.bandwidth) if bytes else peak

    def _peak(self, dtype: str) -> float:
        if dtype not in self.flops:
            raise UserError(f"'{dtype}' was not measured: {choices(dtype, self.flops)}")
        return self.flops[dtype]


class Effort(NamedTuple):
    """Size of one timed call: large enough that dispatch does not count."""

    sizes: tuple[int, ...]
    """Sides of the square products that are tried."""
    flops: float
    bytes: float
    memory: tuple[int, ...]
    """Bytes that are worked on."""


EFFORTS = {
    "cpu": Effort((256, 512, 1024), 2e8, 2e8, tuple(2**e for e in range(14, 29, 2))),
    "accelerator": Effort((2048, 4096, 8192), 2e12, 1e10, tuple(2**e for e in range(20, 31, 2))),
}
QUICK = Effort((64, 128), 2e6, 1e6, (2**14, 2**18))
"""For tests: figures of the right kind, not of the right size."""

DTYPES = ("float32", "bfloat16", "float16")
ROUNDS = 4096  # at most, of a loop in one call


def effort() -> Effort:
    """Sizes that suit the default backend."""
    return EFFORTS["cpu" if jax.default_backend() == "cpu" else "accelerator"]


def measure(
    seconds: float = 1.0, clock: Clock = CLOCKS["wall"], work: Effort | None = None
) -> Roofline:
    """The peaks of the default device; compiling, and warming up, comes on top of `seconds`.

    Args:
        seconds: of measuring in all; each figure is a median of three calls at least.
        clock: tells the time.
        work: how much a call does; None is what suits the backend.
    """
    work = work or effort()
    each = seconds / (len(DTYPES) * len(work.sizes) + len(work.memory))
    flops = {
        dtype: max(product(n, dtype, each, clock, work.flops) for n in work.sizes)
        for dtype in DTYPES
    }
    cache = tuple((n, triad(n, each, clock, work.bytes)) for n in work.memory)
    return Roofline(device(), flops, cache[-1][1], cache)


def product(
    n: int, dtype: str, seconds: float, clock: Clock = CLOCKS["wall"], flops: float = 2e8
) -> float:
    """FLOP/s of the product of two (n, n) matrices.

    Args:
        n: rows and columns.
        dtype: of the factors.
        seconds: of measuring.
        clock: tells the time.
        flops: that one timed call does at least.
    """
    rounds = _rounds(flops, 2 * n**3)
    # Entries of variance 1/n keep the size of what they are multiplied with.
    x = jax.random.normal(jax.random.key(0), (n, n), jnp.float32) / math.sqrt(n)
    x = x.astype(dtype)
    return 2 * n**3 * rounds / timed(_products, (x, x), seconds, clock, rounds=rounds)


@partial(jax.jit, static_argnames="rounds")
def _products(matrices: tuple[Array, Array], rounds: int) -> tuple[Array, Array]:
    x, _ = matrices
    return x, lax.fori_loop(0, rounds, lambda _, y: x @ y, x)


def triad(size: int, seconds: float, clock: Clock = CLOCKS["wall"], traffic: float = 2e8) -> float:
    """Bytes/s of a sum in place, two float32 read and one written.

    Args:
        size: bytes of the two arrays together.
        seconds: of measuring.
        clock: tells the time.
        traffic: bytes that one timed call moves at least.
    """
    moved = 3 * size // 2
    rounds = _rounds(traffic, moved)
    a = jnp.zeros(size // 8, jnp.float32)
    return moved * rounds / timed(_sums, (a, a + 1), seconds, clock, rounds=rounds)


@partial(jax.jit, static_argnames="rounds", donate_argnums=0)
def _sums(arrays: tuple[Array, Array], rounds: int) -> tuple[Array, Array]:
    # a <- a + b, with memory that is there already: fresh pages would cost more than the sum
    a, b = arrays
    return lax.fori_loop(0, rounds, lambda _, a: a + b, a), b


def _rounds(wanted: float, each: float) -> int:
    return max(1, min(ROUNDS, math.ceil(wanted / each)))


def timed(
    function: Callable[..., Any], state: Any, seconds: float, clock: Clock, **static: Any
) -> float:
    """Median seconds of a call, of three at least after one that compiles.

    Args:
        function: state -> the next state, jitted; may donate its argument.
        state: what it is first called with.
        seconds: after which no further call begins.
        clock: tells the time.
        static: further arguments.
    """
    state = jax.block_until_ready(function(state, **static))
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        start = clock()
        state = jax.block_until_ready(function(state, **static))
        times.append(clock() - start)
    return statistics.median(times)


def device() -> str:
    """The name of the default device, of a CPU that of the processor."""
    kind = jax.devices()[0].device_kind
    if jax.default_backend() != "cpu":
        return kind
    said = Path("/proc/cpuinfo")
    lines = said.read_text().splitlines() if said.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or kind


# What makers say


class Chip(NamedTuple):
    """One chip, as published: dense products, decimal units of speed."""

    name: str
    kinds: tuple[str, ...]
    """Its kind, as JAX names it."""
    flops: float
    """bfloat16 FLOP/s, without sparsity."""
    memory: float
    """Bytes of HBM or GDDR."""
    bandwidth: float
    """Bytes/s of that."""
    interconnect: float
    """Bytes/s out of a chip over all its links: ICI, NVLink, or else PCI Express."""
    on_chip: int
    """Bytes of VMEM a TensorCore has, of shared memory an SM has."""
    cores: int
    """TensorCores of a TPU, SMs of a GPU."""


# TPU: https://cloud.google.com/tpu/docs/v4, /v5e, /v5p, /v6e. Their interconnect figures count both
# directions (GBps) or one (Gbps): half of 400 and 1200 GBps, 3584 Gbps. The page of v4 gives none:
# six links of 45 GB/s, https://jax-ml.github.io/scaling-book/tpus. VMEM: jax's own table,
# jax/_src/pallas/mosaic/tpu_info.py.
# GPU: https://jax-ml.github.io/scaling-book/gpus, and NVIDIA's data sheets, whose FLOP/s "with
# sparsity" are halved here, and whose NVLink figures, of both directions, as well:
# https://www.nvidia.com/en-us/data-center/a100, /h100, /h200, /l4. Shared memory:
# https://docs.nvidia.com/cuda/hopper-tuning-guide, /ampere-tuning-guide, /ada-tuning-guide.
CHIPS = (
    Chip("TPU v4", ("TPU v4",), 275e12, 32 * 2**30, 1.2e12, 270e9, 16 * 2**20, 2),
    Chip("TPU v5e", ("TPU v5 lite", "TPU v5e"), 197e12, 16e9, 819e9, 200e9, 128 * 2**20, 1),
    Chip("TPU v5p", ("TPU v5", "TPU v5p"), 459e12, 95 * 2**30, 2.765e12, 600e9, 64 * 2**20, 2),
    Chip("TPU v6e", ("TPU v6 lite", "TPU v6e"), 918e12, 32e9, 1.64e12, 448e9, 128 * 2**20, 1),
    Chip("A100", ("NVIDIA A100-SXM4-80GB",), 312e12, 80e9, 2.039e12, 300e9, 164 * 2**10, 108),
    Chip("H100", ("NVIDIA H100 80GB HBM3",), 989e12, 80e9, 3.35e12, 450e9, 228 * 2**10, 132),
    Chip("H200", ("NVIDIA H200",), 989e12, 141e9, 4.8e12, 450e9, 228 * 2**10, 132),
    Chip("L4", ("NVIDIA L4",), 121e12, 24e9, 300e9, 32e9, 100 * 2**10, 58),
)


def published(kind: str) -> Chip | None:
    """The chip that JAX calls `kind`, or None where the table has none."""
    return next((chip for chip in CHIPS if kind in chip.kinds), None)
