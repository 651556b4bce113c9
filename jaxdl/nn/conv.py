"""Convolution, and the one place that knows how each backend likes it written.

On TPU and GPU a convolution is `lax.conv_general_dilated` and nothing else. XLA on CPU is quick
only for a dense kernel that fits inside its map; elsewhere it falls to a scalar loop. Measured on
2 cores, jax 0.10.2, float32, batch 32, forward and backward, lax against what stands below:

    depthwise  3x3 and 5x5, the layers of EfficientNet-B0 at 64x64      26-173 ms    1-9 ms
    grouped    3x3, 32 groups, 8x8x256 (2 s is the kernel's gradient)     2036 ms     17 ms
    im2col     3x3 on 2x2x512                                              550 ms     12 ms
    im2col     3x3 stride 2 on 4x4x256                                      74 ms      6 ms
    dense 3x3 on a map of 8x8 to 32x32                             equal, or lax is quicker

Every formulation is made of pads, slices, products and dots, whose own derivatives came within
10 % of the best hand-written gradient; so jvp, vmap and Hessians need nothing here.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

# From this kernel side on, a depthwise sum is taken over columns of row sums: 2k slices for k*k.
# Forward and backward: 7x7 68 -> 20 ms, 5x5 stride 2 8.5 -> 5.9 ms, but 3x3 stride 2 6 -> 10 ms.
SEPARATE_FROM = 4
# Every tap is an operation to compile (49 of them: 0.5 s a layer); a larger kernel stays with lax.
MAX_TAPS = 128


class Window(NamedTuple):
    """One spatial axis: output o at tap i reads input o * stride + i * rate - low."""

    first: int  # the taps before it, and those from first + size on, read nothing but padding
    size: int  # taps kept
    stride: int
    rate: int  # the kernel's dilation
    low: int  # padding; negative crops
    high: int
    out: int  # length of the output
    outgrown: bool  # the kernel is larger than the map, input or output


# A part of the key of every cache of traces, so that no trace made for another backend is reused.
target = jax.make_user_context(None)
"""`with target('tpu'):` traces for that backend instead of the one at hand; local to the thread."""


def backend() -> str:
    """Where the program will run, asked while it is traced; a test may replace it."""
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
        windows = _windows(lhs.shape, rhs.shape, window_strides, padding, rhs_dilation or (1, 1))
    formulation = formulation or choose(windows, lhs.shape[-1], feature_group_count)
    if windows is None or formulation == "lax":
        return lax.conv_general_dilated(
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
    high, wide = windows
    pads = ((0, 0, 0), (high.low, high.high, 0), (wide.low, wide.high, 0), (0, 0, 0))
    lhs = lax.pad(lhs, jnp.zeros((), lhs.dtype), pads)
    rhs = rhs[high.first : high.first + high.size, wide.first : wide.first + wide.size]
    return FORMULATIONS[formulation](lhs, rhs, windows, feature_group_count, precision)


def choose(windows: tuple[Window, Window] | None, channels: int, groups: int = 1) -> str:
    """Name the quickest formulation on CPU, counting the backward pass."""
    if windows is None or windows[0].size * windows[1].size > MAX_TAPS:
        # A patch costs the same whatever its kernel: it is one reshape.
        small = windows is not None and groups == 1 and _outgrown(windows)
        return "patch" if small and _tiles(windows) else "lax"
    if groups > 1:
        return "depthwise" if groups == channels else "grouped"
    if all(w.size == 1 for w in windows):
        return "im2col"  # a 1x1 convolution is a dot: one tap, nothing to gather
    if _outgrown(windows):
        return "patch" if _tiles(windows) else "im2col"
    return "lax"


def _outgrown(windows: tuple[Window, Window]) -> bool:
    # XLA leaves its quick path once the kernel is larger than the map: the input in the forward
    # pass, the output in the input's gradient. On maps of 2x2 to 4x4 that costs 4 to 50 times.
    return any(w.outgrown for w in windows)


def _tiles(windows: tuple[Window, Window]) -> bool:
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


def _windows(
    lhs_shape: Sequence[int],
    rhs_shape: Sequence[int],
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    rates: Sequence[int],
) -> tuple[Window, Window] | None:
    extents, kernel = lhs_shape[1:3], rhs_shape[:2]
    if isinstance(padding, str):
        reach = [(k - 1) * r + 1 for k, r in zip(kernel, rates, strict=True)]
        padding = lax.padtype_to_pads(extents, reach, strides, padding)
    axes = zip(extents, kernel, strides, padding, rates, strict=True)
    windows = [_window(*axis) for axis in axes]
    return None if None in windows or 0 in lhs_shape + rhs_shape else tuple(windows)


def _window(n: int, k: int, stride: int, padding: tuple[int, int], rate: int) -> Window | None:
    low, high = padding
    reach = (k - 1) * rate + 1
    out = (n + low + high - reach) // stride + 1
    # A tap that never leaves the padding is dropped: 5x5 on a 2x2 map is 3x3, 3x3 on 1x1 is a dot.
    seen = [i for i in range(k) if any(0 <= o * stride + i * rate - low < n for o in range(out))]
    if not seen:
        return None
    size, low = seen[-1] - seen[0] + 1, low - seen[0] * rate
    high = (out - 1) * stride + (size - 1) * rate + 1 - n - low
    return Window(seen[0], size, stride, rate, low, high, out, min(n, out) < reach)


def _shifts(x: Array, window: Window, axis: int) -> list[Array]:
    """What each tap of one axis reads: size arrays, `out` long on that axis."""
    span = (window.out - 1) * window.stride + 1
    starts = range(0, window.size * window.rate, window.rate)
    return [lax.slice_in_dim(x, i, i + span, window.stride, axis) for i in starts]


def _im2col(x: Array, kernel: Array, windows: tuple[Window, Window], groups, precision) -> Array:
    """Gather what every tap reads, then one matmul."""
    high, wide = windows
    taps = [tap for row in _shifts(x, high, 1) for tap in _shifts(row, wide, 2)]
    taps = jnp.concatenate(taps, axis=-1) if len(taps) > 1 else taps[0]  # (b h' w' kh*kw*c)
    # y[b h w o] = sum_t taps[b h w t] kernel[t o]
    return jnp.matmul(taps, kernel.reshape(-1, kernel.shape[-1]), precision=precision)


def _patch(x: Array, kernel: Array, windows: tuple[Window, Window], groups, precision) -> Array:
    """Windows side by side are a reshape: nothing is gathered, whatever the kernel's size."""
    (high, wide), (b, _, _, c) = windows, x.shape
    x = x.reshape(b, high.out, high.size, wide.out, wide.size, c)
    # y[b h w o] = sum_ijc x[b h i w j c] kernel[i j c o]
    return jnp.einsum("bhiwjc,ijco->bhwo", x, kernel, precision=precision)


def _grouped(x: Array, kernel: Array, windows: tuple[Window, Window], groups, precision) -> Array:
    """Groups first, so that they are the batch axis of one batched matmul."""
    x = jnp.moveaxis(x.reshape(*x.shape[:3], groups, -1), 3, 0)  # (g b h w c/g)
    kernel = kernel.reshape(*kernel.shape[:3], groups, -1)
    kernel = jnp.moveaxis(kernel, 3, 0)  # (g kh kw c/g out/g)
    dense = functools.partial(_im2col, windows=windows, groups=1, precision=precision)
    y = jnp.moveaxis(jax.vmap(dense)(x, kernel), 0, 3)  # (b h' w' g out/g)
    return y.reshape(*y.shape[:3], -1)


def _depthwise(x: Array, kernel: Array, windows: tuple[Window, Window], groups, precision) -> Array:
    """Sum shifted copies of the map, in float32 at least: no channel meets another."""
    high, wide = windows
    dtype, wider = x.dtype, jnp.promote_types(x.dtype, jnp.float32)
    x, kernel = x.astype(wider), kernel.astype(wider)
    if kernel.shape[-1] > groups:  # a channel multiplier
        x = jnp.repeat(x, kernel.shape[-1] // groups, axis=-1)
    k = kernel[:, :, :, None, None]  # (kh kw 1 1 1 out)
    k = [[k[i, j] for j in range(wide.size)] for i in range(high.size)]
    rows = _shifts(x, high, 1)
    if max(high.size, wide.size) < SEPARATE_FROM:
        # y = sum_ij shift_ij(x) k_ij
        columns = [_shifts(row, wide, 2) for row in rows]
        y = sum(columns[i][j] * k[i][j] for i, j in np.ndindex(high.size, wide.size))
    else:
        # y = sum_j shift_j( sum_i shift_i(x) k_ij )
        columns = [sum(row * k[i][j] for i, row in enumerate(rows)) for j in range(wide.size)]
        y = sum(_shifts(column, wide, 2)[j] for j, column in enumerate(columns))
    return y.astype(dtype)


FORMULATIONS: dict[str, Callable | None] = {
    "lax": None,
    "im2col": _im2col,
    "patch": _patch,
    "grouped": _grouped,
    "depthwise": _depthwise,
}

# nn.Conv in every other respect: same parameters, same defaults, same initial values.
Conv = functools.partial(nn.Conv, conv_general_dilated=conv_general_dilated)
