"""Schedules: what part of the peak learning rate is used at each step.

A builder is given `total_steps` and returns step -> factor in [0, 1], for steps 0 to
total_steps - 1. Durations arrive as numbers of steps. Every schedule is a warm-up times a decay:

    warm-up   min(1, (step + 1) / warmup): the first step already moves, and step `warmup - 1` is
              the first at the peak (steps counted from 1, as in https://arxiv.org/abs/1706.03762)
    decay     1 at the peak; `warmup_cosine` and `linear` come down to `end` at the last step,
              `step` and `exponential` count from the start of the run

A warm-up as long as the run leaves no step for a decay: the last step is at the peak.
"""

from typing import Annotated

import jax.numpy as jnp
import msgspec
import optax

from jaxdl.config import Duration, Rate, to_steps
from jaxdl.errors import UserError
from jaxdl.registry import register

Drop = Annotated[float, msgspec.Meta(gt=0, le=1)]
Percent = Annotated[float, msgspec.Meta(gt=0, lt=100)]


def _warmup(steps: int, total_steps: int) -> optax.Schedule:
    """(step + 1) / steps, then 1; all 1 where `steps` is 0."""
    if steps > total_steps:
        raise UserError(f"warmup of {steps} steps is longer than the run, {total_steps}")
    return optax.linear_schedule(1 / max(steps, 1), 1.0, steps - 1)


def _peak(warmup: int, total_steps: int) -> tuple[int, int]:
    """The first step at the peak, and how many steps are left to decay in, at least 1."""
    peak = max(warmup - 1, 0)
    return peak, max(total_steps - 1 - peak, 1)


def _times(first: optax.Schedule, second: optax.Schedule) -> optax.Schedule:
    return lambda step: first(step) * second(step)


def _period(every: int) -> int:
    if every < 1:
        raise UserError("a schedule's `every` must be at least 1 step")
    return every


@register("schedules")
def constant(total_steps: int, /, *, warmup: Duration = 0) -> optax.Schedule:
    """The peak throughout, after a linear warm-up (https://arxiv.org/abs/1706.02677).

    Args:
        total_steps: steps of the run, at least 1.
        warmup: steps to the peak.
    """
    return _warmup(warmup, total_steps)


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
    peak, left = _peak(warmup, total_steps)
    # end + (1 - end) * (1 + cos(pi * (step - peak) / left)) / 2
    cosine = optax.cosine_decay_schedule(1.0, left, alpha=end)
    return _times(_warmup(warmup, total_steps), lambda step: cosine(jnp.maximum(step - peak, 0)))


@register("schedules")
def linear(total_steps: int, /, *, warmup: Duration = "5%", end: Rate = 0.0) -> optax.Schedule:
    """Linear warm-up, then a straight line down to `end` (https://arxiv.org/abs/1905.04753).

    Args:
        total_steps: steps of the run, at least 1.
        warmup: steps to the peak.
        end: factor at the last step.
    """
    peak, left = _peak(warmup, total_steps)
    # 1 - (1 - end) * (step - peak) / left, where rounding must not pass below `end`
    line = optax.linear_schedule(1.0, end, left, transition_begin=peak)
    return _times(_warmup(warmup, total_steps), lambda step: jnp.maximum(line(step), end))


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
    period = _period(every)
    at = [to_steps(f"{m}%", examples=1, batch_size=1, total=total_steps) for m in milestones]

    def drops(step: int) -> int:
        return sum(jnp.where(step >= m, 1, 0) for m in at) if at else step // period

    # factor ^ drops
    power = optax.exponential_decay(1.0, 1, factor)
    return _times(_warmup(warmup, total_steps), lambda step: power(drops(step)))


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
    period = _period(every)
    # rate ^ (step / every), rounded down for a staircase: in integers, since a compiler may turn
    # the division into a product that falls short of a whole number
    power = optax.exponential_decay(1.0, 1, rate)
    return _times(
        _warmup(warmup, total_steps),
        lambda step: power(step // period if staircase else step / period),
    )
