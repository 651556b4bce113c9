"""RAdam: Adam that takes plain momentum until its second moment can be trusted.

"On the Variance of the Adaptive Learning Rate and Beyond", Liu, Jiang, He, Chen, Liu, Gao, Han,
https://arxiv.org/abs/1908.03265

What differs from the paper: it trusts the second moment where rho_t > 5, as its authors' code and
PyTorch do, where algorithm 2 has 4. Weight decay is coupled, as in PyTorch by default. The length
rho_t is a small difference of two large numbers, which in float32 needs the care taken here.
"""

import math
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import msgspec
import optax

from jaxdl.config import NonNegative, Positive, Rate
from jaxdl.optim.arguments import DECAYED, LearningRate, add_weight_decay, in_float32
from jaxdl.registry import register
from jaxdl.types import Array, PyTree

TRUSTED = 5.0
"""The least length of the average of squares that is trusted."""


class RadamState(NamedTuple):
    """Steps done and the two moments."""

    count: Array
    mu: PyTree
    nu: PyTree


def rectification(t: Array, b2: float) -> tuple[Array, Array]:
    """(r_t, whether it is to be used) at step t, counted from 1; a float32 scalar and a bool."""
    longest = 2 / (1 - b2) - 1
    # rho_t = rho_inf - 2 t b2^t / (1 - b2^t), where 1 - b2^t = -expm1(t log b2)
    power = t * math.log(b2)
    length = longest - 2 * t * jnp.exp(power) / -jnp.expm1(power)
    trusted = length > TRUSTED
    rho = jnp.where(trusted, length, TRUSTED)
    # r = sqrt((rho_t - 4) (rho_t - 2) rho_inf / ((rho_inf - 4) (rho_inf - 2) rho_t))
    scale = longest / ((longest - 4) * (longest - 2))
    return jnp.sqrt((rho - 4) * (rho - 2) / rho * scale), trusted


def scale_by_radam(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """Adam's direction times r_t, or the mean of gradients alone while r_t is not to be used."""

    def init(params: PyTree) -> RadamState:
        zeros = lambda: optax.tree.zeros_like(params)
        return RadamState(jnp.zeros((), jnp.int32), zeros(), zeros())

    def update(
        updates: PyTree, state: RadamState, params: PyTree | None = None
    ) -> tuple[PyTree, RadamState]:
        count = state.count + 1
        t = count.astype(jnp.float32)
        # m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2
        mu = optax.tree.update_moment(updates, state.mu, b1, 1)
        nu = optax.tree.update_moment(updates, state.nu, b2, 2)
        r, trusted = rectification(t, b2)
        root = jnp.sqrt(-jnp.expm1(t * math.log(b2)))
        # u = m / (1 - b1^t) * (r sqrt(1 - b2^t) / (sqrt(v) + eps) if rho_t > 5 else 1)
        moved = jax.tree.map(
            lambda m, v: m / (1 - b1**t) * jnp.where(trusted, r * root / (jnp.sqrt(v) + eps), 1.0),
            mu,
            nu,
        )
        return moved, RadamState(count, mu, nu)

    return optax.GradientTransformation(init, update)


@register("optimizers")
def radam(
    learning_rate: LearningRate,
    *,
    b1: Rate = 0.9,
    b2: Annotated[float, msgspec.Meta(gt=2 / 3, lt=1)] = 0.999,
    eps: Positive = 1e-8,
    weight_decay: NonNegative = 0.0,
    decay: str = DECAYED,
) -> optax.GradientTransformation:
    """Adam whose step is rectified while few gradients have been seen: no warm-up needed.

    Args:
        learning_rate: step size; a number or a schedule of the step count.
        b1: decay rate of the mean of gradients.
        b2: decay rate of the mean of squared gradients; up to 2/3 none would ever be trusted.
        eps: added to the root of the second moment.
        weight_decay: weight of the penalty (weight_decay / 2) |w|^2.
        decay: regular expression on the path of the leaves to decay.
    """
    return in_float32(
        optax.chain(
            # g = g + weight_decay * w
            add_weight_decay(weight_decay, decay),
            scale_by_radam(b1, b2, eps),
            # w = w - learning_rate * u
            optax.scale_by_learning_rate(learning_rate),
        )
    )
