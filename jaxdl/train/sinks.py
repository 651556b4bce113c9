"""Where a run's numbers go besides `metrics.jsonl`: TensorBoard, a CSV file, Weights & Biases.

A sink is opened with the run directory and the step that the run is at. What was written beyond
that step, by a run that was killed, is dropped.
"""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from jaxdl.errors import UserError
from jaxdl.registry import register


class Sink(Protocol):
    """Takes the numbers of a step."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add what was measured at a step; every value is finite."""

    def close(self) -> None:
        """Flush, and let go."""


class _TensorBoard:
    def __init__(self, workdir: Path, step: int):
        from tensorboardX import SummaryWriter  # it takes a while, and not every process writes

        self._events = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for key, value in values.items():
            self._events.add_scalar(key, value, step)

    def close(self) -> None:
        self._events.close()


@register("sinks", "tensorboard")
def tensorboard(workdir: Path, step: int, /) -> Sink:
    """Event files in `tensorboard/`, which TensorBoard shows. https://www.tensorflow.org/tensorboard

    TensorBoard itself drops what lies beyond the step that a run goes on from.
    """
    return _TensorBoard(workdir, step)


class _CSV:
    def __init__(self, file: Path, step: int):
        rows = []
        if file.exists():
            with file.open(newline="") as old:
                rows = [row for row in csv.reader(old) if len(row) == 3][1:]
        self._file = file.open("w", newline="")
        self._rows = csv.writer(self._file)
        self._rows.writerow(("step", "metric", "value"))
        self._rows.writerows(row for row in rows if int(row[0]) <= step)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._rows.writerows((step, key, value) for key, value in values.items())
        self._file.flush()

    def close(self) -> None:
        self._file.close()


@register("sinks", "csv")
def csv_file(workdir: Path, step: int, /) -> Sink:
    """`metrics.csv`: a row (step, metric, value) for each number. https://www.rfc-editor.org/rfc/rfc4180"""
    return _CSV(workdir / "metrics.csv", step)


class _WandB:
    def __init__(self, run: Any):
        self._run = run

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


@register("sinks")
def wandb(
    workdir: Path,
    step: int,
    /,
    *,
    project: str = "jaxdl",
    mode: Literal["online", "offline"] = "online",
) -> Sink:
    """A Weights & Biases run, gone on with where this directory's was. https://docs.wandb.ai

    Args:
        project: that it belongs to.
        mode: 'offline' keeps it in the run directory; `wandb sync` sends it later.
    """
    try:
        import wandb as client
    except ImportError as error:
        raise UserError("sink 'wandb' needs the package wandb: pip install wandb") from error
    config = json.loads((workdir / "config.json").read_text())
    run = client.init(
        project=project, mode=mode, dir=str(workdir), id=workdir.name, resume="allow", config=config
    )
    return _WandB(run)
