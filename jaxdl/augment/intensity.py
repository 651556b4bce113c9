"""Pointwise operations on bytes as tables of 256 entries, equal to Pillow's `ImageOps`.

A table says what becomes of each grey level; one look-up applies it. Tables are static NumPy
where the image does not matter, else drawn up on the device for each example and channel.
https://github.com/python-pillow/Pillow/blob/main/src/PIL/ImageOps.py
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.types import Array

LEVELS = np.arange(256)


def look_up(image: Array, table: Array) -> Array:
    """Each byte of image (b, h, w, c) through its table; table (b, c, 256) or (b, 1, 256).

    Alpha, the last channel of 2 or of 4, stays as it is.
    """
    channels = image.shape[-1]
    table = jnp.broadcast_to(table, (image.shape[0], channels, 256)).astype(jnp.uint8)
    if channels in (2, 4):
        table = table.at[:, -1].set(jnp.asarray(LEVELS, jnp.uint8))
    row = 256 * jnp.arange(channels)[None, None]
    read = lambda t, x: t.reshape(-1).at[x + row].get(mode="promise_in_bounds")
    return jax.vmap(read)(table, image)


def where_chosen(chosen: Array, build: Callable[[], Array], otherwise: Array) -> Array:
    """Tables (b, c, 256): `build()` for the chosen examples (b,), else `otherwise`.

    Nothing is built if none is chosen. This also makes XLA write the tables down, where else it
    would work out an entry anew for every pixel that reads it.
    """
    drawn_up = lambda: jnp.where(chosen[:, None, None], build().astype(jnp.uint8), otherwise)
    return jax.lax.cond(jnp.any(chosen), drawn_up, lambda: otherwise)


def inverted() -> np.ndarray:
    """(256,): x -> 255 - x."""
    return (255 - LEVELS).astype(np.uint8)


def solarized(threshold: float) -> np.ndarray:
    """(256,): levels at or above the threshold are inverted."""
    return np.where(threshold > LEVELS, LEVELS, 255 - LEVELS).astype(np.uint8)


def solarized_sum(addition: int, threshold: float = 128) -> np.ndarray:
    """(256,): levels below the threshold are raised by `addition`, at most to 255."""
    raised = np.clip(LEVELS + addition, 0, 255)
    return np.where(threshold > LEVELS, raised, LEVELS).astype(np.uint8)


def posterized(bits: int) -> np.ndarray:
    """(256,): only the highest `bits` of eight are kept."""
    return (LEVELS & ~((1 << (8 - bits)) - 1)).astype(np.uint8)


def gamma_table(power: Array) -> Array:
    """(b, 1, 256): levels to a power (b,), cut to whole levels as in torchvision."""
    # 255.999 (x / 255)^power
    fraction = jnp.asarray(LEVELS / 255, jnp.float32)
    return jnp.floor(255.999 * fraction[None] ** power[:, None])[:, None].astype(jnp.uint8)


def autocontrast_table(image: Array) -> Array:
    """(b, c, 256): the darkest level of each channel becomes 0 and the lightest 255."""
    low = jnp.min(image, (1, 2)).astype(jnp.int32)[..., None]
    spread = jnp.max(image, (1, 2)).astype(jnp.int32)[..., None] - low
    above = jnp.clip(jnp.asarray(LEVELS, jnp.int32)[None, None] - low, 0, spread)
    # 255 (x - low) / (high - low), rounded down
    exact = 255 * above // jnp.maximum(spread, 1)
    # Pillow says int(x * scale - low * scale) in float64, which at times misses a whole number
    # from below: these cases are written down.
    start, common, missed = (jnp.asarray(x) for x in _missed())
    whole = (255 * above) % jnp.maximum(spread, 1) == 0
    step = above * common[spread] // jnp.maximum(spread, 1)
    place = start[spread] + low * (common[spread] + 1) + step
    table = exact - (whole & missed[jnp.where(whole, place, 0)])
    return jnp.where(spread == 0, jnp.asarray(LEVELS, jnp.int32)[None, None], table)


@functools.cache
def _missed() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    # For a spread d, level low + x has a whole result iff x is a multiple of d / gcd(d, 255).
    common = np.array([1, *(math.gcd(d, 255) for d in range(1, 256))], np.int32)
    rows = [np.zeros((1, 2), bool)]
    for d in range(1, 256):
        low = np.arange(256 - d)[:, None]
        step = np.arange(common[d] + 1)
        scale = 255.0 / d
        said = ((low + step * (d // common[d])) * scale + -low * scale).astype(np.int64)
        rows.append(said < step * (255 // common[d]))
    start = np.cumsum([0, *(r.size for r in rows[:-1])]).astype(np.int32)
    return start, common, np.concatenate([r.reshape(-1) for r in rows])


def histogram(image: Array) -> Array:
    """(b, c, 256) int32: how often each level occurs in each channel."""
    channels = image.shape[-1]
    row = 256 * jnp.arange(channels)[None, None]
    empty = jnp.zeros(channels * 256, jnp.int32)
    count = lambda x: empty.at[x + row].add(1, mode="promise_in_bounds")
    return jax.vmap(count)(image).reshape(-1, channels, 256)


def equalize_table(image: Array) -> Array:
    """(b, c, 256): levels spread so that each is about equally frequent."""
    count = histogram(image)
    lightest = jnp.max(image, (1, 2)).astype(jnp.int32)[..., None]
    last = jnp.take_along_axis(count, lightest, -1)
    # step = pixels (without the lightest level's) // 255; level -> (step // 2 + darker) // step
    step = (image.shape[1] * image.shape[2] - last) // 255
    darker = jnp.cumsum(count, -1) - count
    table = jnp.minimum((step // 2 + darker) // jnp.maximum(step, 1), 255)
    return jnp.where(step == 0, jnp.asarray(LEVELS, jnp.int32)[None, None], table)
