"""Prodigy: Adam that finds its own learning rate from how far it has come.

"Prodigy: An Expeditiously Adaptive Parameter-Free Learner", Mishchenko, Defazio,
https://arxiv.org/abs/2306.06101 (algorithm 4)

The learning rate is 1, and what a schedule gives is the paper's gamma_k; the step size is d_k, a
lower bound, that only grows, of the distance from the start to a solution. Optax's Prodigy always
corrects the moments' bias, which the paper does not, and is not a number where no gradient has
been other than zero.

What differs from the paper: weight decay, decoupled and multiplied by d_k gamma_k, is from its
authors' code.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxdl.config import NonNegative, Positive, Rate
from jaxdl.optim.arguments import DECAYED, LearningRate, decayed, in_float32
from jaxdl.registry import register
from jaxdl.types import Array, PyTree


class ProdigyState(NamedTuple):
    """Steps done, the two moments, the start, and what the distance is estimated from."""

    count: Array
    mu: PyTree
    nu: PyTree
    start: PyTree
    gradients: PyTree
    """s: a weighted sum of gradients."""
    progress: Array
    """r: the same sum of <g, start - w>."""
    distance: Array
    """d."""


@register("optimizers")
def prodigy(
    learning_rate: LearningRate = 1.0,
    *,
    b1: Rate = 0.9,
    b2: Rate = 0.999,
    eps: Positive = 1e-8,
    start: Positive = 1e-6,
    factor: Positive = 1.0,
    weight_decay: NonNegative = 0.0,
    decay: str = DECAYED,
) -> optax.GradientTransformation:
    """Adam without a learning rate to tune.

    Args:
        learning_rate: multiplies the step size that is found; a number or a schedule of the step
            count. Leave it at 1.
        b1: decay rate of the mean of gradients.
        b2: decay rate of the mean of squared gradients; its root is that of the estimate's sums.
        eps: added to the root of the second moment, times d.
        start: d_0, the first distance: anything below the true one.
        factor: multiplies the estimate; 0.5 to 2 are sensible.
        weight_decay: a step shrinks a weight by d * learning_rate * weight_decay of itself.
        decay: regular expression on the path of the leaves to decay.
    """
    shrunk = decayed(decay)
    b3 = b2**0.5

    def init(params: PyTree) -> ProdigyState:
        zeros = lambda: optax.tree.zeros_like(params)
        return ProdigyState(
            count=jnp.zeros((), jnp.int32),
            mu=zeros(),
            nu=zeros(),
            start=params,
            gradients=zeros(),
            progress=jnp.zeros((), jnp.float32),
            distance=jnp.full((), start, jnp.float32),
        )

    def update(
        updates: PyTree, state: ProdigyState, params: PyTree | None = None
    ) -> tuple[PyTree, ProdigyState]:
        gamma = learning_rate(state.count) if callable(learning_rate) else learning_rate
        d = state.distance
        # m = b1 m + (1 - b1) d g;  v = b2 v + (1 - b2) d^2 g^2
        scaled = optax.tree.scale(d, updates)
        mu = optax.tree.update_moment(scaled, state.mu, b1, 1)
        nu = optax.tree.update_moment(scaled, state.nu, b2, 2)
        # r = sqrt(b2) r + (1 - sqrt(b2)) gamma d^2 <g, w_0 - w>
        # s = sqrt(b2) s + (1 - sqrt(b2)) gamma d^2 g
        # (d in units of d_0, as float32 would not hold d^2; the ratio of the two is the same)
        weight = (1 - b3) * gamma * (d / start) ** 2
        travelled = optax.tree.vdot(updates, optax.tree.sub(state.start, params))
        progress = b3 * state.progress + weight * travelled
        sums = jax.tree.map(lambda s, g: b3 * s + weight * g, state.gradients, updates)
        # d = max(d, factor r / ||s||_1)
        size = optax.tree.norm(sums, ord=1)
        distance = jnp.maximum(d, factor * progress / jnp.where(size > 0, size, 1.0))
        # w = w - gamma d (m / (sqrt(v) + d eps) + weight_decay w), with the d of before
        moved = jax.tree.map(
            lambda m, v, w, shrink: (
                -gamma * d * (m / (jnp.sqrt(v) + d * eps) + (weight_decay * w if shrink else 0.0))
            ),
            mu,
            nu,
            params,
            shrunk(params),
        )
        count = state.count + 1
        return moved, ProdigyState(count, mu, nu, state.start, sums, progress, distance)

    return in_float32(optax.GradientTransformation(init, update))
