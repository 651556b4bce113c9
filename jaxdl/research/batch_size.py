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
from jaxdl.memory import limit
from jaxdl.session import first_state
from jaxdl.train.step import compile_step

STEPS = 3  # timed, after one that is not


class Trial(NamedTuple):
    """A batch size, tried."""

    batch_size: int
    bytes: int | None
    """on each device, as the compiled program says; None where it could not be compiled"""
    seconds: float | None
    """of a step; None where it does not fit"""


def find_batch_size(config: Config, *, share: float = 0.9, largest: int = 65536) -> Iterator[Trial]:
    """Try batches of doubling size until one does not fit; the last but one is the largest.

    Args:
        config: of the run. The smallest size is one example a device and micro-batch.
        share: of a device's memory that a step may take.
        largest: size that ends the search.
    """
    if not 0 < share <= 1:
        raise UserError(f"a share of the memory is above 0 and at most 1, not {share}")
    available, splits = share * limit(), None
    size = jax.device_count() * config.gradient.accumulate
    while size <= largest:
        data = dataclasses.replace(config.data, batch_size=size)
        changed = dataclasses.replace(config, data=data, duration="1000 steps")
        plan = assemble(changed, splits)
        splits = plan.splits
        trial = _try(changed, plan, available)
        yield trial
        if trial.seconds is None:
            return
        size *= 2


def _try(config: Config, plan, available: float) -> Trial:
    spec, size = plan.batch_spec(config.data.batch_size), config.data.batch_size
    used = None
    try:
        state = first_state(config, plan)
        step = compile_step(plan.phases[-1][1], state).lower(state, spec).compile()
        used = _program_bytes(step)
        if used > available:
            return Trial(size, used, None)
        zeros = {k: jnp.zeros(s.shape, s.dtype, device=s.sharding) for k, s in spec.items()}
        state, _ = jax.block_until_ready(step(state, zeros))
        clock = time.perf_counter()
        for _ in range(STEPS):
            state, metrics = step(state, zeros)
        jax.block_until_ready(metrics)
        return Trial(size, used, (time.perf_counter() - clock) / STEPS)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return Trial(size, used, None)


def _program_bytes(step: jax.stages.Compiled) -> int:
    sizes = step.memory_analysis()
    kept = sizes.argument_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    return kept + sizes.temp_size_in_bytes
