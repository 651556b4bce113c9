"""From stored pixels to what a network reads."""

import jax.numpy as jnp

from jaxdl.registry import register
from jaxdl.types import Array, Batch


@register("augmentations")
def normalize(
    key: Array | None,
    batch: Batch,
    /,
    *,
    mean: tuple[float, ...] = (0.5,),
    std: tuple[float, ...] = (0.5,),
) -> Batch:
    """(x / 255 - mean) / std for bytes, (x - mean) / std for floats; float32. Draws nothing.

    Args:
        mean: one number for all channels, or one a channel, on the scale of [0, 1].
        std: likewise.
    """
    del key
    image = batch["image"]
    scale = 255.0 if jnp.issubdtype(image.dtype, jnp.integer) else 1.0
    shift = jnp.asarray(mean, jnp.float32).reshape(1, 1, 1, -1)
    spread = jnp.asarray(std, jnp.float32).reshape(1, 1, 1, -1)
    return {**batch, "image": (image.astype(jnp.float32) / scale - shift) / spread}
