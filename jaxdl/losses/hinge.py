"""Multiclass hinge loss, that of support vector machines.

On the Algorithmic Implementation of Multiclass Kernel-based Vector Machines. Crammer, Singer 2001.
https://www.jmlr.org/papers/v2/crammer01a.html
"""

import jax.numpy as jnp
import optax

from jaxdl.errors import UserError
from jaxdl.registry import register
from jaxdl.types import Array


@register("losses", target=("classes",))
def hinge(logits: Array, label: Array, /) -> Array:
    """Hinge loss: by how much the label's logit fails to lead all others by 1.

    max(0, 1 + max of the other logits - the label's logit)

    Args:
        logits: (b, k).
        label: (b,) integers.

    Returns:
        (b,) float32.

    Raises:
        UserError: a soft label.
    """
    if label.ndim != logits.ndim - 1:
        raise UserError("loss 'hinge' takes one class for each example, not a soft label")
    return optax.losses.multiclass_hinge_loss(logits.astype(jnp.float32), label)
