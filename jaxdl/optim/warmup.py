"""Linear warm-up shared by schedules, and the step at which it ends.

A warm-up is min(1, (step + 1) / warmup): the first step already moves, and step `warmup - 1` is the
first at the peak (steps counted from 1, as in https://arxiv.org/abs/1706.03762).
"""

from typing import Annotated

import jax.numpy as jnp
import msgspec
import optax

from jaxdl.errors import UserError

Drop = Annotated[float, msgspec.Meta(gt=0, le=1)]
"""Factor by which a drop multiplies the rate."""


def ramp(warmup: int, total_steps: int) -> optax.Schedule:
    """(step + 1) / warmup, then 1; all 1 where `warmup` is 0.

    Raises:
        UserError: the warm-up is longer than the run.
    """
    if warmup > total_steps:
        raise UserError(f"warmup of {warmup} steps is longer than the run, {total_steps}")
    return optax.linear_schedule(1 / max(warmup, 1), 1.0, warmup - 1)


def peak_of(warmup: int, total_steps: int) -> tuple[int, int]:
    """The first step at the peak, and how many steps are left to decay in, at least 1."""
    peak = max(warmup - 1, 0)
    return peak, max(total_steps - 1 - peak, 1)


def times(first: optax.Schedule, second: optax.Schedule) -> optax.Schedule:
    """The product of two schedules that both count from the start of the run."""
    return lambda step: first(step) * second(step)


def onto(shape: optax.Schedule, warmup: int, total_steps: int) -> optax.Schedule:
    """A warm-up onto a schedule that counts from the peak; until then it stands at its start."""
    peak, _ = peak_of(warmup, total_steps)
    return times(ramp(warmup, total_steps), lambda step: shape(jnp.maximum(step - peak, 0)))


def period_of(steps: int, name: str = "every") -> int:
    """`steps`, which must be a whole period.

    Raises:
        UserError: there are none; `name` is the argument to mend.
    """
    if steps < 1:
        raise UserError(f"a schedule's `{name}` must be at least 1 step")
    return steps
