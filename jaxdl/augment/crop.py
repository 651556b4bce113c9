"""Random crops of a padded image, the augmentation of the CIFAR recipes.

Deeply-Supervised Nets. Lee, Xie, Gallagher, Zhang, Tu 2014. https://arxiv.org/abs/1409.5185
"""

from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import msgspec

from jaxdl.augment.batch import segmentation_mask
from jaxdl.config import Count
from jaxdl.errors import UserError
from jaxdl.registry import register
from jaxdl.types import VOID, Array, Batch

Padding = Annotated[int, msgspec.Meta(ge=0)]


@register("augmentations")
def random_crop(
    key: Array,
    batch: Batch,
    /,
    *,
    padding: Padding = 4,
    size: Count | None = None,
    mode: Literal["constant", "reflect"] = "constant",
    void: int = VOID,
) -> Batch:
    """Pad every side by `padding` pixels and cut a window out at a random place.

    Each example moves on its own; all places are equally likely, (2 * padding + 1)^2 of them if the
    size stays. A segmentation mask (b, h, w) moves with its image.

    Args:
        padding: pixels on every side.
        size: height and width of the window; null keeps those of the image.
        mode: black pixels, or the image mirrored at its border.
        void: label of the black pixels, where the label is a map.
    """
    image, label = batch["image"], batch.get("label")
    window = _window("random_crop", size, image.shape[1:3], padding)
    places = [n + 2 * padding - m + 1 for n, m in zip(image.shape[1:3], window, strict=True)]
    corner = jax.random.randint(key, (image.shape[0], 2), 0, jnp.array(places)[None])

    def moved(x: Array, outside: int) -> Array:
        sides = ((0, 0), (padding, padding), (padding, padding)) + ((0, 0),) * (x.ndim - 3)
        fill = {"constant_values": outside} if mode == "constant" else {}
        at = lambda y, c: jax.lax.dynamic_slice(
            y, (*c, *[0] * (x.ndim - 3)), (*window, *x.shape[3:])
        )
        return jax.vmap(at)(jnp.pad(x, sides, mode=mode, **fill), corner)

    batch = {**batch, "image": moved(image, 0)}
    if label is not None and label.ndim == 3:
        batch["label"] = moved(label, void)
    return batch


@register("augmentations")
def center_crop(key: Array | None, batch: Batch, /, *, size: Count) -> Batch:
    """Cut the middle out of each image and its mask. Draws nothing: fit for `preprocess`.

    Args:
        size: height and width of the result, at most those of the images.
    """
    del key
    image, label = batch["image"], segmentation_mask(batch)
    _window("center_crop", size, image.shape[1:3], 0)
    top, left = ((n - size) // 2 for n in image.shape[1:3])
    cut = lambda x: x[:, top : top + size, left : left + size]
    batch = {**batch, "image": cut(image)}
    if label is not None:
        batch["label"] = cut(label)
    return batch


def _window(name: str, size: int | None, image: tuple[int, ...], padding: int) -> tuple[int, int]:
    window = (size, size) if size else tuple(image)
    if any(n > m + 2 * padding for n, m in zip(window, image, strict=True)):
        raise UserError(
            f"augmentation '{name}': size {size} is larger than the images, "
            f"{image[0]} x {image[1]} with {padding} pixels of padding"
        )
    return window
