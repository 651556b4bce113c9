"""Random brightness, contrast, saturation, sharpness and hue of bytes, as Pillow changes them.

A strength s draws a factor for each image from [max(0, 1 - s), 1 + s], as torchvision does: 1
leaves an image as it is. https://github.com/python-pillow/Pillow/blob/main/src/PIL/ImageEnhance.py
"""

from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import msgspec

from jaxdl.augment import colour
from jaxdl.augment.batch import Probability, image_bytes, some, with_alpha
from jaxdl.config import NonNegative
from jaxdl.registry import register
from jaxdl.types import Array, Batch

Turn = Annotated[float, msgspec.Meta(ge=0, le=0.5)]


def factors(key: Array, strength: float, b: int) -> Array:
    """(b,) drawn evenly from [max(0, 1 - strength), 1 + strength]."""
    return jax.random.uniform(key, (b,), minval=max(0.0, 1 - strength), maxval=1 + strength)


def turns(key: Array, strength: float, b: int) -> Array:
    """(b,) drawn evenly from [-strength, strength]."""
    return jax.random.uniform(key, (b,), minval=-strength, maxval=strength)


def _enhancer(
    name: str,
    about: str,
    change: Callable[[Array, Array], Array],
    usual: float,
    draw: Callable[[Array, float, int], Array] = factors,
    kind: Any = NonNegative,
    farthest: str = "farthest that the factor goes from 1",
) -> Callable[..., Batch]:
    """Register the augmentation that changes images by a number which it draws for each of them.

    Args:
        name: of the augmentation.
        about: the first line of its description.
        change: (images, a number for each) -> images.
        usual: its strength unless a config says another.
        draw: (key, strength, b) -> (b,) numbers.
        kind: the type of a strength.
        farthest: the meaning of a strength.
    """

    def enhance(
        key: Array,
        batch: Batch,
        /,
        *,
        strength: kind = usual,
        probability: Probability = 1.0,
    ) -> Batch:
        image = image_bytes(batch, name)
        drawn, whether = jax.random.split(key)
        changed = change(image, draw(drawn, strength, image.shape[0]))
        return {**batch, "image": some(whether, probability, changed, image)}

    enhance.__name__ = enhance.__qualname__ = name
    enhance.__doc__ = f"""{about}

    Args:
        strength: {farthest}.
        probability: of changing an image.
    """
    return register("augmentations", pixels="uint8")(enhance)


random_brightness = _enhancer(
    "random_brightness", "Multiply levels by a random factor.", colour.brightened, 0.4
)
random_contrast = _enhancer(
    "random_contrast",
    "Spread levels about the image's mean grey by a random factor.",
    colour.contrasted,
    0.4,
)
random_saturation = _enhancer(
    "random_saturation",
    "Spread the channels about each pixel's grey by a random factor.",
    colour.saturated,
    0.4,
)
random_sharpness = _enhancer(
    "random_sharpness",
    "Spread levels about those of a smoothed image by a random factor: below 1 blurs.",
    colour.sharpened,
    0.9,
)
random_hue = _enhancer(
    "random_hue",
    "Turn the colour circle by a random angle.",
    colour.turned_hue,
    0.1,
    turns,
    Turn,
    "the farthest, as a fraction of a whole turn",
)


@register("augmentations", pixels="uint8")
def random_grayscale(key: Array, batch: Batch, /, *, probability: Probability = 0.2) -> Batch:
    """Take the colour out of images.

    Args:
        probability: of changing an image.
    """
    image = image_bytes(batch, "random_grayscale")
    changed = with_alpha(jnp.broadcast_to(colour.grey(image), image.shape), image)
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
        hue: the farthest turn, as a fraction of a whole one.
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
        changed = colour.turned_hue(changed, turns(last, hue, b))
    return {**batch, "image": some(whether, probability, changed, image)}
