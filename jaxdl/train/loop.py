"""The loop: a generator over steps, and hooks that are called after each."""

from collections.abc import Callable, Iterable, Iterator

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


def every(n: int, hook: Hook, last: int | None = None) -> Hook:
    """Call `hook` at each n-th step, and at step `last`."""

    def called(t: int, state: TrainState, metrics: Metrics) -> bool | None:
        return hook(t, state, metrics) if t % n == 0 or t == last else None

    return called


def run_hooks(hooks: Iterable[Hook], t: int, state: TrainState, metrics: Metrics) -> bool:
    """Call all hooks in order; True if any of them asks to stop."""
    answers = [hook(t, state, metrics) for hook in hooks]
    return any(answers)
