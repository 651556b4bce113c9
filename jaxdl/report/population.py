"""The part of the page that only a population has: who varied how, and who came how far."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdl import judging
from jaxdl.config import Config, held_of
from jaxdl.report import facts, members, settings, text
from jaxdl.report.members import Member
from jaxdl.report.plots import COLORS, Curve
from jaxdl.report.together import panel
from jaxdl.rundir import read

MOST_CURVES = 32


def describe(workdir: Path, config: Config, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Variables of the template for a population."""
    found, remarks = members.read_members(workdir, config)
    found = members.ranked(found, config)
    first = found[0].manifest if found else {}
    if not manifest.get("status"):
        remarks.insert(0, "Nothing tells whether the population finished.")
    elif manifest["status"] != "finished":
        remarks.insert(0, "The population had not finished when this page was written.")
    if not found:
        remarks.append("There are no members to show.")
    figure = curves(found, config)
    return {
        "title": f"{facts.title(config, first, workdir.resolve().name)}, {len(found)} members",
        "headline": headline(found, config),
        "remarks": remarks + members.troubles(found),
        "heading": "What varied",
        "results": None,
        "summary": summary(found, config),
        "members": _members(found, config, manifest),
        "combinations": _combinations(found, config),
        "panels": [figure] if figure else [],
        "gauges": [],
        "predictions": None,
        "changed": [
            row for row in settings.settings(config) if not row[0].startswith("population")
        ],
    }


def headline(ranking: Sequence[Member], config: Config) -> dict[str, str] | None:
    """The best combination's mean where its seeds went all the way, else the best member.

    Args:
        ranking: the best first.
        config: of the population.
    """
    monitor, population = config.evaluation.monitor, config.population
    metric = judging.metric_of(monitor)
    if not ranking or ranking[0].last(monitor) is None:
        return None
    if population.successive_halving is None and population.seeds > 1:
        groups = members.combinations(ranking, config)
        values, group = groups[0]
        of = f"combination of {len(groups)}" if len(groups) > 1 else ""
    else:
        values, group = ranking[0].values, ranking[:1]
        of = f"member of {len(ranking)}" if len(ranking) > 1 else ""
    tested = any(m.last(f"test/{metric}") is not None for m in group)
    shown = f"test/{metric}" if tested else monitor
    mean = members.mean(group, shown)
    who = f"member {group[0].name}" if len(group) == 1 else _seeds(mean, metric)
    note = [f"{who}: {members.label(values, list(population.grid))}"] if values else [who]
    if of:
        note.append(f"the best {of} by {text.words(monitor)}")
    if shown == monitor and mean.step is not None:
        note.append(f"at step {text.number(mean.step)}")
    value = float("nan") if mean.mean is None else mean.mean
    return {
        "name": text.words(shown),
        "value": text.measure(metric, value),
        "note": "; ".join(note),
    }


def _seeds(mean: members.Mean, metric: str) -> str:
    some = f"{len(mean.values)} of " if len(mean.values) < mean.seeds else ""
    spread = "" if mean.deviation is None else f" ± {text.measure(metric, mean.deviation)}"
    return f"mean of {some}{mean.seeds} seeds{spread}"


def summary(ranking: Sequence[Member], config: Config) -> list[tuple[str, str]]:
    """(term, figure): what varied, and how it went."""
    population = config.population
    rows = [(path, ", ".join(map(members.figure, grid))) for path, grid in population.grid.items()]
    last = config.seed + population.seeds - 1
    rows.append(("seed", f"{config.seed} to {last}" if population.seeds > 1 else f"{last}"))
    if population.successive_halving is not None:
        every, monitor = population.successive_halving, config.evaluation.monitor
        often = f"{every} steps" if isinstance(every, int) else every
        rows.append(("Pruned", f"the worse half by {monitor}, every {often}"))
    if not ranking:
        return rows
    first = ranking[0].manifest
    data = settings.section(first, "data")
    names = ["train", *held_of(config)]
    sizes = [f"{text.number(data[s])} {s}" for s in names if data.get(s)]
    terms = {
        "Steps": text.number(members.furthest(ranking)),
        "Parameters": first.get("parameters") and f"{text.number(first['parameters'])} a member",
        "Examples": ", ".join(sizes),
    }
    return rows + [(term, figure) for term, figure in terms.items() if figure]


def _members(
    found: Sequence[Member], config: Config, manifest: Mapping[str, Any]
) -> dict[str, Any] | None:
    if not found:
        return None
    keys, step = members.measured(found, config), members.furthest(found)
    names = members.short_names(list(config.population.grid))
    rows = []
    for member in found:
        cells = [str(member.seed), *map(members.figure, member.values), _number(member.end)]
        rows.append(
            {
                "name": member.name,
                "cells": cells + [_cell(key, member.last(key)) for key in keys],
                "state": members.state(member, step, manifest.get("status")),
            }
        )
    return {"columns": ["seed", *names, "last step", *map(text.words, keys)], "rows": rows}


def _number(step: int | None) -> str:
    return "unknown" if step is None else text.number(step)


def _cell(key: str, value: float | None) -> str:
    return "" if value is None else text.measure(key, value)


def _combinations(found: Sequence[Member], config: Config) -> dict[str, Any] | None:
    groups = members.combinations(found, config)
    if config.population.seeds < 2 or not groups:
        return None
    keys, paths = members.measured(found, config), list(config.population.grid)
    monitor = config.evaluation.monitor
    rows = []
    for values, group in groups:
        step = members.mean(group, monitor).step
        cells = [members.mean(group, key).said(key) for key in keys]
        rows.append(
            {
                "name": members.label(values, paths),
                "cells": [str(len(group)), _number(step), *cells],
            }
        )
    return {"columns": ["seeds", "at step", *map(text.words, keys)], "rows": rows}


def curves(ranking: Sequence[Member], config: Config) -> dict[str, Any] | None:
    """One figure of what is monitored, a colour for each combination, the best ones' first.

    Where it was never measured, of the training loss; None where there is neither.
    """
    key = next((k for k in (config.evaluation.monitor, "train/loss") if _any(ranking, k)), None)
    if key is None:
        return None
    paths, step = list(config.population.grid), members.furthest(ranking)
    groups = members.combinations(ranking, config)
    colors = {values: 1 + i if i < COLORS - 1 else 0 for i, (values, _) in enumerate(groups)}
    drawn = [m for m in ranking if np.isfinite(read.series(m.lines, key)[1]).any()]
    lines = [
        Curve(
            members.label(m.values, paths),
            *read.series(m.lines, key),
            colors[m.values],
            evaluated=not key.startswith("train/"),
            thin=len(drawn) > 4,
            ends=members.is_left(m, step),
        )
        for m in drawn[:MOST_CURVES]
    ]
    count = (
        f"{len(lines)} of {len(ranking)} members" if len(lines) < len(ranking) else "all members"
    )
    title = f"{text.words(key).capitalize()}, {count}"
    return panel(lines, key, title=title, runs="members", others="the other combinations")


def _any(found: Sequence[Member], key: str) -> bool:
    return any(np.isfinite(read.series(m.lines, key)[1]).any() for m in found)
