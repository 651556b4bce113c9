"""FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness. Dao et al. 2022.

https://arxiv.org/abs/2205.14135. Loops and backward pass: FlashAttention-2. Dao 2023.
https://arxiv.org/abs/2307.08691. XLA writes the (b n t s) logits to memory, and reads them for
the softmax, its sum and the next product; here a tile of them lives on the chip, and the softmax
goes along. Memory is linear in t and s.
Differs from the papers: a query that sees no key gives zeros; gradients of queries and of keys are
two kernels, so that no two programs add to the same place.

Of what JAX ships, `jax.nn.dot_product_attention(implementation='cudnn')` is for GPUs and half
precision, `pallas.ops.gpu.attention` for lengths that divide into tiles, queries and keys alike,
and `pallas.ops.tpu.flash_attention` for multiples of 128; no two hide keys in the same way, none
runs on a CPU. This is one kernel for all: compiled by Mosaic on a TPU and, before jax 0.12, by
Triton on a GPU; elsewhere its tiles are loops of XLA (`nn/flash_loops.py`). Its bytes, registers
and occupancy are counted in docs/gpu.md.
Forward and backward on one CPU core, float32, h = 64, median CPU time of 7, in turn with the plain
formula:

                                  flash      plain
    b 32, t   17, n 6              2 ms       1 ms
    b  4, t  197, n 6             26 ms       9 ms
    b  1, t 1024, n 4, causal     27 ms      68 ms
    b  1, t 4096, n 2, causal    161 ms     906 ms
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Initializer
from jax.custom_batching import custom_vmap
from jax.experimental import pallas as pl
from jax.sharding import AxisType, PartitionSpec

from jaxdl.errors import UserError
from jaxdl.nn import flash_kernels as kernels
from jaxdl.nn import flash_loops
from jaxdl.nn.attention import MultiHeadAttention
from jaxdl.nn.conv import backend
from jaxdl.nn.flash_kernels import Tile
from jaxdl.registry import register
from jaxdl.types import Array

TILES = {"gpu": Tile(64, 64), "tpu": Tile(256, 256), "loops": Tile(512, 512)}
TRITON = jax.__version_info__ < (0, 12)
"""True where Pallas still compiles for GPUs of any kind and type; 0.12 is about to remove it, and
its successor takes 16-bit numbers on Hopper's chips and newer ones only."""
WARPS = 4  # of a program on a GPU
STAGES = 2  # tiles of keys under way at a time on a GPU
SMALLEST = 16  # the side of a tile that tensor cores take
ROOM = 16 * 2**20  # bytes of VMEM that a kernel gets unless it asks


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def flash_attention(
    query: Array, key: Array, value: Array, visible: Array | None = None, causal: bool = False
) -> Array:
    """softmax(Q K^T / sqrt(h)) V: (b, t, n, h), (b, s, n, h) twice -> (b, t, n, h).

    Products are in the type of `query` and summed in float32, as is the softmax. It has a gradient,
    but that has none.

    Args:
        query: n heads of h numbers at t places.
        key: the same at s places.
        value: like `key`.
        visible: (b, s), False hides a key. A query that sees none gives zeros.
        causal: a place sees itself and what is before it; t and s are the same.
    """
    return _with_residuals(query, key, value, visible, causal)[0]


def _with_residuals(query: Array, key: Array, value: Array, visible: Array | None, causal: bool):
    shape = (query.shape[0], key.shape[1])
    visible = jnp.ones(shape, bool) if visible is None else jnp.broadcast_to(visible, shape)
    # Added to the logits: 0, or -inf for a key that nobody sees.
    hidden = jnp.where(visible, 0.0, -jnp.inf)
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))  # (b n t h), (b n s h)
    out, lse = _anywhere(_forward, 2, causal)(q, k, v, hidden)
    return jnp.swapaxes(out, 1, 2), (q, k, v, hidden, out, lse)


def _gradients(causal: bool, residuals: tuple[Array, ...], dout: Array):
    q, k, v, hidden, out, lse = residuals
    dout = jnp.swapaxes(dout, 1, 2)
    # D = rowsum(dO * O)
    delta = jnp.sum(dout.astype(jnp.float32) * out.astype(jnp.float32), axis=-1)
    gradients = _anywhere(_backward, 3, causal)(q, k, v, hidden, dout, lse, delta)
    return *(jnp.swapaxes(g, 1, 2) for g in gradients), None


flash_attention.defvjp(_with_residuals, _gradients)


@register("attentions")
def flash(heads: int, causal: bool, kernel_init: Initializer, name: str, /) -> nn.Module:
    """Exact attention whose weights are never in memory. https://arxiv.org/abs/2205.14135

    Where the weights are asked for, all is computed as `full` does.

    Args:
        heads: n, which divides the width.
        causal: whether a place sees only itself and what is before it.
        kernel_init: of the projections.
        name: of the layer.
    """
    return MultiHeadAttention(heads, causal, kernel_init=kernel_init, means=_means, name=name)


def _means(query: Array, key: Array, value: Array, mask: Array | None, causal: bool) -> Array:
    if mask is not None and mask.shape[1:3] != (1, 1):
        raise UserError("attention 'flash' hides keys, not pairs of a query and a key")
    visible = None if mask is None else mask[:, 0, 0]
    return flash_attention(query, key, value, visible, causal)


# Calls, on the arrays of one device. What is cut into tiles is cut along one axis, and a program
# gets one tile of it; of anything else it gets all that its example and head have.

Cut = tuple[Any, int | None]
"""An array (b n ...), or its shape, and the axis along which it is cut."""


def _forward(q: Array, k: Array, v: Array, hidden: Array, *, causal: bool) -> tuple[Array, Array]:
    """Output (b n t h) and log of the sum of exponentials (b n t), float32."""
    b, n, t, h = q.shape
    tile = _tile(t, k.shape[2])
    (q,), (k, v), hidden = _padded(tile, [q], [k, v], hidden)
    out, lse = _run(
        functools.partial(kernels.forward, causal=causal, tile=tile, scale=1 / math.sqrt(h)),
        [(q, 2), (k, None), (v, None), (hidden[:, None, None, :], None)],
        [(q, 2), (jax.ShapeDtypeStruct((b, n, 1, q.shape[2]), jnp.float32), 3)],
        side=tile.queries,
        products=2,
    )
    return out[:, :, :t, :h], lse[:, :, 0, :t]


def _backward(
    q: Array,
    k: Array,
    v: Array,
    hidden: Array,
    dout: Array,
    lse: Array,
    delta: Array,
    *,
    causal: bool,
) -> tuple[Array, Array, Array]:
    """Gradients of q, k and v."""
    (_, _, t, h), s = q.shape, k.shape[2]
    tile = _tile(t, s)
    (q, dout), (k, v), hidden = _padded(tile, [q, dout], [k, v], hidden)
    # A row that is none has logits of 0, and a gradient of 0.
    after = ((0, 0), (0, 0), (0, q.shape[2] - t))
    lse, delta = (jnp.pad(x, after)[:, :, None, :] for x in (lse, delta))
    static = {"causal": causal, "tile": tile, "scale": 1 / math.sqrt(h)}
    hidden = hidden[:, None, None, :]
    (dq,) = _run(
        functools.partial(kernels.query_gradient, **static),
        [(q, 2), (k, None), (v, None), (hidden, None), (dout, 2), (lse, 3), (delta, 3)],
        [(q, 2)],
        side=tile.queries,
        products=3,
    )
    hidden = jnp.swapaxes(hidden, 2, 3)
    dk, dv = _run(
        functools.partial(kernels.key_gradients, **static),
        [(q, None), (k, 2), (v, 2), (hidden, 2), (dout, None), (lse, None), (delta, None)],
        [(k, 2), (v, 2)],
        side=tile.keys,
        products=4,
    )
    return dq[:, :, :t, :h], dk[:, :, :s, :h], dv[:, :, :s, :h]


def _target() -> str:
    where = backend()
    return "loops" if where == "cpu" or (where == "gpu" and not TRITON) else where


def _tile(t: int, s: int) -> Tile:
    most = TILES[_target()]
    fitting = (max(SMALLEST, pl.next_power_of_2(n)) for n in (t, s))
    return Tile(*map(min, most, fitting))


def _padded(
    tile: Tile, queries: Sequence[Array], keys: Sequence[Array], hidden: Array
) -> tuple[list[Array], list[Array], Array]:
    """Whole tiles, and heads of a power of two; keys that are none are hidden."""

    def pad(x: Array, length: int) -> Array:
        wide = max(SMALLEST, pl.next_power_of_2(x.shape[3])) - x.shape[3]
        return jnp.pad(x, ((0, 0), (0, 0), (0, -x.shape[2] % length), (0, wide)))

    after = ((0, 0), (0, -hidden.shape[1] % tile.keys))
    hidden = jnp.pad(hidden, after, constant_values=-jnp.inf)
    return [pad(x, tile.queries) for x in queries], [pad(x, tile.keys) for x in keys], hidden


def _run(
    kernel: Callable[..., None],
    inputs: Sequence[Cut],
    outputs: Sequence[Cut],
    side: int,
    products: int,
) -> Sequence[Array]:
    """One program for each example, head and tile; the first inputs are q and k.

    Args:
        kernel: of references to a program's inputs and outputs.
        inputs: what it reads.
        outputs: what it writes.
        side: of what is cut, a program gets so many rows.
        products: of tiles that it makes, for each pair of them.
    """
    where = _target()
    if where == "loops":
        return flash_loops.run(kernel, inputs, outputs, side)
    (q, _), (k, _), *_ = inputs
    b, n, t, h = q.shape
    grid = (b, n, outputs[0][0].shape[2] // side)

    def blocks(x: Any, axis: int | None) -> pl.BlockSpec:
        shape = [None, None, *x.shape[2:]]
        if axis:
            shape[axis] = side

        def place(b: Any, n: Any, i: Any) -> tuple[Any, ...]:
            # What has one head is every head's.
            return b, n if x.shape[1] > 1 else 0, i if axis == 2 else 0, i if axis == 3 else 0

        return pl.BlockSpec(shape, place if where != "gpu" else lambda i, n, b: place(b, n, i))

    work = products * b * n * t * k.shape[2] / (2 if kernel.keywords["causal"] else 1)
    given = [x for x, _ in inputs]
    made = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x, _ in outputs]
    return pl.pallas_call(
        # Neighbours should read the same keys. Programs begin side by side on a GPU, the first
        # axis of the grid quickest, and run one after another on a TPU, the last one quickest.
        lambda *refs: kernel(*refs, place=pl.program_id(0 if where == "gpu" else 2)),
        grid=grid[::-1] if where == "gpu" else grid,
        in_specs=[blocks(*cut) for cut in inputs],
        out_specs=[blocks(*cut) for cut in outputs],
        out_shape=made,
        compiler_params=_compiler(where, [x for x, axis in inputs if axis is None]),
        cost_estimate=pl.CostEstimate(
            flops=int(2 * work * h),
            transcendentals=int(work / products),
            bytes_accessed=sum(x.size * x.dtype.itemsize for x in [*given, *made]),
        ),
        name=f"flash_{kernel.func.__name__}",
    )(*given)


def _compiler(where: str, whole: Sequence[Array]) -> Any:
    """Settings for a backend; on a TPU, what a program gets `whole` must find room on the chip."""
    # Imported here: a tenth of a second that only this backend needs.
    if where == "gpu":
        from jax.experimental.pallas import triton as pltriton

        return pltriton.CompilerParams(num_warps=WARPS, num_stages=STAGES)
    from jax.experimental.pallas import tpu as pltpu

    # In registers of (8, 128), and twice: the next head's arrive while this one is at work.
    sizes = (pl.cdiv(x.shape[2], 8) * pl.cdiv(x.shape[3], 128) * x.dtype.itemsize for x in whole)
    room = 2 * 8 * 128 * sum(sizes)
    limit = None if room < ROOM // 2 else room + ROOM
    return pltpu.CompilerParams(dimension_semantics=("parallel",) * 3, vmem_limit_bytes=limit)


# Arrays on many devices, and many at once


# The axes of a mesh that split examples and heads; see train/sharding.py and nn/layout.py.
OF_EXAMPLES, OF_HEADS = ("data", "fsdp"), "tensor"


@functools.cache
def _anywhere(function: Callable[..., Any], outputs: int, causal: bool) -> Callable[..., Any]:
    """`function` on arrays (b n ...) that devices share by b and n, also under `vmap`.

    Args:
        function: of arrays on one device; `hidden` has no heads.
        outputs: how many arrays it gives.
        causal: its own argument.
    """
    alone = functools.partial(function, causal=causal)

    @custom_vmap
    def call(*arrays: Array) -> Any:
        mesh = jax.typeof(arrays[0]).sharding.mesh
        kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
        free = {axis for axis, kind in kinds if kind != AxisType.Manual}
        if all(mesh.shape[axis] == 1 for axis in free):
            return alone(*arrays)
        # A compiler cannot look into a kernel to split it, so each device is told to do its own.
        sizes = {axis: mesh.shape[axis] for axis in free}
        split = PartitionSpec(*_split(sizes, *arrays[0].shape[:2]))
        specs = tuple(split if x.ndim > 2 else PartitionSpec(split[0]) for x in arrays)
        shared = jax.shard_map(
            alone,
            mesh=mesh,
            in_specs=specs,
            out_specs=(split,) * outputs,
            axis_names=free,
            check_vma=False,
        )
        return shared(*arrays)

    @call.def_vmap
    def one_more_axis(size, is_batched, *arrays):
        # (p b ...) -> (pb ...)
        whole = (
            x if batched else jnp.broadcast_to(x, (size, *x.shape))
            for x, batched in zip(arrays, is_batched, strict=True)
        )
        given = call(*(x.reshape(-1, *x.shape[2:]) for x in whole))
        apart = jax.tree.map(lambda y: y.reshape(size, -1, *y.shape[1:]), given)
        return apart, jax.tree.map(lambda _: True, given)

    return call


def _split(sizes: Mapping[str, int], examples: int, heads: int) -> tuple[Any, str | None]:
    """The axes that examples and heads are split over: those that are there and divide them."""
    over, left = (), examples
    for axis in OF_EXAMPLES:
        if axis in sizes and not left % sizes[axis]:
            over, left = (*over, axis), left // sizes[axis]
    divides = OF_HEADS in sizes and not heads % sizes[OF_HEADS]
    return over or None, OF_HEADS if divides else None
