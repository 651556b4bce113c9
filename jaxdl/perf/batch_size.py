"""The largest batch that fits, and how fast each size is: by compiling and running a few steps."""

import dataclasses
import time
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdl.assemble import assemble
from jaxdl.config import Config
from jaxdl.errors import UserError
from jaxdl.perf.memory import limit, ran_out
from jaxdl.session import first_state
from jaxdl.train.state import TrainState
from jaxdl.train.step import Step, compile_step
from jaxdl.types import PyTree

STEPS = 3  # timed, after one that is not


class Trial(NamedTuple):
    """A batch size, tried."""

    batch_size: int
    bytes: int | None
    """on each device, as the compiled program says; None where it could not be compiled"""
    seconds: float | None
    """of a step; None where it does not fit"""


def find_batch_size(
    config: Config, *, fraction: float = 0.9, largest: int = 65536
) -> Iterator[Trial]:
    """Try batches of doubling size until one does not fit; the last but one is the largest.

    Args:
        config: of the run. The smallest size is one example a device and micro-batch.
        fraction: of a device's memory that a step may take, in (0, 1].
        largest: size that ends the search.

    Raises:
        UserError: a fraction outside (0, 1], or no size to try.
    """
    if not 0 < fraction <= 1:
        raise UserError(f"a fraction of the memory is above 0 and at most 1, not {fraction}")
    size = jax.device_count() * config.gradient.accumulate
    if largest < size:
        raise UserError(f"a batch has {size} examples or more here, so {largest} ends no search")
    # The state and the step are those of any size: what depends on it is known at compilation.
    smallest = dataclasses.replace(config.data, batch_size=size)
    config = dataclasses.replace(config, data=smallest, duration="1000 steps")
    plan = assemble(config)
    used = None
    try:
        state = first_state(config, plan)
        step = compile_step(plan.step, state)
        while size <= largest:
            used, spec = None, plan.batch_spec(size)
            compiled = step.lower(state, spec).compile()
            used = _program_bytes(compiled)
            if used > fraction * limit():
                yield Trial(size, used, None)
                return
            state, seconds = _timed(compiled, state, spec)
            yield Trial(size, used, seconds)
            size *= 2
    except jax.errors.JaxRuntimeError as error:
        if not ran_out(error):
            raise
        yield Trial(size, used, None)


def _timed(step: Step, state: TrainState, spec: PyTree) -> tuple[TrainState, float]:
    """The state after some steps on zeros, and the seconds that one took."""
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype, device=s.sharding), spec)
    state, _ = jax.block_until_ready(step(state, zeros))
    clock = time.perf_counter()
    for _ in range(STEPS):
        state, metrics = step(state, zeros)
    jax.block_until_ready(metrics)
    return state, (time.perf_counter() - clock) / STEPS


def _program_bytes(step: jax.stages.Compiled) -> int:
    sizes = step.memory_analysis()
    kept = sizes.argument_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    return kept + sizes.temp_size_in_bytes
