"""Members of a population, and successive halving of them: pure functions of a config."""

import dataclasses
import itertools
import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from jaxdl import registry
from jaxdl.config import Config, Part, Varying
from jaxdl.data.subset import reads_seed
from jaxdl.errors import UserError
from jaxdl.judging import badness, series
from jaxdl.override import override
from jaxdl.train.sharding import AXES


class Member(NamedTuple):
    """One of a population."""

    name: str
    config: Config
    """Of the run that it would be alone."""
    values: dict[str, float]
    """Path of an argument to the member's own value."""


def members_of(config: Config) -> list[Member]:
    """Each combination of values with each seed, seeds of one combination side by side.

    Raises:
        UserError: a path does not lead to an argument of a part, or a value does not fit there.
    """
    grid, seeds = config.population.grid, range(config.population.seeds)
    found = list(itertools.product(itertools.product(*grid.values()), seeds))
    width = len(str(len(found) - 1))
    members = []
    for i, (values, seed) in enumerate(found):
        own = dict(zip(grid, values, strict=True))
        varied(config, own)
        alone = dataclasses.replace(config, population=None, seed=config.seed + seed)
        alone = override(alone, [(path, json.dumps(value)) for path, value in own.items()])
        varied(alone, own)
        members.append(Member(f"{i:0{width}}", alone, own))
    return members


def varied(config: Config, values: Mapping[str, Any]) -> Config:
    """The config with a number behind each path that builders take as the value given here.

    Args:
        config: has a plain number at each path.
        values: arrays, as a rule traced ones.
    """
    for path, value in values.items():
        config = _varied(config, path.split("."), value, path)
    return config


def _varied(node: Any, keys: list[str], value: Any, path: str) -> Any:
    (key, *rest) = keys
    if isinstance(node, Part):
        old = node.args.get(key, 0.0)
        if not rest and (isinstance(old, bool) or not isinstance(old, int | float)):
            raise UserError(f"config.population.grid: {path} is not a number")
        new = _varied(old, rest, value, path) if rest else Varying(old, value)
        return Part(node.name, {**node.args, key: new})
    if not rest:
        raise UserError(
            f"config.population.grid: {path} is not an argument of a part, such as "
            "optimizer.learning_rate: vary it by `jaxdl trials`"
        )
    if isinstance(node, tuple):
        inner = _varied(node[int(key)], rest, value, path)
        return (*node[: int(key)], inner, *node[int(key) + 1 :])
    return dataclasses.replace(node, **{key: _varied(getattr(node, key), rest, value, path)})


def check(config: Config) -> None:
    """Refuse what a population cannot have.

    Raises:
        UserError: names the field.
    """
    unfit = {
        "early_stopping": config.early_stopping is not None,
        "refresh": bool(config.refresh),
        "evaluation.norm_batches": config.evaluation.norm_batches > 0,
        "evaluation.generalization_gap": config.evaluation.generalization_gap,
    }
    subset = config.data.subset
    if subset and config.population.seeds > 1 and reads_seed(registry.bind("subsets", subset)):
        raise UserError(
            f"config.data.subset '{subset.name}' is drawn by the seed, and members of other seeds "
            "share one set of examples: set config.population.seeds=1"
        )
    of_data = [path for path in config.population.grid if path.startswith("data.")]
    if of_data:
        raise UserError(
            f"config.population.grid: members share their data, and {of_data[0]} decides over it"
        )
    for field, is_set in unfit.items():
        if is_set:
            raise UserError(f"config.{field} is not for a population: leave one of the two out")
    if any(getattr(config.mesh, axis) > 1 for axis in AXES):
        raise UserError("config.mesh splits one run, and a population has its members on devices")
    if jax.process_count() > 1:
        raise UserError("a population trains in one process, on all of its devices")


def survivors(
    histories: Sequence[Sequence[tuple[int, float]]], rounds: Sequence[int], step: int, mode: str
) -> list[int]:
    """Members that are left at a step, in order: after each round the better half goes on.

    A pure function of what was measured, so that a resumed run decides as an uninterrupted one.

    Args:
        histories: of each member, (step, value) of the monitored metric.
        rounds: steps after which the worse half is pruned.
        step: members that went into the step after this one, if it ends no round.
        mode: whether 'max' or 'min' is best. NaN is worst, the first of equals better.
    """
    alive = list(range(len(histories)))
    for end in rounds:
        if end >= step or len(alive) == 1:
            break
        alive = better_half(alive, [dict(h).get(end, math.nan) for h in histories], mode)
    return alive


def better_half(alive: Sequence[int], values: Sequence[float], mode: str) -> list[int]:
    """The better half of the members, rounded up, in order."""
    ranked = sorted(alive, key=lambda i: badness(values[i], mode))
    return sorted(ranked[: -(-len(alive) // 2)])


def median(values: Sequence[float]) -> float:
    """The median of the values that are numbers; NaN where none is."""
    finite = [v for v in values if not math.isnan(v)]
    return statistics.median(finite) if finite else math.nan


def standing(
    members: Sequence[Member],
    lines: Sequence[Sequence[Mapping[str, Any]]],
    monitor: str,
    mode: str,
) -> list[dict[str, Any]]:
    """Each member with the last of what was measured of it, the best first.

    Args:
        members: all, those pruned too.
        lines: what each logged.
        monitor: the metric that decides, after how far a member came.
        mode: whether 'max' or 'min' of it is best.
    """
    rows = []
    for member, logged in zip(members, lines, strict=True):
        last = {k: v for line in logged for k, v in line.items() if "/" in k}
        shown = {k: v for k, v in last.items() if not k.startswith("train/")}
        step = max((line["step"] for line in logged), default=0)
        rows.append(
            {"member": member.name, "seed": member.config.seed, **member.values, "step": step}
            | shown
        )

    judged = [series(logged, monitor) for logged in lines]
    worst = [badness(values[-1][1] if values else None, mode) for values in judged]
    order = sorted(range(len(rows)), key=lambda i: (-rows[i]["step"], worst[i]))
    return [rows[i] for i in order]


def table(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Rows with the same columns, as lines."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    said = lambda v: f"{v:.4g}" if isinstance(v, float) else "" if v is None else str(v)
    cells = [columns, *([said(row.get(c)) for c in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        yield "  ".join(f"{c:>{w}}" for c, w in zip(row, widths, strict=True))
