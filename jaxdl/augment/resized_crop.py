"""Crops of random size and shape, resized: the augmentation of most ImageNet recipes.

Going Deeper with Convolutions. Szegedy et al. 2014, section 6. https://arxiv.org/abs/1409.4842

Boxes are drawn as in torchvision: up to ten tries for a box of random area and shape that fits,
else the largest middle box of an allowed shape. Resizing is Pillow's: each output pixel is a mean
weighted by a triangle that widens as the image shrinks, so that shrinking does not alias.
"""

import jax
import jax.numpy as jnp

from jaxdl.augment.batch import Interpolation, ordered, segmentation_mask
from jaxdl.config import Count, Positive
from jaxdl.errors import UserError
from jaxdl.registry import register
from jaxdl.types import Array, Batch

TRIES = 10


@register("augmentations")
def random_resized_crop(
    key: Array,
    batch: Batch,
    /,
    *,
    size: Count | None = None,
    area: tuple[Positive, Positive] = (0.08, 1.0),
    shape: tuple[Positive, Positive] = (3 / 4, 4 / 3),
    interpolation: Interpolation = "bilinear",
) -> Batch:
    """Cut a random box out of each image and resize it; a segmentation mask goes along, nearest.

    Args:
        size: height and width of the result; null keeps the images' size.
        area: least and greatest fraction of the image.
        shape: least and greatest width over height, drawn evenly on a logarithmic scale.
        interpolation: 'bilinear', at most one grey level from Pillow's, or 'nearest'.
    """
    ordered("random_resized_crop", "area", area, 0)
    ordered("random_resized_crop", "shape", shape, 0)
    if area[1] > 1:
        raise UserError(
            f"augmentation 'random_resized_crop': area is a fraction, at most 1: {area}"
        )
    image, label = batch["image"], segmentation_mask(batch)
    b, h, w, _ = image.shape
    out = (size, size) if size else (h, w)
    top, left, height, width = boxes(key, b, (h, w), area, shape)
    resize = resized if interpolation == "bilinear" else resized_nearest
    batch = {**batch, "image": resize(image, (top, height), (left, width), out)}
    if label is not None:
        batch["label"] = resized_nearest(label, (top, height), (left, width), out)
    return batch


def boxes(
    key: Array,
    b: int,
    size: tuple[int, int],
    area: tuple[float, float],
    shape: tuple[float, float],
) -> tuple[Array, Array, Array, Array]:
    """Top, left, height and width (b,) int32 of random boxes within images of `size`."""
    h, w = size
    extent, form, row, column = jax.random.split(key, 4)
    pixels = h * w * jax.random.uniform(extent, (b, TRIES), minval=area[0], maxval=area[1])
    low, high = jnp.log(shape[0]), jnp.log(shape[1])
    ratio = jnp.exp(jax.random.uniform(form, (b, TRIES), minval=low, maxval=high))
    # width / height = ratio, width * height = pixels
    width = jnp.round(jnp.sqrt(pixels * ratio)).astype(jnp.int32)
    height = jnp.round(jnp.sqrt(pixels / ratio)).astype(jnp.int32)
    fits = (width > 0) & (width <= w) & (height > 0) & (height <= h)
    first = jnp.argmax(fits, -1)[:, None]
    pick = lambda x: jnp.take_along_axis(x, first, -1)[:, 0]
    some = jnp.any(fits, -1)
    # The largest box in the middle: as wide or as high as the image, its shape within bounds.
    middle_h, middle_w = min(h, round(w / shape[0])), min(w, round(h * shape[1]))
    height, width = jnp.where(some, pick(height), middle_h), jnp.where(some, pick(width), middle_w)
    place = lambda k, room: jnp.floor(jax.random.uniform(k, (b,)) * (room + 1)).astype(jnp.int32)
    top = jnp.where(some, jnp.minimum(place(row, h - height), h - height), (h - middle_h) // 2)
    left = jnp.where(some, jnp.minimum(place(column, w - width), w - width), (w - middle_w) // 2)
    return top, left, height, width


Span = tuple[Array, Array]
"""First pixel and length (b,) along an axis."""


def _weights(span: Span, before: int, after: int) -> Array:
    # (b, after, before): the fraction of each input pixel in each output pixel.
    start, length = (x.astype(jnp.float32)[:, None, None] for x in span)
    scale = length / after
    centre = start + (jnp.arange(after)[None, :, None] + 0.5) * scale
    pixel = jnp.arange(before, dtype=jnp.float32)[None, None] + 0.5
    # max(0, 1 - |pixel - centre| / support), within the box, summing to one
    triangle = jnp.maximum(0, 1 - jnp.abs(pixel - centre) / jnp.maximum(scale, 1))
    triangle = jnp.where((pixel > start) & (pixel < start + length), triangle, 0)
    return triangle / jnp.sum(triangle, -1, keepdims=True)


def resized(image: Array, rows: Span, columns: Span, out: tuple[int, int]) -> Array:
    """The box of each image (b, h, w, c) at the size `out`, at most a level from Pillow's."""
    down = _weights(rows, image.shape[1], out[0])
    across = _weights(columns, image.shape[2], out[1])
    x = image.astype(jnp.float32)
    x = jnp.einsum("bjw,bhwc->bhjc", across, x, precision="highest")
    if image.dtype == jnp.uint8:
        x = jnp.floor(x + 0.5)  # Pillow keeps bytes between the two passes
    x = jnp.einsum("bih,bhjc->bijc", down, x, precision="highest")
    if image.dtype == jnp.uint8:
        x = jnp.clip(jnp.floor(x + 0.5), 0, 255)
    return x.astype(image.dtype)


def resized_nearest(image: Array, rows: Span, columns: Span, out: tuple[int, int]) -> Array:
    """The box of each image (b, h, w[, c]) at the size `out`, of the pixels under new centres.

    Where a new centre falls on the border of two old pixels, it is the latter; Pillow's running
    sum may say the former.
    """

    def along(span: Span, after: int) -> Array:
        start, length = (x[:, None] for x in span)
        # The pixel under start + (i + 1/2) length / after, in whole numbers.
        return start + (2 * jnp.arange(after)[None] + 1) * length // (2 * after)

    i, j = along(rows, out[0]), along(columns, out[1])
    read = lambda x, i, j: x[i[:, None], j[None]]
    return jax.vmap(read)(image, i, j)
