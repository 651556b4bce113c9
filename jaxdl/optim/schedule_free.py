"""Schedule-free learning: an average of the weights in place of a falling learning rate.

"The Road Less Scheduled", Defazio, Yang, Mehta, Mishchenko, Khaled, Cutkosky,
https://arxiv.org/abs/2405.15682 (algorithm 1, and the same without its second moment for SGD)

Three sequences: z takes the steps, x averages z, and the gradient is taken at y between the two.
What is trained is y; what is to be evaluated is x, which `evaluation_params` gives. Only y and z
are kept. The schedule should be `constant` with a warm-up: the average weighs each z by the square
of its step size. Batch statistics gathered at y are not those of x, and where a network has batch
norms they should be estimated anew for it. Whatever scales the steps of such an optimizer from
outside moves y alone, and x is then no longer the average: clip and scale inside, as gradients.

Nothing differs from the paper. Optax's leaves Adam's bias correction out of the weights, and reads
the schedule a step ahead of its own optimizer.
"""

import functools
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import msgspec
import optax

from jaxdl.config import NonNegative, Positive, Rate
from jaxdl.optim.arguments import DECAYED, LearningRate, add_weight_decay, in_float32
from jaxdl.registry import register
from jaxdl.types import Array, PyTree

Decay = Annotated[float, msgspec.Meta(gt=0, lt=1)]


class ScheduleFreeState(NamedTuple):
    """State beside the parameters, which are y."""

    count: Array
    share: Array
    """beta: how much of x is in y."""
    weight: Array
    """Sum of the squared step sizes."""
    direction: PyTree
    """State of the transformation that makes a direction of a gradient."""
    z: PyTree


def average(y: Array, z: Array, beta: Array | float) -> Array:
    """x, where y = beta x + (1 - beta) z."""
    return (y - (1 - beta) * z) / beta


def schedule_free(
    direction: optax.GradientTransformation,
    learning_rate: LearningRate,
    beta: float,
    b2: float | None = None,
) -> optax.GradientTransformation:
    """Steps of z along a direction, x their average, y between the two.

    Args:
        direction: from the gradient at y to the direction that z goes against.
        learning_rate: step size of z; a number or a schedule of the step count.
        beta: fraction of x in y.
        b2: decay rate of the direction's mean of squares, whose bias the step size corrects.
    """

    def init(params: PyTree) -> ScheduleFreeState:
        return ScheduleFreeState(
            count=jnp.zeros((), jnp.int32),
            share=jnp.full((), beta, jnp.float32),
            weight=jnp.zeros((), jnp.float32),
            direction=direction.init(params),
            z=params,
        )

    def update(
        updates: PyTree, state: ScheduleFreeState, params: PyTree | None = None
    ) -> tuple[PyTree, ScheduleFreeState]:
        count = state.count + 1
        gamma = learning_rate(state.count) if callable(learning_rate) else learning_rate
        # gamma_t = gamma sqrt(1 - b2^t)
        gamma = gamma if b2 is None else gamma * jnp.sqrt(1 - b2 ** count.astype(jnp.float32))
        u, inner = direction.update(updates, state.direction, params)
        # c = gamma_t^2 / (gamma_1^2 + ... + gamma_t^2)
        weight = state.weight + gamma**2
        c = jnp.where(weight > 0, gamma**2 / weight, 0.0)
        # z' = z - gamma_t u;  x' = (1 - c) x + c z';  y' = beta x' + (1 - beta) z', which is
        # y' = y + c (z - y) - (1 - beta (1 - c)) gamma_t u
        pull = (1 - beta * (1 - c)) * gamma
        moved = jax.tree.map(lambda y, z, u: c * (z - y) - pull * u, params, state.z, u)
        z = jax.tree.map(lambda z, u: z - gamma * u, state.z, u)
        return moved, ScheduleFreeState(count, state.share, weight, inner, z)

    return optax.GradientTransformation(init, update)


def evaluation_params(opt_state: PyTree, params: PyTree) -> PyTree:
    """The parameters to evaluate: x of a schedule-free optimizer, those given of any other.

    The optimizer may stand anywhere: in a chain, inside a wrapper, or masked, where leaves that it
    does not move are handed back as they are.

    Args:
        opt_state: state of the whole transformation.
        params: what is trained.
    """
    is_state = lambda x: isinstance(x, ScheduleFreeState)
    is_masked = lambda x: isinstance(x, optax.MaskedNode)

    def at_x(params: PyTree, state: ScheduleFreeState) -> PyTree:
        def one(z: Array | optax.MaskedNode, y: Array) -> Array:
            if is_masked(z):
                return y
            return average(y.astype(jnp.float32), z, state.share).astype(y.dtype)

        return jax.tree.map(one, state.z, params, is_leaf=is_masked)

    states = filter(is_state, jax.tree.leaves(opt_state, is_leaf=is_state))
    return functools.reduce(at_x, states, params)


@register("optimizers", linear=False)
def schedule_free_sgd(
    learning_rate: LearningRate,
    *,
    momentum: Decay = 0.9,
    weight_decay: NonNegative = 0.0,
    decay: str = DECAYED,
) -> optax.GradientTransformation:
    """SGD without a schedule: evaluation is at the average of the iterates.

    Args:
        learning_rate: step size; a number, or a schedule that warms up and stays.
        momentum: the paper's beta, the fraction of the average in the point of the gradient.
        weight_decay: weight of the penalty (weight_decay / 2) |w|^2, at the point of the gradient.
        decay: regular expression on the path of the leaves to decay.
    """
    # u = g + weight_decay * y
    direction = add_weight_decay(weight_decay, decay)
    return in_float32(schedule_free(direction, learning_rate, momentum))


@register("optimizers", linear=False)
def schedule_free_adamw(
    learning_rate: LearningRate,
    *,
    b1: Decay = 0.9,
    b2: Rate = 0.999,
    eps: Positive = 1e-8,
    weight_decay: NonNegative = 0.0,
    decay: str = DECAYED,
) -> optax.GradientTransformation:
    """AdamW without a schedule: evaluation is at the average of the iterates.

    Args:
        learning_rate: step size; a number, or a schedule that warms up and stays.
        b1: fraction of the average in the point of the gradient, in place of Adam's momentum.
        b2: decay rate of the mean of squared gradients.
        eps: added to the root of the second moment.
        weight_decay: a step shrinks a weight by learning_rate * weight_decay of its value where
            the gradient is taken.
        decay: regular expression on the path of the leaves to decay.
    """
    direction = optax.chain(
        # v = b2 v + (1 - b2) g^2;  u = g / (sqrt(v) + eps) + weight_decay * y
        optax.scale_by_rms(b2, eps, eps_in_sqrt=False),
        add_weight_decay(weight_decay, decay),
    )
    return in_float32(schedule_free(direction, learning_rate, b1, b2))
