"""Metric log of a run: one JSON object per line of `metrics.jsonl`, and further sinks."""

import contextlib
import functools
import json
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdl import judging
from jaxdl.registry import supply
from jaxdl.rundir.directory import replace
from jaxdl.rundir.read import read_metrics
from jaxdl.rundir.sinks import Sink

RETRY = 10.0  # seconds until a place that could not be written is tried again


class MetricLog:
    """Appends to `metrics.jsonl`, and holds all of its lines.

    A full disk does not end a run: lines that could not be written are kept, and written later.

    Args:
        workdir: the run directory.
        step: lines beyond this step are removed, so that a resumed run does not repeat itself.
        sinks: (workdir, step) -> where else the numbers go.
        writes: False on all processes but one.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        step: int = 0,
        sinks: Sequence[Callable[[Path, int], Sink]] = (),
        writes: bool = True,
    ):
        self.lines = read_metrics(workdir, step)
        self._file, self._sinks = None, []
        if not writes:
            return
        self._file = _Outlet(str(workdir / "metrics.jsonl"), lambda at: _Lines(workdir, at), step)
        self._sinks = [
            _Outlet(
                f"a sink of {workdir}",
                functools.partial(_opened, opens, workdir),
                step,
            )
            for opens in sinks
        ]

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Add one line of numbers. Values that are not finite are written as null."""
        numbers = {k: _number(v) for k, v in values.items()}
        self.lines.append({"step": step, **numbers})
        if self._file:
            self._file.write(step, numbers)
        finite = {k: v for k, v in numbers.items() if v is not None}
        for sink in self._sinks:
            sink.write(step, finite)

    def series(self, key: str) -> list[tuple[int, float]]:
        """(step, value) of all lines that have the key, or of a score; NaN where not finite."""
        return judging.series(self.lines, key)

    def close(self) -> None:
        """Flush and close the files."""
        for outlet in [self._file, *self._sinks]:
            if outlet:
                outlet.close()


def _opened(build: Callable[..., Sink], workdir: Path, step: int) -> Sink:
    sink: Sink = supply(build, workdir=workdir, step=step)
    return sink


class _Outlet:
    """A sink that may fail for a while: lines that it did not write are kept and tried again.

    Args:
        name: for the warning.
        opens: step -> the sink; what it held beyond that step is gone.
        step: to open it with.
    """

    def __init__(self, name: str, opens: Callable[[int], Sink], step: int):
        self._name, self._opens = name, opens
        self._begun = self._step = step
        self._sink: Sink | None = None
        self._pending: list[tuple[int, Mapping[str, Any]]] = []
        self._taken: list[tuple[int, Mapping[str, Any]]] = []  # all of the last step that was taken
        self._refused_at, self._told = -math.inf, False
        self._push()

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        self._pending.append((step, values))
        if time.monotonic() - self._refused_at > RETRY:
            self._push()

    def _push(self) -> None:
        try:
            if self._sink is None:
                self._sink = self._opens(self._step)
            while self._pending:
                step, values = self._pending[0]
                self._sink.write(step, values)
                if step != self._step:
                    self._taken, self._step = [], step
                self._taken.append(self._pending.pop(0))
        except OSError as error:
            self._let_go()
            # A step may be there in part, so all of it is written anew.
            if self._taken and self._step > self._begun:
                self._pending, self._taken = self._taken + self._pending, []
                self._step -= 1
            self._refused_at = time.monotonic()
            if not self._told:
                self._told = True
                problem = f"{self._name} cannot be written: {error.strerror or error}"
                warnings.warn(f"{problem}; its lines are kept and tried again", stacklevel=2)

    def _let_go(self) -> None:
        sink, self._sink = self._sink, None
        if sink:
            with contextlib.suppress(OSError):
                sink.close()

    def close(self) -> None:
        if self._pending:
            self._push()
        self._let_go()
        if self._pending:
            warnings.warn(
                f"{self._name}: {len(self._pending)} lines were not written", stacklevel=2
            )


class _Lines:
    """`metrics.jsonl` itself."""

    def __init__(self, workdir: Path, step: int):
        path = workdir / "metrics.jsonl"
        replace(path, "".join(json.dumps(line) + "\n" for line in read_metrics(workdir, step)))
        self._file = path.open("a")

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _number(value: Any) -> float | int | None:
    number = np.asarray(value).item()
    return number if isinstance(number, int) or math.isfinite(number) else None
