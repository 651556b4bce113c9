"""The same run, varied and repeated: every variant with every seed, their means and spreads."""

import contextlib
import dataclasses
import math
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxdl.assemble import assemble
from jaxdl.config import Config
from jaxdl.config_file import to_json
from jaxdl.errors import UserError, choices
from jaxdl.run import run
from jaxdl.rundir.read import read_manifest, read_metrics

Results = Mapping[str, Sequence[Mapping[str, float]]]
"""Variant to the metrics of each of its runs."""


class Summary(NamedTuple):
    """One metric of one variant over seeds."""

    mean: float
    spread: float
    """standard deviation of the sample; NaN of a single value"""
    values: tuple[float, ...]


def trials(
    variants: Mapping[str, Config],
    seeds: Sequence[int],
    workdir: Path,
    metrics: Sequence[str] = (),
) -> Iterator[tuple[str, int, dict[str, float]]]:
    """(variant, seed, last value of each metric) of each run, as it ends.

    Each run has a directory of its own, and one that has ended is not run again. What runs print is
    kept beside them in `log.txt`.

    Args:
        variants: name to config; all of them are checked before the first runs.
        seeds: of the runs of each.
        workdir: has the run directories, called NAME-SEED.
        metrics: such as 'test/accuracy', that every run has to measure.

    Raises:
        UserError: a variant, which is named, that cannot be run.
        Interrupted: a signal came; the same call goes on from where it came.
    """
    _check(variants, metrics)
    for seed in seeds:
        for name, config in variants.items():
            place, config = workdir / f"{name}-{seed}", dataclasses.replace(config, seed=seed)
            with _blamed(f"variant '{name}', seed {seed}"):
                found = _ended(config, place) or _run(config, place)
            yield name, seed, {k: math.nan if v is None else v for k, v in found.items()}


def _check(variants: Mapping[str, Config], metrics: Sequence[str]) -> None:
    """Refuse the first variant that cannot be run; data that it shares is opened once."""
    data = splits = None
    for name, config in variants.items():
        with _blamed(f"variant '{name}'"):
            if not re.fullmatch(r"[\w.+-]+", name):
                raise UserError("a name has letters, digits, '.', '_', '+', '-'")
            plan = assemble(config, splits if config.data == data else None)
            data, splits = config.data, plan.splits
            known = [key for role in plan.held for key in plan.measured(role)]
            for metric in metrics:
                # What is measured of training steps and of gaps is known to a run alone.
                if metric not in known and not metric.startswith(
                    ("train/", "train_eval/", "generalization_gap/")
                ):
                    raise UserError(f"'{metric}' is not measured: {choices(metric, known)}")


@contextlib.contextmanager
def _blamed(what: str) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"{what}: {error}") from error


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


def summarize(results: Results, metric: str) -> dict[str, Summary]:
    """Mean and spread of a metric over the runs of each variant.

    Args:
        results: variant to the metrics of its runs.
        metric: such as 'test/accuracy'.
    """
    found = {}
    for name, runs in results.items():
        missing = [m for m in runs if metric not in m]
        if missing:
            raise UserError(f"variant '{name}' has no '{metric}': {choices(metric, missing[0])}")
        values = tuple(m[metric] for m in runs)
        spread = statistics.stdev(values) if len(values) > 1 else math.nan
        found[name] = Summary(statistics.fmean(values), spread, values)
    return found


def table(results: Results, metrics: Sequence[str]) -> str:
    """A Markdown table: a row a variant, a column a metric, mean ± spread and the runs' values."""
    columns = [summarize(results, metric) for metric in metrics]
    lines = ["| variant | " + " | ".join(metrics) + " |", "|---" * (len(metrics) + 1) + "|"]
    for name in results:
        cells = []
        for column in columns:
            found = column[name]
            each = ", ".join(f"{v:.4f}" for v in found.values)
            cells.append(f"{found.mean:.4f} ± {found.spread:.4f} ({each})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
