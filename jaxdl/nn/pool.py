"""Poolings by name: (x, window, strides, padding) -> smaller maps, for x (b, h, w, c).

With a window larger than its stride, poolings overlap (3 by 2 in AlexNet).
"""

from collections.abc import Callable, Sequence
from typing import Annotated

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jaxdl.config import Positive
from jaxdl.registry import Of, register
from jaxdl.types import Array

Pool = Annotated[Callable[..., Array], Of("poolings")]
Padding = str | Sequence[tuple[int, int]]


@register("poolings", "max")
def max_pool(
    x: Array, window: tuple[int, int], strides: tuple[int, int], padding: Padding = "VALID", /
) -> Array:
    """The largest of each window; padding never wins."""
    return nn.max_pool(x, window_shape=window, strides=strides, padding=padding)


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
    mean = nn.avg_pool(
        x,
        window_shape=window,
        strides=strides,
        padding=padding,
        count_include_pad=count_padding,
    )
    return mean.astype(x.dtype)  # without padding, flax divides by float32 counts


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
