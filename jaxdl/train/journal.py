"""What a run measured: one JSON object a line in `metrics.jsonl`, and other places beside it."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdl.errors import UserError
from jaxdl.train.sinks import Sink


class Journal:
    """Appends to `metrics.jsonl`, and knows all that it holds.

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
        self._path = workdir / "metrics.jsonl"
        self.lines = [line for line in _read(self._path) if line["step"] <= step]
        self._file, self._sinks = None, []
        if not writes:
            return
        text = "".join(json.dumps(line) + "\n" for line in self.lines)
        fresh = self._path.with_suffix(".tmp")
        fresh.write_text(text)
        fresh.replace(self._path)
        self._file = self._path.open("a")
        self._sinks = [open_sink(workdir, step) for open_sink in sinks]

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Add one line; every value a number. What is not finite is written as null."""
        numbers = {k: _number(v) for k, v in values.items()}
        line = {"step": step, **numbers}
        self.lines.append(line)
        if self._file:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        finite = {k: v for k, v in numbers.items() if v is not None}
        for sink in self._sinks:
            sink.write(step, finite)

    def series(self, key: str) -> list[tuple[int, float]]:
        """(step, value) of all lines that have the key; NaN where it was not finite."""
        return [
            (line["step"], math.nan if line[key] is None else line[key])
            for line in self.lines
            if key in line
        ]

    def close(self) -> None:
        """Flush and let go of the files."""
        if self._file:
            self._file.close()
        for sink in self._sinks:
            sink.close()


def _number(value: Any) -> float | int | None:
    number = np.asarray(value).item()
    return number if isinstance(number, int) or math.isfinite(number) else None


def _read(path: Path) -> list[dict[str, Any]]:
    """Whole lines of the file; a last line torn by a kill is left out."""
    if not path.exists():
        return []
    lines = path.read_bytes().splitlines()
    found = []
    for number, text in enumerate(lines, start=1):
        try:
            found.append(json.loads(text))
        except ValueError as error:
            if number < len(lines):
                raise UserError(f"{path}, line {number} is not JSON: {error}") from error
    return found
