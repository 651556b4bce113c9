"""Horizontal mirroring, of images and of the label maps that belong to them."""

import jax
import jax.numpy as jnp

from jaxdl.registry import register
from jaxdl.types import Array, Batch


@register("augmentations")
def random_flip(key: Array, batch: Batch, /) -> Batch:
    """Mirror each image, and its label map (b, h, w), left to right with probability one half."""
    image, label = batch["image"], batch.get("label")
    flip = jax.random.bernoulli(key, 0.5, (image.shape[0], 1, 1, 1))
    batch = {**batch, "image": jnp.where(flip, image[:, :, ::-1], image)}
    if label is not None and label.ndim == 3:
        batch["label"] = jnp.where(flip[..., 0], label[:, :, ::-1], label)
    return batch
