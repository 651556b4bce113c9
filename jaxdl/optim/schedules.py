"""Schedules: what part of the peak learning rate is used at each step.

A builder is given `total_steps` and returns step -> factor in [0, 1], for steps 0 to
total_steps - 1. Durations arrive as numbers of steps. Every schedule is a warm-up (`warmup.py`)
times a decay that is 1 at the peak:

    `warmup_cosine`, `linear`, `polynomial`   come down to `end` at the last step
    `inverse_sqrt`                            falls for ever, whatever the length of the run
    `step`, `exponential`                     count from the start of the run

A warm-up as long as the run leaves no step for a decay: the last step is at the peak. Those that
rise more than once are in `cyclical.py`.
"""

from typing import Annotated

import jax.numpy as jnp
import msgspec
import optax

from jaxdl.config import Duration, Positive, Rate
from jaxdl.durations import to_steps
from jaxdl.optim.warmup import Drop, onto, peak_of, period_of, ramp, times
from jaxdl.registry import register

Percent = Annotated[float, msgspec.Meta(gt=0, lt=100)]


@register("schedules")
def constant(total_steps: int, /, *, warmup: Duration = 0) -> optax.Schedule:
    """The peak throughout, after a linear warm-up (https://arxiv.org/abs/1706.02677).

    Args:
        total_steps: steps of the run, at least 1.
        warmup: steps to the peak.
    """
    return ramp(warmup, total_steps)


@register("schedules")
def warmup_cosine(
    total_steps: int, /, *, warmup: Duration = "5%", end: Rate = 0.0
) -> optax.Schedule:
    """Linear warm-up, then half a cosine down to `end` (https://arxiv.org/abs/1608.03983).

    Args:
        total_steps: steps of the run, at least 1.
        warmup: steps to the peak.
        end: factor at the last step.
    """
    _, left = peak_of(warmup, total_steps)
    # end + (1 - end) * (1 + cos(pi * (step - peak) / left)) / 2
    return onto(optax.cosine_decay_schedule(1.0, left, alpha=end), warmup, total_steps)


@register("schedules")
def linear(total_steps: int, /, *, warmup: Duration = "5%", end: Rate = 0.0) -> optax.Schedule:
    """Linear warm-up, then a straight line down to `end` (https://arxiv.org/abs/1905.04753).

    Args:
        total_steps: steps of the run, at least 1.
        warmup: steps to the peak.
        end: factor at the last step.
    """
    return polynomial(total_steps, power=1.0, warmup=warmup, end=end)


@register("schedules")
def polynomial(
    total_steps: int,
    /,
    *,
    power: Positive = 0.9,
    warmup: Duration = "5%",
    end: Rate = 0.0,
) -> optax.Schedule:
    """Linear warm-up, then a power of what is left: DeepLab's (https://arxiv.org/abs/1606.00915).

    The paper divides by the number of steps, so that its last step is just above 0; here the last
    step is at `end`, as in the other schedules.

    Args:
        total_steps: steps of the run, at least 1.
        power: 1 is a straight line; above 1 it falls early, below 1 late.
        warmup: steps to the peak.
        end: factor at the last step.
    """
    _, left = peak_of(warmup, total_steps)
    # end + (1 - end) * (1 - (step - peak) / left) ^ power, with the difference taken in integers:
    # Optax's takes it of floats, whose rounding is below 0 at some last steps and has no power
    remaining = lambda step: jnp.maximum(left - step, 0) / left
    return onto(lambda step: end + (1 - end) * remaining(step) ** power, warmup, total_steps)


@register("schedules")
@register("schedules", "noam")
def inverse_sqrt(total_steps: int, /, *, warmup: Duration = "5%") -> optax.Schedule:
    """Linear warm-up, then 1 / sqrt(step): the Transformer's (https://arxiv.org/abs/1706.03762).

    Also called Noam's, after an author. The paper's rate (equation 3, steps s from 1) is

        d_model^-0.5 * min(s^-0.5, s * warmup^-1.5)

    and this is that over its own peak, (d_model * warmup)^-0.5, so that the optimizer's learning
    rate is the peak here as everywhere: 6.99e-4 for the paper's d_model 512 and warmup of 4000.

    Args:
        total_steps: steps of the run, at least 1.
        warmup: steps to the peak, and what the fall is measured in: after 4 * warmup steps half of
            the peak is left.
    """
    unit = max(warmup, 1)
    # min(s / warmup, sqrt(warmup / s)),  s = step + 1
    root = lambda step: jnp.sqrt(unit / jnp.maximum(step + 1, unit))
    return times(ramp(warmup, total_steps), root)


@register("schedules")
def step(
    total_steps: int,
    /,
    *,
    every: Duration = "30%",
    milestones: tuple[Percent, ...] = (),
    factor: Drop = 0.1,
    warmup: Duration = 0,
) -> optax.Schedule:
    """Drops by a factor, evenly or at milestones (https://arxiv.org/abs/1512.03385).

    Args:
        total_steps: steps of the run, at least 1.
        every: steps between drops.
        milestones: when to drop, in percent of the run, as (50, 75); they replace `every`.
        factor: what a drop multiplies by.
        warmup: steps to the peak; drops are counted from the start of the run.
    """
    period = period_of(every)
    at = [to_steps(f"{m}%", examples=1, batch_size=1, total=total_steps) for m in milestones]

    def drops(step: int) -> int:
        return sum(jnp.where(step >= m, 1, 0) for m in at) if at else step // period

    # factor ^ drops
    power = optax.exponential_decay(1.0, 1, factor)
    return times(ramp(warmup, total_steps), lambda step: power(drops(step)))


@register("schedules")
def exponential(
    total_steps: int,
    /,
    *,
    rate: Drop = 0.97,
    every: Duration = "2.4 epochs",
    staircase: bool = True,
    warmup: Duration = 0,
) -> optax.Schedule:
    """Decays by `rate` every so often: EfficientNet's (https://arxiv.org/abs/1905.11946).

    Args:
        total_steps: steps of the run, at least 1.
        rate: what is left after `every` steps.
        every: steps in which the factor falls by `rate`.
        staircase: fall at once at the end of each period, instead of smoothly.
        warmup: steps to the peak; the decay is counted from the start of the run.
    """
    period = period_of(every)
    # rate ^ (step / every), rounded down for a staircase: in integers, since a compiler may turn
    # the division into a product that falls short of a whole number
    power = optax.exponential_decay(1.0, 1, rate)
    return times(
        ramp(warmup, total_steps),
        lambda step: power(step // period if staircase else step / period),
    )
