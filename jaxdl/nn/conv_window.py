"""The window of a convolution or a pooling, one spatial axis at a time. Maps are (b, h, w, c)."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax


class Window(NamedTuple):
    """One axis: output o at tap i reads input o * stride + i * rate - low.

    Attributes:
        size: taps.
        stride: from one output to the next.
        rate: from one tap to the next, the kernel's dilation.
        low, high: padding, with which the last output's last tap is the last input; negative crops.
        extent: length of the input.
        out: length of the output.
        first: taps before these that read nothing but padding.
    """

    size: int
    stride: int
    rate: int
    low: int
    high: int
    extent: int
    out: int
    first: int = 0

    @property
    def reach(self) -> int:
        """From the first tap to the last."""
        return (self.size - 1) * self.rate + 1


Windows = tuple[Window, Window]


def windows_of(
    size: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    rates: Sequence[int] = (1, 1),
) -> Windows | None:
    """The windows of both axes without their idle taps; None where nothing comes out.

    Args:
        size: (h, w) of the input.
        kernel: (h, w) of the window.
        strides: of both axes.
        padding: 'SAME', 'VALID', or (low, high) of both axes.
        rates: dilation of the kernel.
    """
    if isinstance(padding, str):
        reach = [(k - 1) * r + 1 for k, r in zip(kernel, rates, strict=True)]
        padding = lax.padtype_to_pads(size, reach, strides, padding)
    axes = zip(size, kernel, strides, padding, rates, strict=True)
    windows = [_window(*axis) for axis in axes]
    return None if None in windows else tuple(windows)


def filled(y: Array, size: Sequence[int], kernel: Sequence[int]) -> Array:
    """`y`, the map of windows (h, w) over an input (h, w).

    Raises:
        ValueError: if it is empty, since no window fits into the input.
    """
    if not y.size:
        window, image = ("x".join(map(str, side)) for side in (kernel, size))
        raise ValueError(f"a window of {window} does not fit into a map of {image}")
    return y


def _window(n: int, k: int, stride: int, padding: tuple[int, int], rate: int) -> Window | None:
    low, high = padding
    out = (n + low + high - (k - 1) * rate - 1) // stride + 1
    # A tap that never leaves the padding is dropped: 5x5 on a 2x2 map is 3x3, 3x3 on 1x1 is a dot.
    seen = [i for i in range(k) if any(0 <= o * stride + i * rate - low < n for o in range(out))]
    if not seen:
        return None
    size = seen[-1] - seen[0] + 1
    return fitted(size, stride, rate, low - seen[0] * rate, n, out)._replace(first=seen[0])


def fitted(size: int, stride: int, rate: int, low: int, extent: int, out: int) -> Window:
    """A window whose upper padding follows from the rest."""
    high = (out - 1) * stride + (size - 1) * rate + 1 - extent - low
    return Window(size, stride, rate, low, high, extent, out)


def pad(x: Array, windows: Windows, value: float = 0.0) -> Array:
    """The map with its padding, (b, h + low + high, w + low + high, c)."""
    tall, wide = windows
    pads = ((0, 0, 0), (tall.low, tall.high, 0), (wide.low, wide.high, 0), (0, 0, 0))
    return lax.pad(x, jnp.asarray(value, x.dtype), pads)


def shifts(x: Array, window: Window, axis: int) -> list[Array]:
    """Slices of a padded map for each tap of one axis: `size` arrays, `out` long on that axis."""
    span = (window.out - 1) * window.stride + 1
    starts = range(0, window.size * window.rate, window.rate)
    return [lax.slice_in_dim(x, i, i + span, window.stride, axis) for i in starts]


def gather(x: Array, windows: Windows) -> list[Array]:
    """Slices of a padded map for each tap of both axes, row by row."""
    tall, wide = windows
    return [tap for row in shifts(x, tall, 1) for tap in shifts(row, wide, 2)]
