"""Gaussian blur, as in A Simple Framework for Contrastive Learning of Visual Representations.

Chen, Kornblith, Norouzi, Hinton 2020, appendix A. https://arxiv.org/abs/2002.05709

A true Gaussian, cut off and made to sum to one, over the image mirrored at its border, as in
torchvision. Pillow's `GaussianBlur` is a succession of box blurs and something else.
"""

from typing import Annotated

import jax
import jax.numpy as jnp
import msgspec

from jaxdl.augment.batch import Probability, ordered, sides, some
from jaxdl.config import Positive
from jaxdl.errors import UserError
from jaxdl.registry import register
from jaxdl.types import Array, Batch

Radius = Annotated[int, msgspec.Meta(ge=1)]


def gaussian_blur(image: Array, sigma: Array, radius: int) -> Array:
    """Each image (h, w, c) blurred by its own Gaussian; bytes are rounded to the nearest.

    Args:
        image: (b, h, w, c).
        sigma: (b,) pixels.
        radius: where the Gaussian is cut off, less than height and width.
    """
    offset = jnp.arange(-radius, radius + 1, dtype=jnp.float32)
    # exp(-x^2 / 2 sigma^2), normalised
    weight = jax.nn.softmax(-0.5 * (offset[None] / sigma[:, None]) ** 2, -1)
    x = image.astype(jnp.float32)
    for axis in (1, 2):
        around = [(radius, radius) if a == axis else (0, 0) for a in range(4)]
        padded = jnp.pad(x, around, mode="reflect")
        shifted = (
            jax.lax.slice_in_dim(padded, i, i + x.shape[axis], axis=axis)
            for i in range(2 * radius + 1)
        )
        x = sum(sides(weight[:, i], x) * part for i, part in enumerate(shifted))
    return (jnp.round(x) if image.dtype == jnp.uint8 else x).astype(image.dtype)


@register("augmentations")
def random_blur(
    key: Array,
    batch: Batch,
    /,
    *,
    sigma: tuple[Positive, Positive] = (0.1, 2.0),
    radius: Radius | None = None,
    probability: Probability = 0.5,
) -> Batch:
    """Blur images by Gaussians of random width.

    Args:
        sigma: least and greatest width in pixels, drawn evenly.
        radius: pixels either way that are weighed; null is the paper's, a twentieth of the shorter
            side, at least 1. It must be less than the image's sides.
        probability: of blurring an image.
    """
    ordered("random_blur", "sigma", sigma, 0)
    image = batch["image"]
    shorter = min(image.shape[1:3])
    reach = radius or max(1, shorter // 20)
    if reach >= shorter:
        raise UserError(f"augmentation 'random_blur': radius {reach} needs images above {shorter}")
    draw, whether = jax.random.split(key)
    width = jax.random.uniform(draw, image.shape[:1], minval=sigma[0], maxval=sigma[1])
    changed = gaussian_blur(image, width, reach)
    return {**batch, "image": some(whether, probability, changed, image)}
