"""AdaGrad: each entry has its own step size, which shrinks with the gradients it has seen.

"Adaptive Subgradient Methods for Online Learning and Stochastic Optimization", Duchi, Hazan,
Singer, https://jmlr.org/papers/v12/duchi11a.html (the diagonal form, figure 1)

What differs from the paper: nothing but an optional coupled weight decay. Optax's own starts the
sum at 0.1 and puts epsilon under the root; the paper starts at 0 and adds delta outside, so the sum
is kept here.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxdl.config import NonNegative, Positive
from jaxdl.optim.arguments import DECAYED, LearningRate, add_weight_decay
from jaxdl.registry import register
from jaxdl.types import PyTree


class SumOfSquares(NamedTuple):
    """Squared gradients summed since the first step; the parameters' shapes and types."""

    total: PyTree


def scale_by_sum_of_squares(initial: float, eps: float) -> optax.GradientTransformation:
    """Divide by the root of the sum of squares so far, plus `eps`."""

    def init(params: PyTree) -> SumOfSquares:
        return SumOfSquares(optax.tree.full_like(params, initial))

    def update(
        updates: PyTree, state: SumOfSquares, params: PyTree | None = None
    ) -> tuple[PyTree, SumOfSquares]:
        # G = G + g^2
        total = jax.tree.map(lambda s, g: s + jnp.square(g), state.total, updates)
        # u = g / (sqrt(G) + eps)
        updates = jax.tree.map(lambda s, g: g / (jnp.sqrt(s) + eps), total, updates)
        return updates, SumOfSquares(total)

    return optax.GradientTransformation(init, update)


@register("optimizers")
def adagrad(
    learning_rate: LearningRate,
    *,
    eps: Positive = 1e-10,
    initial: NonNegative = 0.0,
    weight_decay: NonNegative = 0.0,
    decay: str = DECAYED,
) -> optax.GradientTransformation:
    """AdaGrad, with coupled weight decay if any.

    Args:
        learning_rate: step size; a number or a schedule of the step count.
        eps: added to the root of the sum (the paper's delta).
        initial: the sum of squares before the first step.
        weight_decay: weight of the penalty (weight_decay / 2) |w|^2.
        decay: regular expression on the path of the leaves to decay.
    """
    return optax.chain(
        # g = g + weight_decay * w
        add_weight_decay(weight_decay, decay),
        scale_by_sum_of_squares(initial, eps),
        # w = w - learning_rate * u
        optax.scale_by_learning_rate(learning_rate),
    )
