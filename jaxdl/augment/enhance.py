"""Random brightness, contrast, saturation, sharpness and hue of bytes, as Pillow changes them.

A strength s draws a factor for each image from [max(0, 1 - s), 1 + s], as torchvision does: 1
leaves an image as it is. https://github.com/python-pillow/Pillow/blob/main/src/PIL/ImageEnhance.py
"""

from collections.abc import Callable
from typing import Annotated

import jax
import jax.numpy as jnp
import msgspec

from jaxdl.augment import colour
from jaxdl.augment.batch import Probability, image_bytes, some
from jaxdl.config import NonNegative
from jaxdl.registry import register
from jaxdl.types import Array, Batch

Turn = Annotated[float, msgspec.Meta(ge=0, le=0.5)]


def factors(key: Array, strength: float, b: int) -> Array:
    """(b,) drawn evenly from [max(0, 1 - strength), 1 + strength]."""
    return jax.random.uniform(key, (b,), minval=max(0.0, 1 - strength), maxval=1 + strength)


def _enhanced(
    key: Array,
    batch: Batch,
    name: str,
    change: Callable[[Array, Array], Array],
    strength: float,
    probability: float,
) -> Batch:
    image = image_bytes(batch, name)
    draw, whether = jax.random.split(key)
    changed = change(image, factors(draw, strength, image.shape[0]))
    return {**batch, "image": some(whether, probability, changed, image)}


@register("augmentations", pixels="uint8")
def random_brightness(
    key: Array,
    batch: Batch,
    /,
    *,
    strength: NonNegative = 0.4,
    probability: Probability = 1.0,
) -> Batch:
    """Multiply levels by a random factor.

    Args:
        strength: farthest that the factor goes from 1.
        probability: of changing an image.
    """
    return _enhanced(key, batch, "random_brightness", colour.brightened, strength, probability)


@register("augmentations", pixels="uint8")
def random_contrast(
    key: Array,
    batch: Batch,
    /,
    *,
    strength: NonNegative = 0.4,
    probability: Probability = 1.0,
) -> Batch:
    """Spread levels about the image's mean grey by a random factor.

    Args:
        strength: farthest that the factor goes from 1.
        probability: of changing an image.
    """
    return _enhanced(key, batch, "random_contrast", colour.contrasted, strength, probability)


@register("augmentations", pixels="uint8")
def random_saturation(
    key: Array,
    batch: Batch,
    /,
    *,
    strength: NonNegative = 0.4,
    probability: Probability = 1.0,
) -> Batch:
    """Spread the channels about each pixel's grey by a random factor.

    Args:
        strength: farthest that the factor goes from 1.
        probability: of changing an image.
    """
    return _enhanced(key, batch, "random_saturation", colour.saturated, strength, probability)


@register("augmentations", pixels="uint8")
def random_sharpness(
    key: Array,
    batch: Batch,
    /,
    *,
    strength: NonNegative = 0.9,
    probability: Probability = 1.0,
) -> Batch:
    """Spread levels about those of a smoothed image by a random factor: below 1 blurs.

    Args:
        strength: farthest that the factor goes from 1.
        probability: of changing an image.
    """
    return _enhanced(key, batch, "random_sharpness", colour.sharpened, strength, probability)


@register("augmentations", pixels="uint8")
def random_hue(
    key: Array, batch: Batch, /, *, strength: Turn = 0.1, probability: Probability = 1.0
) -> Batch:
    """Turn the colour circle by a random angle.

    Args:
        strength: the farthest, as a share of a whole turn.
        probability: of changing an image.
    """
    image = image_bytes(batch, "random_hue")
    draw, whether = jax.random.split(key)
    turn = jax.random.uniform(draw, image.shape[:1], minval=-strength, maxval=strength)
    changed = colour.turned_hue(image, turn)
    return {**batch, "image": some(whether, probability, changed, image)}


@register("augmentations", pixels="uint8")
def random_grayscale(key: Array, batch: Batch, /, *, probability: Probability = 0.2) -> Batch:
    """Take the colour out of images.

    Args:
        probability: of changing an image.
    """
    image = image_bytes(batch, "random_grayscale")
    changed = jnp.broadcast_to(colour.grey(image), image.shape)
    return {**batch, "image": some(key, probability, changed, image)}


@register("augmentations", pixels="uint8")
def color_jitter(
    key: Array,
    batch: Batch,
    /,
    *,
    brightness: NonNegative = 0.4,
    contrast: NonNegative = 0.4,
    saturation: NonNegative = 0.4,
    hue: Turn = 0.1,
    probability: Probability = 1.0,
) -> Batch:
    """Random brightness, contrast, saturation and hue, in this order.

    torchvision draws the order, for each image. What is 0 is not computed.
    SimCLR, appendix A: https://arxiv.org/abs/2002.05709.

    Args:
        brightness: farthest that the factor goes from 1.
        contrast: likewise.
        saturation: likewise.
        hue: the farthest turn, as a share of a whole one.
        probability: of changing an image.
    """
    image = image_bytes(batch, "color_jitter")
    b = image.shape[0]
    *keys, last, whether = jax.random.split(key, 5)
    changed = image
    stages = (colour.brightened, colour.contrasted, colour.saturated)
    strengths = (brightness, contrast, saturation)
    for k, change, strength in zip(keys, stages, strengths, strict=True):
        if strength:
            changed = change(changed, factors(k, strength, b))
    if hue:
        turn = jax.random.uniform(last, (b,), minval=-hue, maxval=hue)
        changed = colour.turned_hue(changed, turn)
    return {**batch, "image": some(whether, probability, changed, image)}
