"""Averages of the weights during training: the fraction that the newest weights take.

A builder returns step -> fraction in [0, 1], where `step` counts the steps done before this one,
and the average moves after it by

    average = average + fraction * (weights - average)

so that 1 follows the weights and 0 keeps the average. Batch statistics are averaged with the same
fractions; `evaluation.norm_batches` recomputes them.
"""

from collections.abc import Callable

import jax.numpy as jnp

from jaxdl.config import Duration, Rate
from jaxdl.errors import UserError
from jaxdl.registry import register
from jaxdl.types import Array

Average = Callable[[Array], Array]


@register("averages")
def ema(*, decay: Rate = 0.999, warmup: bool = True) -> Average:
    """Exponential moving average of all steps (https://arxiv.org/abs/1512.00567, section 8).

    Args:
        decay: what is left of the average after a step; about 1 / (1 - decay) steps are remembered.
        warmup: remember less at first, so that the initial weights are soon forgotten, as
            TensorFlow's ExponentialMovingAverage does. Without it they weigh decay^t for ever.
    """

    def fraction(step: Array) -> Array:
        t = jnp.asarray(step, jnp.float32)
        # 1 - min(decay, (1 + t) / (10 + t))
        return 1 - jnp.minimum(decay, (1 + t) / (10 + t)) if warmup else jnp.full_like(t, 1 - decay)

    return fraction


@register("averages")
def swa(*, start: Duration = "75%", every: Duration = "1 epoch") -> Average:
    """SWA: the mean of the weights at the end of each cycle (https://arxiv.org/abs/1803.05407).

    Before `start` the average follows the weights. Then it is the mean of the weights that were
    there after `start`, `start + every`, `start + 2 * every`, ... steps, each with the same weight.
    `every=1` averages all of them, which is Polyak and Ruppert's; `start=0` counts the initial
    weights in. The paper goes with a schedule that is constant or cyclical from `start` on, and
    finds the statistics of batch norms anew for the mean (see the head of this file).

    Args:
        start: steps before the first weights that count.
        every: steps of a cycle.
    """
    if every < 1:
        raise UserError("average 'swa': `every` must be at least 1 step")

    def fraction(step: Array) -> Array:
        since = jnp.asarray(step) + 1 - start
        # (steps done - start) / every weights are in the mean already
        n = jnp.maximum(since, 0) // every
        # 1 / (n + 1) at the end of a cycle, else 0
        newest = jnp.where(since % every == 0, 1 / (n + 1), 0.0)
        return jnp.where(since < 0, 1.0, newest)

    return fraction
