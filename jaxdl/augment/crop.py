"""Random crops of a padded image, the augmentation of the CIFAR recipes.

Deeply-Supervised Nets. Lee, Xie, Gallagher, Zhang, Tu 2014. https://arxiv.org/abs/1409.5185
"""

from typing import Literal

import jax
import jax.numpy as jnp

from jaxdl.config import Count
from jaxdl.registry import register
from jaxdl.types import Array, Batch


@register("augmentations")
def random_crop(
    key: Array,
    batch: Batch,
    /,
    *,
    padding: Count = 4,
    mode: Literal["constant", "reflect"] = "constant",
) -> Batch:
    """Pad every side by `padding` pixels and cut the old size out at a random place.

    Each example moves on its own; all (2 * padding + 1)^2 places are equally likely.
    """
    image = batch["image"]
    b, h, w, c = image.shape
    padded = jnp.pad(image, ((0, 0), (padding, padding), (padding, padding), (0, 0)), mode=mode)
    corner = jax.random.randint(key, (b, 2), 0, 2 * padding + 1)
    cut = jax.vmap(lambda x, at: jax.lax.dynamic_slice(x, (at[0], at[1], 0), (h, w, c)))
    return {**batch, "image": cut(padded, corner)}
