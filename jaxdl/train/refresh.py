"""Changes between steps: a function of what was measured sets the extra variables of an objective.

    @register("refreshes")
    def halve_weight(*, every: Duration = "1 epoch") -> Refresh:
        def extra(state, measurements, batches):
            return {"weight": state.variables["extra"]["weight"] / 2}

        return Refresh(every, extra)

A refresh that is due after step t runs before step t + 1, behind all that is logged, measured and
saved at t. So a checkpoint of step t is always one from before it, and a run that goes on from
there makes the same refresh again, to the bit where it looks at nothing but its arguments.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdl import tree
from jaxdl.errors import UserError, choices
from jaxdl.train.state import TrainState
from jaxdl.train.step import Step
from jaxdl.types import EXTRA, Batch, Metrics, PyTree

Measurements = Sequence[Mapping[str, Any]]
"""Lines of the log so far: 'step', and 'train/loss', 'validation/accuracy' and the like."""
Examples = Callable[[str], Iterator[Batch]]
"""Name of a split -> its batches, each example once; padding has a `mask` of 0."""


class Refresh(NamedTuple):
    """A change of what is extra, made every so many steps."""

    every: int
    extra: Callable[[TrainState, Measurements, Examples], Mapping[str, PyTree]]
    """(state, measurements, batches) -> new values by name; names that are left out stay."""


def check_refreshes(refreshes: Mapping[str, Refresh], state: TrainState) -> None:
    """Refuse refreshes of a state that has nothing for them to set.

    Args:
        refreshes: by name.
        state: of the run; shapes are enough.

    Raises:
        UserError: names the refresh.
    """
    for name, refresh in refreshes.items():
        if refresh.every < 1:
            raise UserError(f"refresh '{name}': `every` must be at least 1 step")
        if not state.variables.get(EXTRA):
            raise UserError(
                f"refresh '{name}' has nothing to set: this objective keeps no extra variables"
            )


def refreshing(
    step: Step,
    refreshes: Mapping[str, Refresh],
    starts: Iterator[int],
    measurements: Callable[[], Measurements],
    batches: Examples,
) -> Step:
    """The step, with every refresh that is due made before it.

    Args:
        step: one or several in a call, which end wherever a refresh is due.
        refreshes: by name, in the order in which they are made.
        starts: steps done before each call.
        measurements: gives those so far.
        batches: of a split.
    """

    def refreshed(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        done = next(starts)
        for name, refresh in refreshes.items():
            if done and done % refresh.every == 0:
                state = _with_extra(name, state, refresh.extra(state, measurements(), batches))
        return step(state, batch)

    return refreshed if refreshes else step


def _with_extra(name: str, state: TrainState, new: Mapping[str, PyTree]) -> TrainState:
    """The state with new extra values, each of the shape and in the place of the old one."""
    old = state.variables[EXTRA]
    for key in new:
        if key not in old:
            raise UserError(f"refresh '{name}' sets an unknown '{key}': {choices(key, old)}")
    changed = {**old, **new}
    kinds = [
        {path: (jnp.shape(x), jnp.result_type(x)) for path, x in tree.flatten(values).items()}
        for values in (old, changed)
    ]
    if kinds[0] != kinds[1]:
        paths = sorted({path for path, _ in kinds[0].items() ^ kinds[1].items()})
        raise UserError(f"refresh '{name}' gives '{paths[0]}' another shape or type")
    placed = jax.tree.map(lambda x, like: jax.device_put(x, like.sharding), changed, old)
    return state.replace(variables={**state.variables, EXTRA: placed})
