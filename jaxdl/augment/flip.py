"""Mirroring, of images and of the segmentation masks that belong to them.

ImageNet Classification with Deep Convolutional Neural Networks. Krizhevsky, Sutskever, Hinton 2012.
https://papers.nips.cc/paper/4824-imagenet-classification-with-deep-convolutional-neural-networks
"""

import jax
import jax.numpy as jnp

from jaxdl.augment.batch import Probability, segmentation_mask
from jaxdl.registry import register
from jaxdl.types import Array, Batch


@register("augmentations")
def random_flip(key: Array, batch: Batch, /) -> Batch:
    """Mirror each image, and its mask (b, h, w), left to right with probability one half."""
    image, label = batch["image"], batch.get("label")
    flip = jax.random.bernoulli(key, 0.5, (image.shape[0], 1, 1, 1))
    batch = {**batch, "image": jnp.where(flip, image[:, :, ::-1], image)}
    if label is not None and label.ndim == 3:
        batch["label"] = jnp.where(flip[..., 0], label[:, :, ::-1], label)
    return batch


@register("augmentations")
def random_vertical_flip(key: Array, batch: Batch, /, *, probability: Probability = 0.5) -> Batch:
    """Turn each image, and its segmentation mask (b, h, w), upside down with some probability.

    Args:
        probability: of doing so.
    """
    image, label = batch["image"], segmentation_mask(batch)
    flip = jax.random.bernoulli(key, probability, (image.shape[0], 1, 1, 1))
    batch = {**batch, "image": jnp.where(flip, image[:, ::-1], image)}
    if label is not None:
        batch["label"] = jnp.where(flip[..., 0], label[:, ::-1], label)
    return batch
