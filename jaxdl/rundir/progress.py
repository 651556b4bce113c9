"""Training log: averages step metrics over a window, writes them, shows a progress bar.

A hook gets the state, never the loop.
"""

import contextlib
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from tqdm import tqdm

from jaxdl.rundir.journal import MetricLog
from jaxdl.train.sharding import fetch
from jaxdl.train.state import TrainState
from jaxdl.types import Metrics

# Steps the host may run ahead of the device: enough to hide dispatch, few enough to tell the truth.
IN_FLIGHT = 2


class Diverged(Exception):
    """Too many steps in a row were skipped; `main` says so and exits with `exit_status`.

    Attributes:
        step: steps done when it was one too many.
        began: steps done before the first of them.
        cause: what was not finite, in words, once it is known.
    """

    exit_status = 3

    def __init__(self, step: int, skipped: int):
        super().__init__(step, skipped)
        self.step, self.began = step, step - skipped
        self.reason: str | None = None

    def __str__(self) -> str:
        first = f" (first {self.reason})" if self.reason else ""
        return (
            f"training diverged: loss, gradient or update of the last {self.step - self.began} "
            f"steps, up to step {self.step}, were not finite{first}, and the weights are those "
            "before them: try a smaller learning rate, gradient.transforms=clip_norm, or "
            "precision=float32"
        )


class TrainLog:
    """Averages step metrics over a window, writes them to the metric log, and shows progress.

    Args:
        journal: where windows go.
        every: steps in a window.
        start: steps done before this run of the program.
        total: steps in all.
        batch_size: examples a step.
        examples: examples an epoch.
        schedule: step to learning rate.
        waited: seconds the loop has spent waiting for data so far.
        window: what `window()` gave when the checkpoint that training resumes from was saved.
        shows: whether to draw on the console.
        max_skipped: steps in a row whose gradient was not finite that end the run.

    Raises:
        Diverged: when called, or asked for its window, after that many.
    """

    def __init__(
        self,
        journal: MetricLog,
        *,
        every: int,
        start: int,
        total: int,
        batch_size: int,
        examples: int,
        schedule: Callable[[int], float],
        waited: Callable[[], float],
        window: dict[str, Any] | None = None,
        shows: bool = True,
        max_skipped: int = 100,
    ):
        self._journal, self._every, self._total = journal, every, total
        self._batch_size, self._examples = batch_size, examples
        self._schedule, self._waited = schedule, waited
        window = window or {"sums": {}, "skipped": 0}
        self._sums = {k: tuple(v) for k, v in window["sums"].items()}
        self._flying: deque[tuple[int, Metrics]] = deque()
        self._at, self._landed, self._paused, self._shown = start, 0, 0.0, 0.0
        self._done, self._skipped, self._max_skipped = start, window["skipped"], max_skipped
        self._began, self._waited_before = time.perf_counter(), waited()
        self._bar = tqdm(
            total=total,
            initial=start,
            unit="step",
            dynamic_ncols=True,
            file=sys.stdout,
            disable=not (shows and sys.stdout.isatty()),
        )
        self._prints = shows and self._bar.disable

    def __call__(self, t: int, state: TrainState, metrics: Metrics) -> None:
        """Count the steps since the last call; at the end of a window, write its averages."""
        del state
        self._flying.append((t - self._at, metrics))
        self._land(IN_FLIGHT)
        self._bar.update(t - self._at)
        self._at = t
        if t % self._every == 0 or t == self._total:
            self._write(t)

    def window(self) -> dict[str, Any]:
        """Sums of the unfinished window and the number of last steps skipped, for a checkpoint."""
        self._land(0)
        sums = {k: [float(x) for x in pair] for k, pair in self._sums.items()}
        return {"sums": sums, "skipped": self._skipped}

    def moves(self) -> bool:
        """True if the last step was not skipped."""
        self._land(0)
        return bool(self._skipped == 0)

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Context whose time does not count as training time."""
        self._land(0)
        began = time.perf_counter()
        yield
        self._paused += time.perf_counter() - began

    def say(self, text: str) -> None:
        """Print a line without breaking the progress bar."""
        if self._prints or not self._bar.disable:
            self._bar.write(text)
            sys.stdout.flush()

    def close(self) -> None:
        """Close the progress bar."""
        self._bar.close()

    def _land(self, leave: int) -> None:
        """Wait for all steps but the last few, and add up their metrics."""
        while len(self._flying) > leave:
            steps, metrics = self._flying.popleft()
            landed = fetch(metrics)
            self._landed += steps
            self._done += steps
            for name, (value, count) in landed.items():
                value_before, count_before = self._sums.get(name, (0.0, 0.0))
                self._sums[name] = (value_before + float(value), count_before + float(count))
            self._count_skipped(landed)
            if not self._bar.disable and time.perf_counter() - self._shown > 0.5:
                self._show(landed)

    def _count_skipped(self, landed: Metrics) -> None:
        # of several steps in one program, it is known only how many
        skipped, count = landed.get("skipped", (0, 1))
        self._skipped = self._skipped + int(count) if skipped == count else 0
        if self._skipped >= self._max_skipped:
            # What is still in flight says it only once.
            self._max_skipped = sys.maxsize
            raise Diverged(self._done, self._skipped)

    def _show(self, landed: Metrics) -> None:
        self._shown = time.perf_counter()
        speed, wait = self._speed()
        now = {k: f"{v / n:.4f}" for k, (v, n) in landed.items() if k in ("loss", "accuracy")}
        self._bar.set_postfix(now | {"images/s": f"{speed:.0f}", "wait": f"{wait:.0%}"})

    def _speed(self) -> tuple[float, float]:
        """Examples per second, and the fraction of time spent waiting for data, in this window."""
        seconds = max(time.perf_counter() - self._began - self._paused, 1e-9)
        return self._landed * self._batch_size / seconds, (
            self._waited() - self._waited_before
        ) / seconds

    def _write(self, t: int) -> None:
        self._land(0)
        means = {f"train/{k}": value / count for k, (value, count) in self._sums.items() if count}
        speed, wait = self._speed()
        epoch = t * self._batch_size / self._examples
        self._journal.write(
            t,
            {
                "epoch": round(epoch, 4),
                **means,
                "train/learning_rate": float(np.asarray(self._schedule(t - 1))),
                "train/images_per_second": round(speed, 1),
                "train/data_wait": round(wait, 4),
            },
        )
        if self._prints:
            shown = "  ".join(
                f"{name} {means[f'train/{name}']:.4f}"
                for name in ("loss", "accuracy")
                if f"train/{name}" in means
            )
            if means.get("train/skipped"):
                shown += f"  skipped {means['train/skipped']:.0%} of steps: gradient not finite"
            print(
                f"step {t}/{self._total}  epoch {epoch:.1f}  {shown}  "
                f"{speed:.0f} images/s  wait {wait:.0%}",
                flush=True,
            )
        self._sums, self._landed, self._paused = {}, 0, 0.0
        self._began, self._waited_before = time.perf_counter(), self._waited()
