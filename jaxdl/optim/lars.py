"""LARS: momentum SGD whose step, in each layer, is measured by the layer's weights.

"Large Batch Training of Convolutional Networks", You, Gitman, Ginsburg,
https://arxiv.org/abs/1708.03888 (algorithm 1)

What differs from the paper: biases and norms are neither decayed nor adapted, as in the recipes
that came after it; `decay='.*', adapted='.*'` is the algorithm as it is written. The trust ratio
is 1 in a layer of zeros, or one without a gradient. Optax's LARS divides by the norm of gradient
plus decay, the paper by the sum of their norms.
"""

import jax
import jax.numpy as jnp
import optax

from jaxdl.config import NonNegative, Positive, Rate
from jaxdl.optim.arguments import DECAYED, LearningRate, chosen, decayed, in_float32
from jaxdl.optim.matrices import STACKED, layered, norm_of_layers
from jaxdl.registry import register
from jaxdl.types import Array, PyTree


def scale_by_trust(
    trust: float, weight_decay: float, decay: str, adapted: str, stacked: str
) -> optax.GradientTransformation:
    """Add the decay to the gradient, and multiply each layer by its local learning rate."""
    shrunk, mask, layers = decayed(decay), chosen("adapted", adapted, DECAYED), layered(stacked)

    def one(g: Array, w: Array, shrink: bool, adapt: bool, stack: bool) -> Array:
        beta = weight_decay if shrink else 0.0
        # u = g + beta w
        u = g + beta * w
        if not adapt:
            return u
        size, slope = norm_of_layers(w, stack), norm_of_layers(g, stack)
        # u = trust ||w|| / (||g|| + beta ||w||) u
        local = trust * size / (slope + beta * size)
        return jnp.where((size > 0) & (slope > 0), local, 1.0) * u

    def update(updates: PyTree, params: PyTree | None = None) -> PyTree:
        masks = shrunk(params), mask(params), layers(params)
        return jax.tree.map(one, updates, params, *masks)

    return optax.stateless(update)


@register("optimizers")
def lars(
    learning_rate: LearningRate,
    *,
    momentum: Rate = 0.9,
    trust: Positive = 1e-3,
    weight_decay: NonNegative = 5e-4,
    decay: str = DECAYED,
    adapted: str = DECAYED,
    stacked: str = STACKED,
) -> optax.GradientTransformation:
    """SGD with momentum for large batches: a learning rate for each layer.

    Args:
        learning_rate: global step size, some 1 / trust of SGD's where layers are adapted; a number
            or a schedule of the step count. It stands inside the velocity, as in the paper.
        momentum: how much of the velocity is kept.
        trust: the paper's eta: what part of its size an adapted layer moves at learning rate 1.
        weight_decay: weight of the penalty (weight_decay / 2) |w|^2.
        decay: regular expression on the path of the leaves to decay.
        adapted: the same of the leaves that have their own learning rate.
        stacked: the same of the leaves that hold many layers along their first axis.
    """
    return in_float32(
        optax.chain(
            scale_by_trust(trust, weight_decay, decay, adapted, stacked),
            # v = momentum * v - learning_rate * u;  w = w + v
            optax.scale_by_learning_rate(learning_rate),
            optax.trace(momentum) if momentum else optax.identity(),
        )
    )
