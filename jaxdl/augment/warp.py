"""Affine maps of whole batches, pixel for pixel those of `PIL.Image.transform`.

A map is Pillow's: coefficients (a, b, c, d, e, f) send the place (x, y) of an output pixel to the
place (a x + b y + c, d x + e y + f) it is read from, where the pixel (i, j) is centred on
(j + 1/2, i + 1/2). Pillow does nearest-neighbour maps in fixed point, 1/65536 of a pixel, and so
do we: coefficients that come in float64 from NumPy give its very pixels.
https://github.com/python-pillow/Pillow/blob/main/src/libImaging/Geometry.c
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.augment.batch import Interpolation, segmentation_mask
from jaxdl.types import VOID, Array, Batch

UNIT = 1 << 16
IDENTITY = np.array([UNIT, 0, UNIT // 2, 0, UNIT, UNIT // 2], np.int32)
"""Matrix of the identity: every pixel stays where it is."""


def to_fixed(coefficients: Array | np.ndarray) -> Array | np.ndarray:
    """Coefficients (..., 6) in 1/65536 of a pixel, int32, for pixels counted from their corner.

    NumPy in, NumPy out, in the precision given; else JAX.
    """
    xp = np if isinstance(coefficients, np.ndarray) else jnp
    a, b, c, d, e, f = (coefficients[..., i] for i in range(6))
    centred = xp.stack([a, b, c + a * 0.5 + b * 0.5, d, e, f + d * 0.5 + e * 0.5], -1)
    return xp.floor(centred * UNIT + 0.5).astype(xp.int32)


def affine(
    degrees: Array | float,
    translate: tuple[Array | float, Array | float],
    scale: Array | float,
    shear: tuple[Array | float, Array | float],
    size: tuple[int, int],
) -> Array | np.ndarray:
    """Coefficients (..., 6) of: shear and scale about the centre, rotate about it, then translate.

    Args:
        degrees: counter-clockwise, as in `PIL.Image.rotate`.
        translate: pixels to the right and down.
        scale: above 1 enlarges.
        shear: pixels to the right for each pixel down, and down for each to the right.
        size: height and width of the images.
    """
    xp = jnp if isinstance(degrees, jax.Array) else np
    turn = xp.radians(degrees)
    cos, sin = xp.cos(turn), xp.sin(turn)
    across, down = shear
    # The way back: (1/s) Y(-down) X(-across) R(-turn), the output's centre moved by `translate`.
    first, second = (cos - across * sin) / scale, (-sin - across * cos) / scale
    a, b = first, second
    d, e = sin / scale - down * first, cos / scale - down * second
    y, x = size[0] / 2, size[1] / 2
    right, low = x + translate[0], y + translate[1]
    parts = [a, b, x - a * right - b * low, d, e, y - d * right - e * low]
    return xp.stack(xp.broadcast_arrays(*map(xp.asarray, parts)), -1)


def warp(
    image: Array, matrix: Array, interpolation: Interpolation = "nearest", fill: float = 0
) -> Array:
    """Each image read through a map of its own, at its old size.

    Args:
        image: (b, h, w) or (b, h, w, c), of any type.
        matrix: (b, 6) int32, from `to_fixed`.
        interpolation: 'nearest' equals Pillow; 'bilinear' is at most one grey level from it, save
            within 1/300 pixel of the image's border, which the two may see on either side.
        fill: what stands where the map leads outside the image.
    """
    h, w = image.shape[1:3]
    across, down = jnp.arange(w, dtype=jnp.int32), jnp.arange(h, dtype=jnp.int32)[:, None]
    a, b, c, d, e, f = (matrix[:, i, None, None] for i in range(6))
    x = a * across[None, None] + b * down[None] + c
    y = d * across[None, None] + e * down[None] + f
    inside = (x >= 0) & (x >> 16 < w) & (y >= 0) & (y >> 16 < h)

    def at(row: Array, column: Array) -> Array:
        place = jnp.clip(row, 0, h - 1) * w + jnp.clip(column, 0, w - 1)
        read = lambda flat, i: flat.at[i].get(mode="promise_in_bounds")
        return jax.vmap(read)(image.reshape(image.shape[0], h * w, *image.shape[3:]), place)

    if interpolation == "nearest":
        out = at(y >> 16, x >> 16)
    else:
        x, y = x - UNIT // 2, y - UNIT // 2
        fraction = lambda z: _like((z & (UNIT - 1)).astype(jnp.float32) / UNIT, image)
        across, down = fraction(x), fraction(y)
        row, column = y >> 16, x >> 16
        between = lambda low, high, at: low + (high - low) * at
        corner = lambda i, j: at(row + i, column + j).astype(jnp.float32)
        top = between(corner(0, 0), corner(0, 1), across)
        bottom = between(corner(1, 0), corner(1, 1), across)
        out = between(top, bottom, down).astype(image.dtype)
    return jnp.where(_like(inside, image), out, jnp.asarray(fill, image.dtype))


def _like(x: Array, image: Array) -> Array:
    return x if image.ndim == 3 else x[..., None]


def warped(batch: Batch, matrix: Array, interpolation: Interpolation, fill: float) -> Batch:
    """The batch with its images warped, and with them its masks: nearest, `VOID` outside."""
    moved = {**batch, "image": warp(batch["image"], matrix, interpolation, fill)}
    label = segmentation_mask(batch)
    if label is not None:
        moved["label"] = warp(label, matrix, "nearest", VOID)
    return moved
