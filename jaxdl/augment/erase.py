"""A rectangle of each image is erased, so that no part of an object can be relied on alone.

Pixels keep their type. A segmentation mask keeps its labels: the network is to predict what is
hidden from what is around it.
"""

import math
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import msgspec

from jaxdl.augment.batch import Probability, ordered, some
from jaxdl.config import Count, Positive
from jaxdl.errors import UserError
from jaxdl.registry import register
from jaxdl.types import Array, Batch

Grey = Annotated[float, msgspec.Meta(ge=0, le=1)]


def inside(corner: Array, size: Array, shape: tuple[int, int]) -> Array:
    """A rectangle as a mask: (n, 2) row and column, (n, 2) height and width -> (n, h, w) bool.

    Args:
        corner: the first row and column; it may lie outside.
        size: rows and columns.
        shape: (h, w).
    """

    def along(axis: int) -> Array:
        place = jnp.arange(shape[axis])[None]
        begin, length = corner[:, axis, None], size[:, axis, None]
        return (place >= begin) & (place < begin + length)

    return along(0)[:, :, None] & along(1)[:, None, :]


def _filled(image: Array, mask: Array, key: Array, fill: str, value: float) -> Array:
    """The image with `value` or noise, on the scale of [0, 1], where the mask (b, h, w) is True."""
    if fill == "noise":
        new = jax.random.uniform(key, image.shape)
    else:
        new = jnp.full((1, 1, 1, 1), value, jnp.float32)
    if jnp.issubdtype(image.dtype, jnp.integer):
        new = jnp.round(255 * new)
    return jnp.where(mask[..., None], new.astype(image.dtype), image)


@register("augmentations")
def random_erasing(
    key: Array,
    batch: Batch,
    /,
    *,
    probability: Probability = 0.5,
    area: tuple[Positive, Positive] = (0.02, 0.4),
    aspect: tuple[Positive, Positive] = (0.3, 3.33),
    fill: Literal["noise", "constant"] = "noise",
    value: Grey = 0.0,
) -> Batch:
    """Replace a rectangle inside each image, with some probability, by noise of its own.

    Random Erasing Data Augmentation. Zhong, Zheng, Kang, Li, Yang 2017.
    https://arxiv.org/abs/1708.04896. As in torchvision the aspect is uniform in its logarithm, so
    that tall and wide come alike; a side that would be longer than the image is cut to it, where
    the paper draws again.

    Args:
        key: draws for each example on its own.
        batch: images (b, h, w, c), bytes in [0, 255] or floats in [0, 1].
        probability: that an image is touched at all.
        area: least and largest fraction of the image.
        aspect: least and largest height over width.
        fill: uniform noise for each number, or one `value`.
        value: 0 for black, 1 for white.
    """
    ordered("random_erasing", "area", area, 0)
    ordered("random_erasing", "aspect", aspect, 0)
    if area[1] > 1:
        raise UserError(f"augmentation 'random_erasing': an area of {area[1]} is more than all")
    image = batch["image"]
    b, h, w = image.shape[:3]
    chosen, extent, slant, place, noise = jax.random.split(key, 5)
    between = lambda key, low, high: jax.random.uniform(key, (b, 1), minval=low, maxval=high)
    pixels = h * w * between(extent, *area)
    ratio = jnp.exp(between(slant, *map(math.log, aspect)))
    # height = sqrt(S r), width = sqrt(S / r), for an area S and an aspect r = height / width
    size = jnp.round(jnp.sqrt(pixels * jnp.concatenate([ratio, 1 / ratio], axis=1)))
    size = jnp.clip(size.astype(jnp.int32), 1, jnp.array([[h, w]]))
    corner = jax.random.randint(place, (b, 2), 0, jnp.array([[h, w]]) - size + 1)
    erased = _filled(image, inside(corner, size, (h, w)), noise, fill, value)
    return {**batch, "image": some(chosen, probability, erased, image)}


@register("augmentations")
def cutout(key: Array, batch: Batch, /, *, size: Count = 16, value: Grey = 0.5) -> Batch:
    """Replace a square of each image, centred on any of its pixels, by one grey.

    Improved Regularization of Convolutional Neural Networks with Cutout. DeVries, Taylor 2017.
    https://arxiv.org/abs/1708.04552. The square may stick out, which the paper found to matter.
    It fills with zero after normalisation; here pixels are not normalised yet, so that `value`
    is to be their mean.

    Args:
        key: draws a centre for each example.
        batch: images (b, h, w, c), bytes in [0, 255] or floats in [0, 1].
        size: side of the square.
        value: 0 for black, 1 for white.
    """
    image = batch["image"]
    h, w = image.shape[1:3]
    centre = jax.random.randint(key, (image.shape[0], 2), 0, jnp.array([[h, w]]))
    mask = inside(centre - size // 2, jnp.full_like(centre, size), (h, w))
    return {**batch, "image": _filled(image, mask, key, "constant", value)}
