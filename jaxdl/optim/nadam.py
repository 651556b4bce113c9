"""NAdam: Adam that looks ahead along its momentum, as Nesterov's does.

"Incorporating Nesterov Momentum into Adam", Dozat,
https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ

What differs from the paper: the mean of gradients decays by b1, while the paper's decays by mu_t
too; this is PyTorch's form, and equal to it. Optax's NAdam keeps mu_t at b1 throughout. Weight
decay is coupled: an L2 penalty's gradient, as in PyTorch by default.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxdl.config import NonNegative, Positive, Rate
from jaxdl.optim.arguments import DECAYED, LearningRate, add_weight_decay, in_float32
from jaxdl.registry import register
from jaxdl.types import Array, PyTree


class NadamState(NamedTuple):
    """Steps done, the two moments, and mu_1 mu_2 ... mu_t."""

    count: Array
    mu: PyTree
    nu: PyTree
    product: Array


def scale_by_nadam(
    b1: float, b2: float, eps: float, momentum_decay: float
) -> optax.GradientTransformation:
    """Adam's direction, with the momentum of the next step in place of this one's."""

    def momentum(t: Array) -> Array:
        # mu_t = b1 (1 - 0.96^(t psi) / 2)
        return b1 * (1 - 0.5 * 0.96 ** (t * momentum_decay))

    def init(params: PyTree) -> NadamState:
        zeros = lambda: optax.tree.zeros_like(params)
        return NadamState(jnp.zeros((), jnp.int32), zeros(), zeros(), jnp.ones((), jnp.float32))

    def update(
        updates: PyTree, state: NadamState, params: PyTree | None = None
    ) -> tuple[PyTree, NadamState]:
        count = state.count + 1
        t = count.astype(jnp.float32)
        # m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2
        mu = optax.tree.update_moment(updates, state.mu, b1, 1)
        nu = optax.tree.update_moment(updates, state.nu, b2, 2)
        # m_hat = mu_(t+1) m / (1 - mu_1 ... mu_(t+1)) + (1 - mu_t) g / (1 - mu_1 ... mu_t)
        now, following = momentum(t), momentum(t + 1)
        product = state.product * now
        ahead = following / (1 - product * following)
        here = (1 - now) / (1 - product)
        # u = m_hat / (sqrt(v / (1 - b2^t)) + eps)
        correction = 1 - b2**t
        moved = jax.tree.map(
            lambda m, v, g: (ahead * m + here * g) / (jnp.sqrt(v / correction) + eps),
            mu,
            nu,
            updates,
        )
        return moved, NadamState(count, mu, nu, product)

    return optax.GradientTransformation(init, update)


@register("optimizers")
def nadam(
    learning_rate: LearningRate,
    *,
    b1: Rate = 0.9,
    b2: Rate = 0.999,
    eps: Positive = 1e-8,
    momentum_decay: NonNegative = 4e-3,
    weight_decay: NonNegative = 0.0,
    decay: str = DECAYED,
) -> optax.GradientTransformation:
    """Adam with Nesterov's momentum, which grows from half of b1 to b1.

    Args:
        learning_rate: step size; a number or a schedule of the step count.
        b1: decay rate of the mean of gradients, and what the momentum grows to.
        b2: decay rate of the mean of squared gradients.
        eps: added to the root of the second moment.
        momentum_decay: psi, how quickly the momentum grows; the paper's 1 / 250.
        weight_decay: weight of the penalty (weight_decay / 2) |w|^2.
        decay: regular expression on the path of the leaves to decay.
    """
    return in_float32(
        optax.chain(
            # g = g + weight_decay * w
            add_weight_decay(weight_decay, decay),
            scale_by_nadam(b1, b2, eps, momentum_decay),
            # w = w - learning_rate * u
            optax.scale_by_learning_rate(learning_rate),
        )
    )
