"""Progress of a run, told to objectives that change with it: the step divided by all steps."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.train.state import TrainState
from jaxdl.train.step import Step
from jaxdl.types import Array, Batch, Metrics


def with_progress(batch: Batch, step: Array | int, total: int) -> Batch:
    """The batch with `progress` (b,) float32: one number, the same in every micro-batch of a step.

    Args:
        batch: of the main stream and others.
        step: that the batch is for, from 0.
        total: steps of the whole run.
    """
    examples = next(len(x) for x in batch.values() if not isinstance(x, Mapping))
    full = jnp.full if isinstance(step, jax.Array) else np.full
    # A float32 is exact up to 2^24 steps, and the quotient is rounded once.
    progress = jnp.float32(step) / total if isinstance(step, jax.Array) else step / total
    return {**batch, "progress": full((examples,), progress, np.float32)}


def timed(step: Step, total: int) -> Step:
    """The same step on batches with progress.

    Args:
        step: of training.
        total: steps of the whole run.
    """

    def told(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        return step(state, with_progress(batch, state.step, total))

    return told
