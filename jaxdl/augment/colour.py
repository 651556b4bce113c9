"""Brightness, contrast, saturation, sharpness and hue of bytes, equal to Pillow's `ImageEnhance`.

All but hue are blends with a degenerate image: black, its mean grey, its greys, itself smoothed.
The last channel of 2 or of 4 is alpha, and stays as it is.
https://github.com/python-pillow/Pillow/blob/main/src/PIL/ImageEnhance.py
"""

import jax
import jax.numpy as jnp

from jaxdl.augment.batch import sides, with_alpha
from jaxdl.types import Array


def blend(degenerate: Array, image: Array, factor: Array) -> Array:
    """degenerate + factor (image - degenerate), cut to bytes as `PIL.Image.blend` does.

    Args:
        degenerate: (b, ...) of levels 0..255, broadcast against `image`.
        image: (b, ...) of levels 0..255.
        factor: (b,) float32: 0 gives `degenerate`, 1 gives `image`, above 1 goes beyond it.
    """
    factor = sides(factor, image)
    degenerate = degenerate.astype(jnp.float32)
    difference = image.astype(jnp.float32) - degenerate
    # The product must be rounded on its own, and a compiler may fuse products with sums. Products
    # of the halves are exact, so that only their sum is rounded, fused or not.
    high, low = _halves(factor)
    product = high * difference + low * difference
    return with_alpha(jnp.clip(degenerate + product, 0, 255).astype(jnp.uint8), image)


def _halves(x: Array) -> tuple[Array, Array]:
    # float32 as a sum of two with 12 bits each: either times a byte is exact.
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32) & jnp.uint32(0xFFFFF000)
    high = jax.lax.bitcast_convert_type(bits, jnp.float32)
    return high, x - high


def grey(image: Array) -> Array:
    """(b, h, w, 1) uint8: luma by ITU-R 601-2, as `PIL.Image.convert('L')`; grey stays grey."""
    if image.shape[-1] < 3:
        return image[..., :1]
    r, g, b = (image[..., i : i + 1].astype(jnp.int32) for i in range(3))
    return ((19595 * r + 38470 * g + 7471 * b + (1 << 15)) >> 16).astype(jnp.uint8)


def mean_grey(image: Array) -> Array:
    """(b,) int32: the mean of the greys, rounded."""
    pixels = image.shape[1] * image.shape[2]
    total = jnp.sum(grey(image), (1, 2, 3), dtype=jnp.uint32)
    rest = total % pixels
    return (total // pixels + (2 * rest >= pixels)).astype(jnp.int32)


def smooth(image: Array) -> Array:
    """`PIL.ImageFilter.SMOOTH`: 3 x 3 means, the middle counted five times; the border is kept."""
    if min(image.shape[1:3]) < 3:
        return image
    x = image.astype(jnp.int32)
    rows = x[:, :-2] + x[:, 1:-1] + x[:, 2:]
    total = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * x[:, 1:-1, 1:-1]
    # total / 13, rounded to the nearest; a half cannot occur
    inner = ((2 * total + 13) // 26).astype(image.dtype)
    return image.at[:, 1:-1, 1:-1].set(inner)


def brightened(image: Array, factor: Array) -> Array:
    """`ImageEnhance.Brightness`; factor (b,)."""
    return blend(jnp.zeros_like(image), image, factor)


def contrasted(image: Array, factor: Array) -> Array:
    """`ImageEnhance.Contrast`; factor (b,)."""
    return blend(sides(mean_grey(image), image), image, factor)


def saturated(image: Array, factor: Array) -> Array:
    """`ImageEnhance.Color`; factor (b,). A grey image is left as it is."""
    return blend(grey(image), image, factor) if image.shape[-1] >= 3 else image


def sharpened(image: Array, factor: Array) -> Array:
    """`ImageEnhance.Sharpness`; factor (b,)."""
    return blend(smooth(image), image, factor)


def turned_hue(image: Array, turn: Array) -> Array:
    """Hues moved along the colour circle, through 8-bit HSV as in Pillow and torchvision.

    Equal to Pillow, for all 2^24 colours. A grey image is left as it is.

    Args:
        image: (b, h, w, c) uint8.
        turn: (b,) float32 fraction of a whole turn, in [-1/2, 1/2]; 1/255 is the least step.
    """
    if image.shape[-1] < 3:
        return image
    shift = (turn * 255).astype(jnp.int32)  # towards zero, as torchvision
    hue, saturation, value = _hsv(image)
    hue = (hue + sides(shift, hue)) & 255
    # Without the barrier XLA works all of this out once more for each channel.
    turned = _rgb(*jax.lax.optimization_barrier((hue, saturation, value)))
    return jnp.concatenate([turned, image[..., 3:]], axis=-1) if image.shape[-1] > 3 else turned


def _hsv(image: Array) -> tuple[Array, Array, Array]:
    r, g, b = (image[..., i].astype(jnp.int32) for i in range(3))
    high, low = jnp.maximum(r, jnp.maximum(g, b)), jnp.minimum(r, jnp.minimum(g, b))
    spread = high - low
    safe = jnp.maximum(spread, 1)
    # How far below the highest the middle channel lies, as a fraction of the spread.
    below = (high - (r + g + b - high - low)).astype(jnp.float32) / safe.astype(jnp.float32)
    red, green = r == high, g == high
    # Sixths of a turn from red; the lowest channel says on which side of its own hue a colour is.
    of_red = jnp.where(b == low, 1.0 - below, below - 1.0)
    of_green = jnp.where(b == low, 1.0 + below, 3.0 - below)
    of_blue = jnp.where(g == low, 5.0 - below, 3.0 + below)
    sixths = jnp.where(red, of_red, jnp.where(green, of_green, of_blue))
    # Sixes that XLA may not see as one constant, lest it multiply by a rounded sixth instead.
    fraction = sixths / jax.lax.optimization_barrier(jnp.full_like(sixths, 6))
    fraction = jnp.where(fraction < 0, fraction + 1.0, fraction)
    hue = jnp.where(spread == 0, 0, _of_255(fraction))
    saturation = _of_255(spread.astype(jnp.float32) / jnp.maximum(high, 1).astype(jnp.float32))
    return hue, saturation, high


def _of_255(fraction: Array) -> Array:
    # floor(255 fraction) in exact arithmetic: a float32 product can round up to the next integer.
    whole = jnp.floor(fraction * 255)
    high, low = _halves(fraction)
    return (whole - ((high * 255 - whole) + low * 255 < 0)).astype(jnp.int32)


def _rgb(hue: Array, saturation: Array, value: Array) -> Array:
    sixth, rest = hue * 6 // 255, hue * 6 % 255
    rounded = lambda numerator, denominator: (2 * numerator + denominator) // (2 * denominator)
    lowest = rounded(value * (255 - saturation), 255)
    towards = jnp.where(sixth % 2 == 1, rest, 255 - rest)
    middle = rounded(value * (65025 - saturation * towards), 65025)

    def channel(own: int) -> Array:
        # Highest in the sixths on both sides of its own hue, middle in the next, lowest opposite.
        away = (sixth - own) % 6
        near, next_ = (away == 0) | (away == 5), (away == 1) | (away == 4)
        return jnp.where(near, value, jnp.where(next_, middle, lowest))

    return jnp.stack([channel(0), channel(2), channel(4)], -1).astype(jnp.uint8)
