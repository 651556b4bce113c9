"""Sinks of a run's metrics besides `metrics.jsonl`: TensorBoard, a CSV file, Weights & Biases.

A sink is opened with the run directory and the step that the run is at. What was written beyond
that step, by a run that was killed, is dropped.
"""

import contextlib
import csv
import io
import json
import os
import secrets
import struct
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from jaxdl.errors import UserError
from jaxdl.registry import register
from jaxdl.rundir.directory import replace


class Sink(Protocol):
    """Writer of the numbers of a step. After an OSError, earlier numbers are still intact."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write the measurements of a step; every value is finite."""

    def close(self) -> None:
        """Flush and close."""


class _TensorBoard:
    """Records as TensorFlow's: https://www.tensorflow.org/tutorials/load_data/tfrecord

    tensorboardX's own writer waits for ever once its thread has died of a full disk.
    """

    def __init__(self, folder: Path, step: int):
        # it takes a while, and not every process writes
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.proto.summary_pb2 import Summary
        from tensorboardX.record_writer import masked_crc32c

        self._event, self._summary, self._crc = Event, Summary, masked_crc32c
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time())}.{os.getpid()}.{time.monotonic_ns()}"
        file = folder / name
        self._file = file.open("xb")
        try:
            self._add(file_version="brain.Event:2")
            self._add(step=step + 1, session_log=SessionLog(status=SessionLog.START))
        except OSError:
            with contextlib.suppress(OSError):
                self._file.close()
            file.unlink()
            raise

    def write(self, step: int, values: Mapping[str, float]) -> None:
        scalars = [self._summary.Value(tag=k, simple_value=v) for k, v in values.items()]
        self._add(step=step, summary=self._summary(value=scalars))

    def _add(self, **fields: Any) -> None:
        record = self._event(wall_time=time.time(), **fields).SerializeToString()
        length = struct.pack("<Q", len(record))
        checked = [part + struct.pack("<I", self._crc(part)) for part in (length, record)]
        self._file.write(b"".join(checked))
        self._file.flush()

    def close(self) -> None:
        self._file.close()


@register("sinks", "tensorboard")
def tensorboard(workdir: Path, step: int, /) -> Sink:
    """Event files in `tensorboard/`, which TensorBoard shows. https://www.tensorflow.org/tensorboard

    TensorBoard itself drops what lies beyond the step that a run goes on from.
    """
    return _TensorBoard(workdir / "tensorboard", step)


class _CSV:
    def __init__(self, file: Path, step: int):
        rows = [("step", "metric", "value")]
        if file.exists():
            with file.open(newline="") as old:
                kept = [row for row in csv.reader(old) if len(row) == 3][1:]
            rows += [(t, metric, value) for t, metric, value in kept if int(t) <= step]
        replace(file, _as_csv(rows))
        self._file = file.open("a", newline="")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._file.write(_as_csv((step, key, value) for key, value in values.items()))
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _as_csv(rows: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


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
    """A Weights & Biases run, resumed where this directory's ended. https://docs.wandb.ai

    Args:
        project: that it belongs to.
        mode: 'offline' keeps it in the run directory; `wandb sync` sends it later.
    """
    try:
        import wandb as client
    except ImportError as error:
        raise UserError(
            "sink 'wandb' needs the package wandb: pip install 'wandb>=0.19.10'"
        ) from error
    config = json.loads((workdir / "config.json").read_text())
    run = client.init(
        project=project,
        mode=mode,
        dir=str(workdir),
        id=_wandb_id(workdir),
        name="/".join(workdir.absolute().parts[-3:]),
        resume="allow",
        reinit="create_new",  # else the members of a population would all write to the first's run
        config=config,
    )
    return _WandB(run)


def _wandb_id(workdir: Path) -> str:
    """The id of the directory's run, kept in it: two directories may have one name."""
    file = workdir / "wandb-id"
    if not file.is_file():
        # Before ids were kept, a run was known by the name of its directory.
        is_old = (workdir / "wandb").is_dir()
        file.write_text(workdir.name if is_old else f"{workdir.name}-{secrets.token_hex(4)}")
    return file.read_text().strip()
