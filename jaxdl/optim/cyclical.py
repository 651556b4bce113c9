"""Schedules that rise more than once, and the one that rises for a third of the run.

    triangular, triangular2, exp_range   between `low` and the peak and back, by straight lines:
                "Cyclical Learning Rates for Training Neural Networks", Smith,
                https://arxiv.org/abs/1506.01186
    warm_restarts   a cosine that starts anew: "SGDR", Loshchilov, Hutter,
                https://arxiv.org/abs/1608.03983
    one_cycle   up once and down below where it began: "A disciplined approach to neural network
                hyper-parameters: Part 1", Smith, https://arxiv.org/abs/1803.09820

All are factors of the peak, and their cycles count from the end of the warm-up. What differs from
the papers: 1cycle swings the momentum against the rate; a schedule here moves the rate alone.
"""

from collections.abc import Callable
from typing import Annotated, Literal

import jax.numpy as jnp
import msgspec
import optax

from jaxdl.config import Count, Duration, Rate
from jaxdl.errors import UserError
from jaxdl.optim.warmup import Drop, onto, peak_of, period_of
from jaxdl.registry import register
from jaxdl.types import Array

Low = Annotated[float, msgspec.Meta(gt=0, lt=1)]
"""A factor below the peak at which a run can still begin."""


def _triangles(half: int, low: float, height: Callable[[Array, Array], Array]) -> optax.Schedule:
    """low + (1 - low) * height(step, cycle) * triangle, which is 0, 1, 0 at 0, half, 2 * half."""
    half = period_of(half, "half_cycle")

    def factor(step: Array) -> Array:
        cycle, place = step // (2 * half), step % (2 * half)
        # 1 - |place / half - 1|
        triangle = 1 - jnp.abs(place - half) / half
        return low + (1 - low) * triangle * height(step, cycle)

    return factor


@register("schedules")
def triangular(
    total_steps: int,
    /,
    *,
    half_cycle: Duration = "10%",
    low: Low = 0.25,
    warmup: Duration = 0,
) -> optax.Schedule:
    """Up and down between two rates, by straight lines (https://arxiv.org/abs/1506.01186).

    Args:
        total_steps: steps of the run, at least 1.
        half_cycle: steps from low to peak; 2 to 10 epochs in the paper. The default makes 5 cycles.
        low: the lower rate, as a factor of the peak: a quarter or a third in the paper.
        warmup: steps from 0 to `low`, before the first cycle.
    """
    return onto(_triangles(half_cycle, low, lambda step, cycle: 1.0), warmup, total_steps)


@register("schedules")
def triangular2(
    total_steps: int,
    /,
    *,
    half_cycle: Duration = "10%",
    low: Low = 0.25,
    warmup: Duration = 0,
) -> optax.Schedule:
    """Triangles of which each is half as high as the last (https://arxiv.org/abs/1506.01186).

    Args:
        total_steps: steps of the run, at least 1.
        half_cycle: steps from low to peak. The default makes 5 cycles.
        low: the lower rate, as a factor of the peak; the cycles sink towards it.
        warmup: steps from 0 to `low`, before the first cycle.
    """
    # height = 2^-cycle
    halved = lambda step, cycle: jnp.exp2(-1.0 * cycle)
    return onto(_triangles(half_cycle, low, halved), warmup, total_steps)


@register("schedules")
def exp_range(
    total_steps: int,
    /,
    *,
    half_cycle: Duration = "10%",
    low: Low = 0.25,
    gamma: Drop = 0.99994,
    warmup: Duration = 0,
) -> optax.Schedule:
    """Triangles whose height decays with each step (https://arxiv.org/abs/1506.01186).

    As in the author's code and PyTorch's, `low` stays and the peak sinks towards it.

    Args:
        total_steps: steps of the run, at least 1.
        half_cycle: steps from low to peak. The default makes 5 cycles.
        low: the lower rate, as a factor of the peak.
        gamma: part of the height left after a step; the paper's suits tens of thousands of steps.
        warmup: steps from 0 to `low`, before the first cycle.
    """
    # height = gamma^step
    decay = optax.exponential_decay(1.0, 1, gamma)
    decayed = lambda step, cycle: decay(step)
    return onto(_triangles(half_cycle, low, decayed), warmup, total_steps)


@register("schedules")
def warm_restarts(
    total_steps: int,
    /,
    *,
    first_cycle: Duration = "14.3%",
    cycle_mult: Count = 2,
    end: Rate = 0.0,
    warmup: Duration = 0,
) -> optax.Schedule:
    """SGDR: a cosine that starts anew, each time for longer (https://arxiv.org/abs/1608.03983).

    A cycle of T steps ends one step short of `end`, since step T is the next cycle's first.

    Args:
        total_steps: steps of the run, at least 1.
        first_cycle: steps of the first cycle, T_0. With the defaults a run is three cycles: a
            seventh of it, two sevenths and four.
        cycle_mult: each cycle takes so many times the steps of the one before, T_mult.
        end: factor towards which each cycle falls.
        warmup: steps to the first peak.
    """
    first = period_of(first_cycle, "first_cycle")
    # Cycle i begins at step T_0 (1 + m + ... + m^(i - 1)) and takes T_0 m^i: all in integers.
    lengths = [first]
    while cycle_mult > 1 and sum(lengths) < total_steps:
        lengths.append(lengths[-1] * cycle_mult)

    def factor(step: Array) -> Array:
        place, length = step % first, jnp.float32(first)
        if cycle_mult > 1:
            place = step
            for i, done in enumerate(lengths[:-1]):
                over = step >= sum(lengths[: i + 1])
                place = jnp.where(over, place - done, place)
                length = jnp.where(over, jnp.float32(lengths[i + 1]), length)
        # end + (1 - end) * (1 + cos(pi * T_cur / T_i)) / 2
        return end + (1 - end) * (1 + jnp.cos(jnp.pi * jnp.minimum(place / length, 1))) / 2

    return onto(factor, warmup, total_steps)


@register("schedules")
def one_cycle(
    total_steps: int,
    /,
    *,
    warmup: Duration = "30%",
    start: Rate = 0.04,
    end: Rate = 4e-6,
    anneal: Literal["cosine", "linear"] = "cosine",
    three_phase: bool = False,
) -> optax.Schedule:
    """1cycle: up to the peak, then down below the start (https://arxiv.org/abs/1803.09820).

    The paper's goes up by a straight line, as long down again, and then far below for the rest:
    `three_phase=True, anneal="linear"`. The defaults are fastai's and PyTorch's two phases.

    Args:
        total_steps: steps of the run, at least 1.
        warmup: steps to the peak, the first of them at `start`.
        start: factor at the first step.
        end: factor at the last step.
        anneal: how each phase goes from one factor to the next.
        three_phase: come back to `start` in as many steps as it took to rise, then go to `end`.

    Raises:
        UserError: the warm-up is longer than the run, or, of three phases, than half of it.
    """
    if warmup > total_steps or (three_phase and 2 * warmup > total_steps):
        limit = "half of the run" if three_phase else "the run"
        raise UserError(f"warmup of {warmup} steps is longer than {limit}, {total_steps} in all")
    peak, _ = peak_of(warmup, total_steps)
    back = [(2 * peak, start)] if three_phase else []
    corners = [(0, start), (peak, 1.0), *back, (total_steps - 1, end)]

    def factor(step: Array) -> Array:
        value = jnp.asarray(corners[0][1], jnp.float32)
        for (begin, high), (stop, low) in zip(corners[:-1], corners[1:], strict=True):
            part = jnp.clip((step - begin) / max(stop - begin, 1), 0, 1)
            eased = (1 - jnp.cos(jnp.pi * part)) / 2 if anneal == "cosine" else part
            value = jnp.where(step >= begin, high + (low - high) * eased, value)
        return value

    return factor


@register("schedules")
def range_test(total_steps: int, /, *, low: Drop = 1e-6) -> optax.Schedule:
    """Rises by the same factor each step, to find a rate (https://arxiv.org/abs/1506.01186).

    Args:
        total_steps: steps of the run, at least 1.
        low: factor at the first step; the last is at the peak.
    """
    # low^(1 - step / (total_steps - 1))
    return lambda step: low ** jnp.maximum(1 - step / max(total_steps - 1, 1), 0.0)
