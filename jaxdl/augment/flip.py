"""Horizontal mirroring."""

import jax
import jax.numpy as jnp

from jaxdl.registry import register
from jaxdl.types import Array, Batch


@register("augmentations")
def random_flip(key: Array, batch: Batch, /) -> Batch:
    """Mirror each image left to right with probability one half."""
    image = batch["image"]
    flip = jax.random.bernoulli(key, 0.5, (image.shape[0], 1, 1, 1))
    return {**batch, "image": jnp.where(flip, image[:, :, ::-1], image)}
