"""Poolings by name: (x, window, strides, padding) -> smaller maps, for x (b, h, w, c).

With a window larger than its stride, poolings overlap (3 by 2 in AlexNet).

On CPU, XLA is slow at the gradients of both: it searches each window for its largest again, and
adds means in a scalar loop. There they are written as sums and comparisons of shifted maps, rows
of columns (32x32x32x64, 3x3 by 2, forward and backward: max 38.8 -> 4.1 ms, mean 11.8 -> 1.5 ms).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Annotated

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jaxdl.config import Positive
from jaxdl.nn.conv import backend
from jaxdl.nn.conv_window import Window, Windows, filled, pad, shifts, windows_of
from jaxdl.registry import Of, register
from jaxdl.types import Array

Pool = Annotated[Callable[..., Array], Of("poolings")]
Padding = str | Sequence[tuple[int, int]]

# Every shift is an operation to compile; a larger window is left to XLA.
MAX_SHIFTS = 16


@register("poolings", "max")
def max_pool(
    x: Array, window: tuple[int, int], strides: tuple[int, int], padding: Padding = "VALID", /
) -> Array:
    """The largest of each window; padding never wins. Of equals the first has the gradient."""
    windows = _shifted(x, window, strides, padding)
    if windows is not None:
        return _reduce(_larger, pad(x, windows, -jnp.inf), windows)
    largest = nn.max_pool(x, window_shape=window, strides=strides, padding=padding)
    return filled(largest, x.shape[1:-1], window) if x.size else largest


@register("poolings", "avg")
def avg_pool(
    x: Array,
    window: tuple[int, int],
    strides: tuple[int, int],
    padding: Padding = "VALID",
    /,
    *,
    count_padding: bool = False,
) -> Array:
    """The mean of each window, `count_padding` says whether over its padding too."""
    windows = _shifted(x, window, strides, padding)
    # Windows side by side are added up quickly as they are.
    if windows is not None and tuple(window) != tuple(strides):
        total = _reduce(jnp.add, pad(x, windows), windows)
        if count_padding:
            return total / (window[0] * window[1])
        inside = [_inside(w) for w in windows]
        return total / np.outer(*inside).astype(x.dtype)[None, :, :, None]
    mean = nn.avg_pool(
        x,
        window_shape=window,
        strides=strides,
        padding=padding,
        count_include_pad=count_padding,
    )
    mean = filled(mean, x.shape[1:-1], window) if x.size else mean
    return mean.astype(x.dtype)  # without padding, flax divides by float32 counts


def _shifted(x: Array, window, strides, padding) -> Windows | None:
    """The windows, where shifted maps are the quicker way and the gradient is the same."""
    images = x.ndim == 4 and jnp.issubdtype(x.dtype, jnp.floating)
    if backend() != "cpu" or not images or sum(window) > MAX_SHIFTS:
        return None
    return windows_of(x.shape[1:3], window, strides, padding)


def _reduce(combine: Callable, x: Array, windows: Windows) -> Array:
    tall, wide = windows
    across = functools.reduce(combine, shifts(x, wide, 2))
    return functools.reduce(combine, shifts(across, tall, 1))


def _larger(a: Array, b: Array) -> Array:
    # a, unless b is larger or no number
    return jnp.where((b > a) | (b != b), b, a)


def _inside(window: Window) -> np.ndarray:
    reads = np.arange(window.out)[:, None] * window.stride + np.arange(window.size) - window.low
    return ((reads >= 0) & (reads < window.extent)).sum(axis=1)


@register("poolings", "lp")
def lp_pool(
    x: Array,
    window: tuple[int, int],
    strides: tuple[int, int],
    padding: Padding = "VALID",
    /,
    *,
    p: Positive = 2.0,
) -> Array:
    """(mean |x|^p)^(1/p): between the mean and the largest. https://arxiv.org/abs/1204.3968"""
    tiny = jnp.finfo(x.dtype).tiny  # the root has no gradient at 0
    mean = avg_pool(jnp.abs(x) ** p, window, strides, padding)
    return jnp.maximum(mean, tiny) ** (1 / p)


def adaptive_avg_pool(x: Array, size: tuple[int, int]) -> Array:
    """Means over windows that divide the map into `size`, overlapping where it does not divide.

    (b, h, w, c) -> (b, *size, c). Window i of n is [floor(i h / n), ceil((i + 1) h / n)), as
    PyTorch's; a map smaller than `size` is repeated.
    """
    if x.shape[1:3] == size:
        return x
    rows, columns = (_windows(n, out) for n, out in zip(x.shape[1:3], size, strict=True))
    return jnp.einsum("bhwc,ph,qw->bpqc", x, rows.astype(x.dtype), columns.astype(x.dtype))


def _windows(n: int, out: int) -> np.ndarray:
    start = np.arange(out) * n // out
    stop = -(-(np.arange(out) + 1) * n // out)
    inside = (np.arange(n) >= start[:, None]) & (np.arange(n) < stop[:, None])
    return inside / inside.sum(axis=1, keepdims=True)


def ceil_padding(
    size: Sequence[int], window: int, stride: int, padding: int = 0
) -> tuple[tuple[int, int], ...]:
    """Padding for which the last, incomplete window counts too: Caffe's and PyTorch's ceil mode."""
    pads = []
    for n in size:
        out = -(-(n + 2 * padding - window) // stride) + 1
        if (out - 1) * stride >= n + padding:
            out -= 1  # a window that would start in the padding is none
        pads.append((padding, max(padding, (out - 1) * stride + window - n - padding)))
    return tuple(pads)
