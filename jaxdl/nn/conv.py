"""Convolution, and the one place that knows how each backend likes it written.

On TPU and GPU a convolution is `lax.conv_general_dilated` and nothing else. XLA on CPU is quick
only for a dense kernel that fits inside its map; elsewhere it falls to a scalar loop. Measured on
2 cores, jax 0.10.2, float32, batch 32, forward and backward, lax against what stands below:

    depthwise  3x3 and 5x5, the layers of EfficientNet-B0 at 64x64      26-173 ms    1-9 ms
    grouped    3x3, 32 groups, 8x8x256 (2 s is the kernel's gradient)     2036 ms     17 ms
    im2col     3x3 on 2x2x512                                              550 ms     12 ms
    im2col     3x3 stride 2 on 4x4x256                                      74 ms      6 ms
    dense      what fits: the gradients, see `conv_cpu.py`                 863 ms    678 ms

The last line is a step of ResNet-20 at 32x32, batch 128, on one core. Formulations are made of
pads, slices, products and dots, whose own derivatives came within 10 % of the best hand-written
gradient, or of convolutions that differentiate into each other; so jvp, vmap and Hessians need
nothing here.
"""

import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxdl.nn import conv_cpu
from jaxdl.nn.conv_window import Windows, filled, gather, pad, shifts, windows_of

# From this kernel side on, a depthwise sum is taken over columns of row sums: 2k slices for k*k.
# Forward and backward: 7x7 68 -> 20 ms, 5x5 stride 2 8.5 -> 5.9 ms, but 3x3 stride 2 6 -> 10 ms.
SEPARATE_FROM = 4
# Every tap is an operation to compile (49 of them: 0.5 s a layer); a larger kernel stays with lax.
MAX_TAPS = 128


# A part of the key of every cache of traces, so that no trace made for another backend is reused.
target = jax.make_user_context(None)
"""`with target('tpu'):` traces for that backend instead of the one at hand; local to the thread."""


def backend() -> str:
    """Platform on which the traced program will run; a test may replace it."""
    return target.value or jax.default_backend()


def conv_general_dilated(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: lax.ConvGeneralDilatedDimensionNumbers = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: lax.PrecisionLike = None,
    preferred_element_type: jnp.dtype | None = None,
    formulation: str | None = None,
) -> Array:
    """`lax.conv_general_dilated`, written the way the backend is quick at.

    lhs (b h w c), rhs (kh kw c/groups out) -> (b h' w' out). Any other layout or rank, a dilated
    input, batch groups and types that are not float go to lax as they came. `formulation` names
    one of FORMULATIONS in place of the choice.
    """
    if formulation is None and backend() != "cpu":
        formulation = "lax"
    windows = None
    if (
        formulation != "lax"
        and _is_plain_image(lhs, rhs, dimension_numbers, feature_group_count)
        and batch_group_count == 1
        and preferred_element_type is None
        and all(d == 1 for d in lhs_dilation or ())
    ):
        rates = rhs_dilation or (1, 1)
        windows = windows_of(lhs.shape[1:3], rhs.shape[:2], window_strides, padding, rates)
    formulation = formulation or choose(windows, lhs.shape[-1], feature_group_count)
    if windows is None or formulation == "lax":
        y = lax.conv_general_dilated(
            lhs,
            rhs,
            window_strides,
            padding,
            lhs_dilation=lhs_dilation,
            rhs_dilation=rhs_dilation,
            dimension_numbers=dimension_numbers,
            feature_group_count=feature_group_count,
            batch_group_count=batch_group_count,
            precision=precision,
            preferred_element_type=preferred_element_type,
        )
        return filled(y, lhs.shape[1:-1], rhs.shape[:-2]) if lhs.size else y
    tall, wide = windows
    rhs = rhs[tall.first : tall.first + tall.size, wide.first : wide.first + wide.size]
    return FORMULATIONS[formulation](lhs, rhs, windows, feature_group_count, precision)


def choose(windows: Windows | None, channels: int, groups: int = 1) -> str:
    """Name the quickest formulation on CPU, counting the backward pass."""
    if windows is None:
        return "lax"
    few = windows[0].size * windows[1].size <= MAX_TAPS
    if groups > 1:
        return "lax" if not few else "depthwise" if groups == channels else "grouped"
    if all(w.size == 1 for w in windows):
        return "im2col"  # a 1x1 convolution is a dot: one tap, nothing to gather
    if _outgrown(windows):
        return "patch" if _tiles(windows) else "im2col" if few else "lax"
    return "dense"


def _outgrown(windows: Windows) -> bool:
    # XLA leaves its quick path once the kernel is larger than the map: the input in the forward
    # pass, the output in the input's gradient. On maps of 2x2 to 4x4 that costs 4 to 50 times.
    return any(min(w.extent, w.out) < w.reach for w in windows)


def _tiles(windows: Windows) -> bool:
    # Windows side by side: patch embeddings, and a kernel as large as its map.
    return all(w.rate == 1 and (w.stride == w.size or w.out == 1) for w in windows)


def _is_plain_image(lhs: Array, rhs: Array, dimension_numbers, groups: int) -> bool:
    if lhs.ndim != 4 or lhs.dtype != rhs.dtype or not jnp.issubdtype(lhs.dtype, jnp.floating):
        return False
    specs = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    channels_last = lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
    # Shapes that do not fit are lax's to refuse: its message names them.
    fits = lhs.shape[3] == rhs.shape[2] * groups and rhs.shape[3] % groups == 0
    return specs == channels_last and fits


def _dense(x: Array, kernel: Array, windows: Windows, groups, precision) -> Array:
    """XLA's own convolution, with gradients that it is as quick at."""
    return conv_cpu.convolve(x, kernel, windows, precision)


def _im2col(
    x: Array, kernel: Array, windows: Windows, groups, precision, product=conv_cpu.convolve
) -> Array:
    """Gather what every tap reads, then one matmul."""
    taps = gather(pad(x, windows), windows)
    taps = jnp.concatenate(taps, axis=-1) if len(taps) > 1 else taps[0]  # (b h' w' kh*kw*c)
    # y[b h w o] = sum_t taps[b h w t] kernel[t o]
    kernel = kernel.reshape(1, 1, -1, kernel.shape[-1])
    return product(taps, kernel, windows_of(taps.shape[1:3], (1, 1), (1, 1), "VALID"), precision)


def _patch(x: Array, kernel: Array, windows: Windows, groups, precision) -> Array:
    """Windows side by side are a reshape: nothing is gathered, whatever the kernel's size."""
    (tall, wide), (b, _, _, c) = windows, x.shape
    x = pad(x, windows).reshape(b, tall.out, tall.size, wide.out, wide.size, c)
    # y[b h w o] = sum_ijc x[b h i w j c] kernel[i j c o]
    return jnp.einsum("bhiwjc,ijco->bhwo", x, kernel, precision=precision)


def _grouped(x: Array, kernel: Array, windows: Windows, groups, precision) -> Array:
    """Groups first, so that they are the batch axis of one batched matmul."""
    x = jnp.moveaxis(x.reshape(*x.shape[:3], groups, -1), 3, 0)  # (g b h w c/g)
    kernel = kernel.reshape(*kernel.shape[:3], groups, -1)
    kernel = jnp.moveaxis(kernel, 3, 0)  # (g kh kw c/g out/g)
    dense = functools.partial(
        _im2col, windows=windows, groups=1, precision=precision, product=conv_cpu.canonical
    )
    y = jnp.moveaxis(jax.vmap(dense)(x, kernel), 0, 3)  # (b h' w' g out/g)
    return y.reshape(*y.shape[:3], -1)


def _depthwise(x: Array, kernel: Array, windows: Windows, groups, precision) -> Array:
    """Sum shifted copies of the map, in float32 at least: no channel meets another."""
    tall, wide = windows
    dtype, wider = x.dtype, jnp.promote_types(x.dtype, jnp.float32)
    x, kernel = pad(x, windows).astype(wider), kernel.astype(wider)
    if kernel.shape[-1] > groups:  # a channel multiplier
        x = jnp.repeat(x, kernel.shape[-1] // groups, axis=-1)
    k = kernel[:, :, :, None, None]  # (kh kw 1 1 1 out)
    k = [[k[i, j] for j in range(wide.size)] for i in range(tall.size)]
    rows = shifts(x, tall, 1)
    if max(tall.size, wide.size) < SEPARATE_FROM:
        # y = sum_ij shift_ij(x) k_ij
        columns = [shifts(row, wide, 2) for row in rows]
        y = sum(columns[i][j] * k[i][j] for i, j in np.ndindex(tall.size, wide.size))
    else:
        # y = sum_j shift_j( sum_i shift_i(x) k_ij )
        columns = [sum(row * k[i][j] for i, row in enumerate(rows)) for j in range(wide.size)]
        y = sum(shifts(column, wide, 2)[j] for j, column in enumerate(columns))
    return y.astype(dtype)


FORMULATIONS: dict[str, Callable | None] = {
    "lax": None,
    "dense": _dense,
    "im2col": _im2col,
    "patch": _patch,
    "grouped": _grouped,
    "depthwise": _depthwise,
}

# nn.Conv in every other respect: same parameters, same defaults, same initial values.
Conv = functools.partial(nn.Conv, conv_general_dilated=conv_general_dilated)
