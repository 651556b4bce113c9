"""LAMB: Adam whose step, in each layer, is as long as the layer's weights.

"Large Batch Optimization for Deep Learning: Training BERT in 76 minutes", You, Li, Reddi, Hseu,
Kumar, Bhojanapalli, Song, Demmel, Keutzer, Hsieh, https://arxiv.org/abs/1904.00962 (algorithm 2)

What differs from the paper: phi is the identity, and biases and norms keep Adam's own step, as in
its authors' code for BERT; `adapted='.*'` is the algorithm as it is written. A layer of zeros, or
one without an update, keeps Adam's step too.
"""

import jax
import jax.numpy as jnp
import optax

from jaxdl.config import NonNegative, Positive, Rate
from jaxdl.optim.arguments import DECAYED, LearningRate, add_weight_decay, chosen, in_float32
from jaxdl.optim.matrices import STACKED, layered, norm_of_layers
from jaxdl.registry import register
from jaxdl.types import Array, PyTree


def scale_by_size(adapted: str, stacked: str) -> optax.GradientTransformation:
    """Make the update of each layer as long as its weights."""
    mask, layers = chosen("adapted", adapted, DECAYED), layered(stacked)

    def one(u: Array, w: Array, adapt: bool, stack: bool) -> Array:
        if not adapt:
            return u
        size, length = norm_of_layers(w, stack), norm_of_layers(u, stack)
        # u = ||w|| / ||u|| u
        return jnp.where((size > 0) & (length > 0), size / length, 1.0) * u

    def update(updates: PyTree, params: PyTree | None = None) -> PyTree:
        return jax.tree.map(one, updates, params, mask(params), layers(params))

    return optax.stateless(update)


@register("optimizers")
def lamb(
    learning_rate: LearningRate,
    *,
    b1: Rate = 0.9,
    b2: Rate = 0.999,
    eps: Positive = 1e-6,
    weight_decay: NonNegative = 1e-2,
    decay: str = DECAYED,
    adapted: str = DECAYED,
    stacked: str = STACKED,
) -> optax.GradientTransformation:
    """Adam for large batches: a step changes every layer by the same part of its size.

    Args:
        learning_rate: that part; a number or a schedule of the step count.
        b1: decay rate of the mean of gradients.
        b2: decay rate of the mean of squared gradients.
        eps: added to the root of the second moment.
        weight_decay: weight_decay * w is added to the direction, before its length is set.
        decay: regular expression on the path of the leaves to decay.
        adapted: the same of the leaves whose step has the length of their weights.
        stacked: the same of the leaves that hold many layers along their first axis.
    """
    return in_float32(
        optax.chain(
            # m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2
            # u = m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)
            optax.scale_by_adam(b1, b2, eps),
            # u = u + weight_decay * w
            add_weight_decay(weight_decay, decay),
            scale_by_size(adapted, stacked),
            # w = w - learning_rate * u
            optax.scale_by_learning_rate(learning_rate),
        )
    )
