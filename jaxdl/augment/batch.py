"""Pieces shared by augmentations: argument ranges, byte images only, one choice per example."""

from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import msgspec

from jaxdl.errors import UserError
from jaxdl.types import Array, Batch

Probability = Annotated[float, msgspec.Meta(ge=0, le=1)]
Byte = Annotated[int, msgspec.Meta(ge=0, le=255)]
Interpolation = Literal["nearest", "bilinear"]


def image_bytes(batch: Batch, name: str) -> Array:
    """The batch's images (b, h, w, c), or an error naming the augmentation if they are no bytes."""
    image = batch["image"]
    if image.dtype != jnp.uint8:
        raise UserError(
            f"augmentation '{name}' is defined on bytes (uint8), not on {image.dtype}: "
            "put it before 'normalize', on a source that gives bytes"
        )
    return image


def segmentation_mask(batch: Batch) -> Array | None:
    """The segmentation mask (b, h, w) that must move with the images, or None."""
    label = batch.get("label")
    return label if label is not None and label.ndim == 3 else None


def with_alpha(changed: Array, image: Array) -> Array:
    """`changed` (b, h, w, c) with the alpha of `image`, the last channel of 2 or of 4."""
    if image.shape[-1] not in (2, 4):
        return changed
    return changed.at[..., -1].set(image[..., -1])


def sides(value: Array, like: Array) -> Array:
    """A number for each example (b,), shaped to broadcast against `like` (b, ...)."""
    return value.reshape(-1, *[1] * (like.ndim - 1))


def some(key: Array, probability: float, changed: Array, image: Array) -> Array:
    """`changed` for each example with the given probability, else `image`; both (b, ...)."""
    chosen = jax.random.bernoulli(key, probability, image.shape[:1])
    return jnp.where(sides(chosen, image), changed, image)


def ordered(name: str, argument: str, pair: tuple[float, float], above: float) -> None:
    """Refuse a range that is empty or not above its bound."""
    low, high = pair
    if not above < low <= high:
        raise UserError(f"augmentation '{name}': {argument} must rise from above {above}: {pair}")
