"""Random crops of a padded image, the augmentation of the CIFAR recipes.

Deeply-Supervised Nets. Lee, Xie, Gallagher, Zhang, Tu 2014. https://arxiv.org/abs/1409.5185
"""

from typing import Literal

import jax
import jax.numpy as jnp

from jaxdl.config import Count
from jaxdl.registry import register
from jaxdl.types import VOID, Array, Batch


@register("augmentations")
def random_crop(
    key: Array,
    batch: Batch,
    /,
    *,
    padding: Count = 4,
    mode: Literal["constant", "reflect"] = "constant",
    void: int = VOID,
) -> Batch:
    """Pad every side by `padding` pixels and cut the old size out at a random place.

    Each example moves on its own; all (2 * padding + 1)^2 places are equally likely. A label map
    (b, h, w) moves with its image.

    Args:
        padding: pixels on every side.
        mode: black pixels, or the image mirrored at its border.
        void: label of the black pixels, where the label is a map.
    """
    image, label = batch["image"], batch.get("label")
    corner = jax.random.randint(key, (image.shape[0], 2), 0, 2 * padding + 1)

    def moved(x: Array, outside: int) -> Array:
        sides = ((0, 0), (padding, padding), (padding, padding)) + ((0, 0),) * (x.ndim - 3)
        fill = {"constant_values": outside} if mode == "constant" else {}
        at = lambda y, c: jax.lax.dynamic_slice(y, (*c, *[0] * (x.ndim - 3)), x.shape[1:])
        return jax.vmap(at)(jnp.pad(x, sides, mode=mode, **fill), corner)

    batch = {**batch, "image": moved(image, 0)}
    if label is not None and label.ndim == 3:
        batch["label"] = moved(label, void)
    return batch
