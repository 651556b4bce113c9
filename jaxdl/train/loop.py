"""The loop: a generator over steps, and hooks that are called after each."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from jaxdl.train.state import TrainState
from jaxdl.train.step import Step
from jaxdl.types import Batch, Metrics

Hook = Callable[[int, TrainState, Metrics], bool | None]
"""(steps done, state, the step's metrics) -> True to stop. A state is dead after the next step."""


def fit(
    state: TrainState, step: Step, batches: Iterable[Batch]
) -> Iterator[tuple[TrainState, Metrics]]:
    """Step through the batches, yielding the state and the step's metrics after each."""
    for batch in batches:
        state, metrics = step(state, batch)
        yield state, metrics


def piecewise(phases: Sequence[tuple[int, Step]], starts: Iterator[int]) -> Step:
    """One step out of several: from each one's number on.

    Args:
        phases: (the number of the step from which it is used, step), in order, the first at 0.
        starts: steps done before each call.
    """

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        done = next(starts)
        return [step for begin, step in phases if begin <= done][-1](state, batch)

    return step


def step_chunks(start: int, stop: int, longest: int, due: Sequence[int] = ()) -> Iterator[range]:
    """Runs of steps from `start` to `stop` - 1, in order, that end wherever something is due.

    Args:
        start: number of the first step.
        stop: number after that of the last.
        longest: steps in a run at most.
        due: periods: a run ends at every multiple of each.
    """
    while start < stop:
        end = min([stop, start + longest, *((start // n + 1) * n for n in due)])
        yield range(start, end)
        start = end


def every(n: int, hook: Hook, last: int | None = None) -> Hook:
    """Call `hook` at each n-th step, and at step `last`."""

    def called(t: int, state: TrainState, metrics: Metrics) -> bool | None:
        return hook(t, state, metrics) if t % n == 0 or t == last else None

    return called


def run_hooks(hooks: Iterable[Hook], t: int, state: TrainState, metrics: Metrics) -> bool:
    """Call all hooks in order; True if any of them asks to stop."""
    answers = [hook(t, state, metrics) for hook in hooks]
    return any(answers)
