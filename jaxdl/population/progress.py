"""Training log of members that train together: one `TrainLog` each, given its measurements."""

import contextlib
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from jaxdl.rundir.journal import MetricLog
from jaxdl.rundir.progress import IN_FLIGHT, TrainLog
from jaxdl.train.sharding import fetch
from jaxdl.train.state import TrainState
from jaxdl.types import Metrics


class MembersLog:
    """Shares out what members measured, and prints how they stand.

    Args:
        logs: one for each member; none of them prints.
        journals: theirs, in the same order.
        every: steps in a window.
        end: step after which the program is another one.
        total: steps in all.
    """

    def __init__(
        self,
        logs: Sequence[TrainLog],
        journals: Sequence[MetricLog],
        *,
        every: int,
        end: int,
        total: int,
    ):
        self._logs, self._journals = logs, journals
        self._every, self._end, self._total = every, end, total
        self._flying: deque[tuple[int, Metrics]] = deque()

    def __call__(self, t: int, state: TrainState, metrics: Metrics) -> None:
        """Take the metrics (n,) of all members after step t."""
        del state
        self._flying.append((t, metrics))
        ends = t % self._every == 0 or t == self._end
        self._land(0 if ends else IN_FLIGHT)
        if ends:
            lines = [journal.lines[-1] for journal in self._journals]
            speed = sum(line["train/images_per_second"] for line in lines)
            losses = [line.get("train/loss") for line in lines]
            losses = [np.nan if loss is None else loss for loss in losses]
            shown = f"loss {quartiles(losses)}  {speed:.0f} images/s"
            self.say(f"step {t}/{self._total}  epoch {lines[0]['epoch']:.1f}  {shown}")

    def window(self) -> list[dict[str, Any]]:
        """Sums of the unfinished window of each member, for a checkpoint to carry."""
        self._land(0)
        return [log.window() for log in self._logs]

    def moves(self) -> bool:
        """True: no member ends the run of the others."""
        return True

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Time spent in here is not training time."""
        self._land(0)
        with contextlib.ExitStack() as stack:
            for log in self._logs:
                stack.enter_context(log.pause())
            yield

    def say(self, text: str) -> None:
        """A line on the console."""
        print(text, flush=True)

    def close(self) -> None:
        """Nothing is left open."""

    def _land(self, leave: int) -> None:
        while len(self._flying) > leave:
            t, metrics = self._flying.popleft()
            landed = fetch(metrics)
            for i, log in enumerate(self._logs):
                log(t, None, jax.tree.map(lambda x, i=i: x[i], landed))


def quartiles(values: Sequence[float]) -> str:
    """Least, median and largest of the numbers among the values, in words."""
    finite = np.asarray([v for v in values if np.isfinite(v)])
    if not finite.size:
        return "not finite"
    said = f"{finite.min():.4f} to {finite.max():.4f}, median {np.median(finite):.4f}"
    return said if finite.size == len(values) else f"{said}, {len(values) - finite.size} diverged"
