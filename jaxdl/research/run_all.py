"""Named configs, run one after the other: what has ended is not run again, the rest goes on."""

import contextlib
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxdl.assemble import assemble
from jaxdl.config import Config
from jaxdl.config_file import to_json
from jaxdl.errors import UserError, choices
from jaxdl.run import run
from jaxdl.rundir.read import read_manifest, read_metrics


class Row(NamedTuple):
    """Results of one run."""

    name: str
    workdir: Path
    metrics: dict[str, float]
    """the last value of each, by key such as 'test/accuracy'; NaN where it was not finite"""


def run_all(
    configs: Mapping[str, Config], workdir: Path, metrics: Sequence[str] = ()
) -> Iterator[Row]:
    """Run each config in `workdir/NAME` and yield its row as it ends.

    A run that has ended, of this very config, is read and not run again. Printed lines of a run
    are kept in `log.txt` in its directory.

    Args:
        configs: name to config; all of them are checked before the first runs.
        workdir: of the run directories.
        metrics: such as 'test/accuracy', that every run has to measure.

    Raises:
        UserError: a run, which is named, that cannot be run.
        Interrupted: a signal came; the same call goes on from where it came.
    """
    for name, config in check(configs, metrics).items():
        place = workdir / name
        with attributed(f"run '{name}'"):
            found = _ended(config, place) or _run(config, place)
        yield Row(name, place, {k: math.nan if v is None else v for k, v in found.items()})


def check(configs: Mapping[str, Config], metrics: Sequence[str] = ()) -> dict[str, Config]:
    """Refuse the first config that cannot be run; data that configs share is opened once.

    Of those that differ in nothing but the seed, one is checked.

    Returns:
        The configs with the defaults that follow from their data.
    """
    data = splits = None
    seen: list[tuple[Config, Config]] = []
    complete: dict[str, Config] = {}
    for name, config in configs.items():
        with attributed(f"run '{name}'"):
            if not re.fullmatch(r"[\w.+-]+", name):
                raise UserError("a name has letters, digits, '.', '_', '+', '-'")
            alike = next((b for a, b in seen if a == dataclasses.replace(config, seed=0)), None)
            if alike is not None:
                complete[name] = dataclasses.replace(alike, seed=config.seed)
                continue
            if config.population:
                raise UserError("config.population has many runs in one program: leave it out")
            plan = assemble(config, splits if config.data == data else None)
            data, splits, complete[name] = config.data, plan.splits, plan.config
            seen.append((dataclasses.replace(config, seed=0), plan.config))
            known = [key for role in plan.held for key in plan.measured(role)]
            for metric in metrics:
                # What is measured of training steps and of gaps is known to a run alone.
                if metric not in known and not metric.startswith(
                    ("train/", "train_eval/", "generalization_gap/")
                ):
                    raise UserError(f"'{metric}' is not measured: {choices(metric, known)}")
    return complete


@contextlib.contextmanager
def attributed(subject: str) -> Iterator[None]:
    """Name its subject at the head of a `UserError`."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{subject}: {error}") from error


def _ended(config: Config, place: Path) -> dict[str, float] | None:
    """The last value of each metric of a run of this very config that has ended there."""
    file, status = place / "config.json", str(read_manifest(place).get("status"))
    if not status.startswith(("finished", "stopped early")) or file.read_text() != to_json(config):
        return None
    return {k: v for line in read_metrics(place) for k, v in line.items() if "/" in k}


def _run(config: Config, place: Path) -> dict[str, float]:
    try:
        place.mkdir(parents=True, exist_ok=True)
        log = (place / "log.txt").open("a", buffering=1)
    except OSError as error:
        raise UserError(f"cannot write to workdir {place}: {error.strerror}") from error
    with log, contextlib.redirect_stdout(log):
        return run(config, place)
