"""A label in the shape of the logits that it is held against."""

import jax
import jax.numpy as jnp

from jaxdl.errors import UserError
from jaxdl.types import Array


def as_targets(logits: Array, label: Array) -> Array:
    """One float32 target for each logit.

    Args:
        logits: (b, k).
        label: (b, k) targets, which stay what they are; (b,) integers in [0, k), which become
            one-hot; or, where k is 1, (b,) numbers, each the target of the one logit.

    Raises:
        UserError: a label of another shape.
    """
    if label.shape == logits.shape:
        return label.astype(jnp.float32)
    if label.shape == logits.shape[:-1] and logits.shape[-1] == 1:
        return label[..., None].astype(jnp.float32)
    if label.shape == logits.shape[:-1] and jnp.issubdtype(label.dtype, jnp.integer):
        return jax.nn.one_hot(label, logits.shape[-1])
    raise UserError(
        f"a label {label.dtype}{list(label.shape)} does not fit logits {list(logits.shape)}"
    )
