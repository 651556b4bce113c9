"""The same run, varied and repeated: every variant with every seed, their means and spreads."""

import dataclasses
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxdl.config import Config
from jaxdl.errors import UserError, choices
from jaxdl.research.run_all import run_all

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
    """(variant, seed, last value of each metric) of each run, as it ends; see `run_all`.

    Args:
        variants: name to config; all of them are checked before the first runs.
        seeds: of the runs of each.
        workdir: has the run directories, called NAME-SEED.
        metrics: such as 'test/accuracy', that every run has to measure.

    Raises:
        UserError: a run, which is named, that cannot be run.
        Interrupted: a signal came; the same call goes on from where it came.
    """
    if "" in variants:
        raise UserError("variant '': a name has letters, digits, '.', '_', '+', '-'")
    pairs = [(name, seed) for seed in seeds for name in variants]
    rows = run_all(seeded(variants, seeds), workdir, metrics)
    for (name, seed), row in zip(pairs, rows, strict=True):
        yield name, seed, row.metrics


def seeded(variants: Mapping[str, Config], seeds: Sequence[int]) -> dict[str, Config]:
    """Every variant with every seed, under the name NAME-SEED; all variants of a seed together."""
    return {
        f"{name}-{seed}": dataclasses.replace(config, seed=seed)
        for seed in seeds
        for name, config in variants.items()
    }


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
