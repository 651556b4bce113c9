"""Any runs side by side on one page: settings that differ, results, curves.

Only the run directories are read. The best run is that of the best value of the metric that the
first run is judged by. Runs that differ by nothing but the seed are one variant, of which the page
gives means and standard deviations.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxdl.config import Config
from jaxdl.errors import UserError
from jaxdl.judging import badness
from jaxdl.report import facts, settings, text
from jaxdl.report.members import Mean, short_names
from jaxdl.report.page import render
from jaxdl.report.plots import COLORS, Curve
from jaxdl.report.together import panel
from jaxdl.rundir import read

MOST_CURVES = 32
MOST_COLUMNS = 8
MOST_PANELS = 6
FREE = ("log.", "checkpoint.", "watchdog_seconds", "data.threads", "data.prefetch", "data.memory")
"""Settings that change no result, and are no difference between runs."""


class Compared(NamedTuple):
    """One of the runs."""

    name: str
    workdir: Path
    config: Config
    manifest: dict[str, Any]
    lines: list[dict[str, Any]]
    best: float | None
    """value of the metric by which the first run is judged, at its best"""

    def last(self, key: str) -> float | None:
        """Last value of a metric; None where it was never measured."""
        values = read.series(self.lines, key)[1]
        return float(values[-1]) if len(values) else None


def write_comparison(workdirs: Sequence[Path], file: Path) -> list[str]:
    """Write the page of several runs; returns its table as lines of text.

    Args:
        workdirs: of two runs or more; a population stands for all of its members.
        file: of the page.

    Raises:
        UserError: fewer than two runs, or a directory that is not a run's.
    """
    runs = read_runs(workdirs)
    content = describe(runs, file)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(render(content), encoding="utf-8", errors="replace")
    return list(_lines(content["comparison"]["runs"]))


def read_runs(workdirs: Sequence[Path]) -> list[Compared]:
    """The runs of these directories, the best first."""
    places: list[Path] = []
    for workdir in workdirs:
        read.check_run(workdir)
        members = sorted(p for p in (workdir / "members").glob("*") if p.is_dir())
        places += members or [workdir]
    places = list({place.resolve(): place for place in places}.values())
    if len(places) < 2:
        raise UserError("a comparison is of two runs or more")
    judge = read.read_config(places[0])
    runs = []
    for place, name in zip(places, _names(places), strict=True):
        lines = read.read_metrics(place)
        best = facts.best(lines, judge)
        value = best.value if best else None
        config, manifest = read.read_config(place), read.read_manifest(place)
        runs.append(Compared(name, place, config, manifest, lines, value))
    return sorted(runs, key=lambda run: badness(run.best, judge.evaluation.mode))


def _names(places: Sequence[Path]) -> list[str]:
    """The last parts of each path, as few as tell it from the others."""
    parts = [place.resolve().parts[1:] for place in places]

    def name(own: tuple[str, ...]) -> str:
        others = [p for p in parts if p != own]
        lengths = range(1, len(own))
        n = next((n for n in lengths if all(p[-n:] != own[-n:] for p in others)), len(own))
        return "/".join(own[-n:])

    return [name(own) for own in parts]


def describe(runs: Sequence[Compared], file: Path) -> dict[str, Any]:
    """Variables of the template for a comparison.

    Args:
        runs: the best first.
        file: of the page, from which its links lead.
    """
    evaluation = runs[0].config.evaluation
    flat = {run.name: dict(_settings(run.config)) for run in runs}
    paths = list(dict.fromkeys(path for one in flat.values() for path in one))
    differing = [p for p in paths if len({one.get(p) for one in flat.values()}) > 1]
    shared = [row for row in flat[runs[0].name].items() if row[0] not in differing]
    variants = _variants(runs, [{p: flat[r.name].get(p) for p in differing} for r in runs])
    return {
        "title": f"{len(runs)} runs compared",
        "name": f"by {text.words(evaluation.monitor)}",
        "status": None,
        "started": None,
        "headline": _headline(runs),
        "remarks": _remarks(runs),
        "heading": None,
        "results": None,
        "summary": [],
        "members": None,
        "combinations": None,
        "comparison": {
            "runs": _table(runs, differing, flat, file),
            "variants": _means(runs, variants),
            "shared": [(path, value) for path, value in shared if _tells(path, value)],
        },
        "panels": _panels(runs, variants),
        "gauges": [],
        "matrices": [],
        "predictions": None,
        "changed": [],
        "config": None,
        "environment": [],
        "command": None,
        "repeat": None,
    }


def _tells(path: str, value: str) -> bool:
    return path in ("model", "data.source") or dict(_settings(Config())).get(path) != value


def _settings(config: Config) -> list[tuple[str, str]]:
    return [row for row in settings.every(config) if not row[0].startswith(FREE)]


def _headline(runs: Sequence[Compared]) -> dict[str, str] | None:
    monitor = runs[0].config.evaluation.monitor
    if runs[0].best is None:
        return None
    tested = f"test/{monitor.partition('/')[2]}"
    value = runs[0].last(tested)
    key = monitor if value is None else tested
    return {
        "name": text.words(key),
        "value": text.measure(key, runs[0].best if value is None else value),
        "note": f"{runs[0].name}; the best run of {len(runs)} by {text.words(monitor)}",
    }


def _remarks(runs: Sequence[Compared]) -> list[str]:
    remarks = []
    monitor = runs[0].config.evaluation.monitor
    others = [run.name for run in runs if run.config.evaluation.monitor != monitor]
    if others:
        remarks.append(f"Judged by another metric than {monitor}: {', '.join(others)}.")
    unknown = [run.name for run in runs if run.best is None]
    if unknown:
        remarks.append(f"Never measured {monitor}: {', '.join(unknown)}.")
    ended = lambda run: str(run.manifest.get("status")).startswith(("finished", "stopped early"))
    going = [run.name for run in runs if not ended(run)]
    if going:
        remarks.append(f"Not finished: {', '.join(going)}.")
    for split in ("test", "validation"):
        groups: dict[str, list[str]] = {}
        for run in runs:
            outputs = settings.section(settings.section(run.manifest, "outputs"), split)
            if outputs.get("digest"):
                groups.setdefault(outputs["digest"], []).append(run.name)
        if len(groups) > 1:
            each = "; ".join(", ".join(names) for names in groups.values())
            remarks.append(
                f"Evaluated on different examples of {split}, so that the figures of one group do "
                f"not compare with another's: {each}."
            )
    return remarks


Row = dict[str, Any]


def _columns(runs: Sequence[Compared]) -> list[tuple[str, Callable[[Compared], float | None]]]:
    """(key, value of a run) of each column of results, the best of the monitored metric first."""
    monitor = runs[0].config.evaluation.monitor
    keys = list(dict.fromkeys(key for run in runs for key in facts.keys(run.lines)))
    metric = monitor.partition("/")[2]
    tested = [k for k in keys if k.startswith("test/")]
    tested = sorted(tested, key=lambda k: k.partition("/")[2] != metric)
    lasts = [(key, lambda run, key=key: run.last(key)) for key in tested]
    return [(monitor, lambda run: run.best), *lasts][:MOST_COLUMNS]


def _table(
    runs: Sequence[Compared], differing: Sequence[str], flat: Mapping[str, Any], file: Path
) -> dict[str, Any]:
    columns = _columns(runs)
    rows = []
    for run in runs:
        report = run.workdir / "report.html"
        target = report if report.is_file() else run.workdir
        values = [(key, value(run)) for key, value in columns]
        step = max((line["step"] for line in run.lines), default=None)
        cells = ["" if v is None else text.measure(key, v) for key, v in values]
        cells += ["" if step is None else text.number(step)]
        cells += [flat[run.name].get(path, "") for path in differing]
        status = str(run.manifest.get("status") or "unknown")
        rows.append(
            {
                "name": run.name,
                "link": os.path.relpath(target.resolve(), file.resolve().parent),
                "cells": cells,
                "state": "" if status == "finished" else status,
            }
        )
    heads = [f"{text.words(columns[0][0])}, best", *(text.words(key) for key, _ in columns[1:])]
    return {"columns": [*heads, "last step", *short_names(differing)], "rows": rows}


def _variants(
    runs: Sequence[Compared], differences: Sequence[Mapping[str, Any]]
) -> dict[str, list[Compared]]:
    """Label of each variant to its runs, which differ by nothing but the seed."""
    paths = [path for path in differences[0] if path != "seed"]
    short = dict(zip(paths, short_names(paths), strict=True))
    groups: dict[str, list[Compared]] = {}
    for run, values in zip(runs, differences, strict=True):
        own = [f"{short[p]} {values[p]}" for p in paths if values[p] is not None]
        groups.setdefault(", ".join(own) or "all runs", []).append(run)
    return groups


def _means(
    runs: Sequence[Compared], variants: Mapping[str, list[Compared]]
) -> dict[str, Any] | None:
    if all(len(group) == 1 for group in variants.values()):
        return None
    columns, mode = _columns(runs), runs[0].config.evaluation.mode

    def mean(group: list[Compared], value: Callable[[Compared], float | None]) -> Mean:
        values = [v for v in map(value, group) if v is not None and np.isfinite(v)]
        return Mean(None, values, len(group))

    order = sorted(variants, key=lambda v: badness(mean(variants[v], columns[0][1]).mean, mode))
    rows = [
        {
            "name": label,
            "cells": [
                str(len(variants[label])),
                *(mean(variants[label], value).said(key) for key, value in columns),
            ],
        }
        for label in order
    ]
    heads = [f"{text.words(columns[0][0])}, best", *(text.words(key) for key, _ in columns[1:])]
    return {"columns": ["seeds", *heads], "rows": rows}


def _panels(
    runs: Sequence[Compared], variants: Mapping[str, list[Compared]]
) -> list[dict[str, Any]]:
    """A figure for each metric of the validation split, the monitored one first, and the loss."""
    monitor = runs[0].config.evaluation.monitor
    keys = list(dict.fromkeys(key for run in runs for key in facts.keys(run.lines)))
    held = [k for k in keys if k.partition("/")[0] not in ("train", "train_eval", "test")]
    order = list(dict.fromkeys([monitor, "train/loss", *held]))
    repeated = any(len(group) > 1 for group in variants.values())
    labels = {run.name: label for label, group in variants.items() for run in group}
    label_of = lambda run: labels[run.name] if repeated else run.name
    colors = {label: i for i, label in enumerate(dict.fromkeys(map(label_of, runs)), start=1)}
    panels = []
    for key in order:
        curves = [(run, read.series(run.lines, key)) for run in runs]
        curves = [(run, curve) for run, curve in curves if np.isfinite(curve[1]).any()]
        lines = [
            Curve(
                label_of(run),
                *curve,
                colors[label_of(run)] if colors[label_of(run)] < COLORS else 0,
                evaluated=not key.startswith("train/"),
                thin=len(curves) > 4,
            )
            for run, curve in curves[:MOST_CURVES]
        ]
        if lines:
            count = f", {len(lines)} of {len(runs)} runs" if len(lines) < len(runs) else ""
            title = text.words(key).capitalize() + count
            panels.append(panel(lines, key, title=title, runs="runs", others="the others"))
    return panels[:MOST_PANELS]


def _lines(table: Mapping[str, Any]) -> list[str]:
    """The table of runs as text."""
    cells = [["run", *table["columns"]], *([row["name"], *row["cells"]] for row in table["rows"])]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(f"{cell:>{w}}" if i else f"{cell:<{w}}" for i, (cell, w) in pairs).rstrip()
        for pairs in (enumerate(zip(row, widths, strict=True)) for row in cells)
    ]
