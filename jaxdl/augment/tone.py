"""Random changes of grey levels, of bytes: each for itself what the policies do, as Pillow does it.

https://github.com/python-pillow/Pillow/blob/main/src/PIL/ImageOps.py
"""

from collections.abc import Callable
from typing import Annotated

import jax
import jax.numpy as jnp
import msgspec
import numpy as np

from jaxdl.augment import intensity
from jaxdl.augment.batch import Byte, Probability, image_bytes, ordered, some
from jaxdl.config import Positive
from jaxdl.registry import register
from jaxdl.types import Array, Batch

Bits = Annotated[int, msgspec.Meta(ge=1, le=8)]


def _drawn_up(
    key: Array, batch: Batch, name: str, build: Callable[[Array], Array], probability: float
) -> Batch:
    image = image_bytes(batch, name)
    b, channels = image.shape[0], image.shape[-1]
    unchanged = jnp.broadcast_to(jnp.arange(256, dtype=jnp.uint8), (b, channels, 256))
    chosen = jax.random.bernoulli(key, probability, (b,))
    table = intensity.where_chosen(chosen, lambda: build(image), unchanged)
    return {**batch, "image": intensity.look_up(image, table)}


def _tabled(key: Array, batch: Batch, name: str, table: np.ndarray, probability: float) -> Batch:
    image = image_bytes(batch, name)
    changed = intensity.look_up(image, jnp.asarray(table)[None, None])
    return {**batch, "image": some(key, probability, changed, image)}


@register("augmentations", pixels="uint8")
def random_invert(key: Array, batch: Batch, /, *, probability: Probability = 0.5) -> Batch:
    """Turn images into their negatives: 255 - x.

    Args:
        probability: of changing an image.
    """
    return _tabled(key, batch, "random_invert", intensity.inverted(), probability)


@register("augmentations", pixels="uint8")
def random_solarize(
    key: Array, batch: Batch, /, *, threshold: Byte = 128, probability: Probability = 0.5
) -> Batch:
    """Invert what is bright.

    Args:
        threshold: levels at or above it are inverted.
        probability: of changing an image.
    """
    table = intensity.solarized(threshold)
    return _tabled(key, batch, "random_solarize", table, probability)


@register("augmentations", pixels="uint8")
def random_solarize_add(
    key: Array,
    batch: Batch,
    /,
    *,
    addition: Byte = 110,
    threshold: Byte = 128,
    probability: Probability = 0.5,
) -> Batch:
    """Brighten what is dark.

    Args:
        addition: added to levels below the threshold, up to 255.
        threshold: levels at or above it stay.
        probability: of changing an image.
    """
    table = intensity.solarized_sum(addition, threshold)
    return _tabled(key, batch, "random_solarize_add", table, probability)


@register("augmentations", pixels="uint8")
def random_posterize(
    key: Array, batch: Batch, /, *, bits: Bits = 4, probability: Probability = 0.5
) -> Batch:
    """Keep only the highest bits of each byte.

    Args:
        bits: how many are kept.
        probability: of changing an image.
    """
    return _tabled(key, batch, "random_posterize", intensity.posterized(bits), probability)


@register("augmentations", pixels="uint8")
def random_autocontrast(key: Array, batch: Batch, /, *, probability: Probability = 0.5) -> Batch:
    """Stretch each channel from 0 to 255.

    Args:
        probability: of changing an image.
    """
    return _drawn_up(key, batch, "random_autocontrast", intensity.autocontrast_table, probability)


@register("augmentations", pixels="uint8")
def random_equalize(key: Array, batch: Batch, /, *, probability: Probability = 0.5) -> Batch:
    """Flatten the histogram of each channel.

    Args:
        probability: of changing an image.
    """
    return _drawn_up(key, batch, "random_equalize", intensity.equalize_table, probability)


@register("augmentations", pixels="uint8")
def random_gamma(
    key: Array,
    batch: Batch,
    /,
    *,
    gamma: tuple[Positive, Positive] = (0.7, 1.5),
    probability: Probability = 1.0,
) -> Batch:
    """Raise levels to a power, 255 (x / 255)^gamma; at most one level from torchvision's table.

    Args:
        gamma: least and greatest power; above 1 darkens. Drawn evenly.
        probability: of changing an image.
    """
    image = image_bytes(batch, "random_gamma")
    ordered("random_gamma", "gamma", gamma, 0)
    draw, whether = jax.random.split(key)
    power = jax.random.uniform(draw, image.shape[:1], minval=gamma[0], maxval=gamma[1])
    changed = intensity.look_up(image, intensity.gamma_table(power))
    return {**batch, "image": some(whether, probability, changed, image)}
