"""The same run, varied and repeated: every variant with every seed, their means and spreads."""

import contextlib
import dataclasses
import io
import math
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxdl.config import Config
from jaxdl.errors import UserError
from jaxdl.run import run

Results = Mapping[str, Sequence[Mapping[str, float]]]
"""Variant to the metrics of each of its runs."""


class Summary(NamedTuple):
    """One metric of one variant over seeds."""

    mean: float
    spread: float
    """standard deviation of the sample; NaN of a single value"""
    values: tuple[float, ...]


def trials(
    variants: Mapping[str, Config], seeds: Sequence[int], workdir: Path
) -> Iterator[tuple[str, int, dict[str, float]]]:
    """(variant, seed, last value of each metric) of each run, as it ends.

    Each run has a directory of its own, and one that has ended is not run again. What runs print is
    kept beside them in `log.txt`.
    """
    for seed in seeds:
        for name, config in variants.items():
            if not re.fullmatch(r"[\w.+-]+", name):
                raise UserError(f"variant '{name}': a name has letters, digits, '.', '_', '+', '-'")
            place = workdir / f"{name}-{seed}"
            said = io.StringIO()
            with contextlib.redirect_stdout(said):
                metrics = run(dataclasses.replace(config, seed=seed), place)
            (place / "log.txt").write_text(said.getvalue())
            yield name, seed, metrics


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
            raise UserError(f"no run measured '{metric}': there are {', '.join(missing[0])}")
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
