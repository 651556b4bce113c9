"""The members of a population, read back: what became of each, and of each combination of values.

Only the members' own directories are asked. They say the same whether the population has ended,
was interrupted or is going on, while `members.json` is written at an end and may be of an old one.
"""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxdl import judging
from jaxdl.config import Config, Part
from jaxdl.errors import UserError
from jaxdl.report import facts, text
from jaxdl.rundir import read

Values = tuple[float | None, ...]


class Member(NamedTuple):
    """Results of one member."""

    name: str
    seed: int
    values: Values
    """one for each path of the grid; None where its config has no number there"""
    lines: list[dict[str, Any]]
    manifest: dict[str, Any]
    saved: int | None
    """newest step of which it has a checkpoint of its own; None: of no step"""

    @property
    def end(self) -> int | None:
        """The last step that it logged."""
        return max((line["step"] for line in self.lines), default=None)

    def last(self, key: str) -> float | None:
        """Last value of a metric: NaN where it was not finite, None where it was never measured."""
        values = read.series(self.lines, key)[1]
        return float(values[-1]) if len(values) else None


class Mean(NamedTuple):
    """One measurement over the seeds of a combination."""

    step: int | None
    """of which all values are; None where the seeds were measured at no step in common"""
    values: list[float]
    """the finite ones"""
    seeds: int

    @property
    def mean(self) -> float | None:
        """None where no value is finite."""
        return float(np.mean(self.values)) if self.values else None

    @property
    def deviation(self) -> float | None:
        """The sample's standard deviation (n - 1), None of fewer than two values."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else None

    def said(self, metric: str) -> str:
        """'91.25% ± 0.35%', and of how many seeds where it is not of all."""
        if self.mean is None:
            return ""
        spread = "" if self.deviation is None else f" ± {text.measure(metric, self.deviation)}"
        some = f" ({len(self.values)} of {self.seeds})" if len(self.values) < self.seeds else ""
        return text.measure(metric, self.mean) + spread + some


def read_members(workdir: Path, config: Config) -> tuple[list[Member], list[str]]:
    """The members in the order of their names, and what a reader must know of those left out.

    Args:
        workdir: of the population.
        config: of the population.
    """
    places = [p for p in workdir.glob("members/*") if p.name.isdecimal() and p.is_dir()]
    members, remarks = [], []
    for place in sorted(places, key=lambda p: int(p.name)):
        try:
            members.append(_read(place, config))
        except UserError as error:
            remarks.append(f"Member {place.name} is left out: {error}.")
    expected = config.population.seeds * math.prod(map(len, config.population.grid.values()))
    if len(places) < expected:
        remarks.insert(0, f"{expected - len(places)} of {expected} members left no directory.")
    return members, remarks


def _read(place: Path, config: Config) -> Member:
    own = read.read_config(place)
    return Member(
        name=place.name,
        seed=own.seed,
        values=tuple(_value(own, path) for path in config.population.grid),
        lines=read.read_metrics(place),
        manifest=read.read_manifest(place),
        saved=max(
            (int(p.name) for p in place.glob("checkpoints/*") if p.name.isdecimal()), default=None
        ),
    )


def _value(config: Config, path: str) -> float | None:
    node: Any = config
    for key in path.split("."):
        if isinstance(node, Part):
            node = node.args.get(key)
        elif isinstance(node, tuple | list):
            node = node[int(key)] if key.isdecimal() and int(key) < len(node) else None
        else:
            node = getattr(node, key, None)
    return node if isinstance(node, int | float) else None


def furthest(members: Sequence[Member]) -> int:
    """The last step that any member logged."""
    return max((m.end for m in members if m.end is not None), default=0)


def is_left(member: Member, step: int) -> bool:
    """True if the member was pruned.

    Args:
        member: one of the population.
        step: how far the furthest member came.
    """
    if re.fullmatch(r"pruned at step \d+", str(member.manifest.get("status"))):
        return True
    # A resumed population calls every member running. Its own checkpoint tells: a member gets one
    # only where it ends.
    return member.end is not None and member.end == member.saved and member.end < step


def state(member: Member, step: int, status: str | None) -> str:
    """Status of the member, in words.

    Args:
        member: one of the population.
        step: how far the furthest member came.
        status: the population's own.
    """
    if is_left(member, step):
        return "pruned"
    if status == "finished" and member.end is not None and member.end < step:
        return "ended, unknown why"
    own = member.manifest.get("status")
    return str((status if own == "running" else own) or "unknown")


def ranked(members: Sequence[Member], config: Config) -> list[Member]:
    """The best first: those that came further, then by what is monitored; NaN and unknown last."""

    monitor, mode = config.evaluation.monitor, config.evaluation.mode

    def rank(member: Member) -> tuple[int, float]:
        return -(member.end or 0), judging.badness(member.last(monitor), mode)

    return sorted(members, key=rank)


def combinations(members: Sequence[Member], config: Config) -> list[tuple[Values, list[Member]]]:
    """(values, the members that differ only by seed), the best first.

    Compared at the last step at which all of its seeds were measured: a mean over those that were
    not pruned would flatter.
    """
    groups: dict[Values, list[Member]] = {}
    for member in members:
        groups.setdefault(member.values, []).append(member)

    def rank(group: tuple[Values, list[Member]]) -> tuple[int, float]:
        found = mean(group[1], config.evaluation.monitor)
        return -(found.step or 0), judging.badness(found.mean, config.evaluation.mode)

    return sorted(groups.items(), key=rank)


def mean(members: Sequence[Member], key: str) -> Mean:
    """A measurement at the last step that all members have, else the last of each that has it."""
    series = [read.series(m.lines, key) for m in members]
    curves = [dict(zip(steps.tolist(), values.tolist(), strict=True)) for steps, values in series]
    common = set.intersection(*map(set, curves))
    step = max(common, default=None)
    found = [c[max(c) if step is None else step] for c in curves if c]
    return Mean(step, [v for v in found if math.isfinite(v)], len(members))


def measured(members: Sequence[Member], config: Config) -> list[str]:
    """Keys of all that evaluations measured, the monitored metric first, split beside split."""
    monitor = config.evaluation.monitor
    metric = judging.metric_of(monitor)
    found = dict.fromkeys(k for m in members for k in facts.keys(m.lines))
    keys = [key for key in found if not key.startswith("train/")]
    return sorted(keys, key=lambda k: (k != monitor, k.partition("/")[2] != metric))


def short_names(paths: Sequence[str]) -> list[str]:
    """The last words of each path, as few as tell it from the others."""
    short = []
    for path in paths:
        words = path.split(".")
        others = [p.split(".") for p in paths if p != path]
        n = next(
            (n for n in range(1, len(words)) if all(o[-n:] != words[-n:] for o in others)),
            len(words),
        )
        short.append(".".join(words[-n:]))
    return short


def label(values: Values, paths: Sequence[str]) -> str:
    """'learning_rate 0.001, limit 5'; 'all seeds' where nothing but seeds varied."""
    named = zip(short_names(paths), values, strict=True)
    return ", ".join(f"{name} {figure(value)}" for name, value in named) or "all seeds"


def figure(value: float | None) -> str:
    """A value of the grid."""
    return "unknown" if value is None else f"{value:g}"


def troubles(members: Sequence[Member]) -> list[str]:
    """Numerical problems of some members, one remark for each kind."""
    said, members = [], sorted(members, key=lambda m: int(m.name))
    silent = [m.name for m in members if not m.lines]
    if silent:
        said.append(f"Logged nothing: {_named(silent)}.")
    for key in dict.fromkeys(k for m in members for k in facts.keys(m.lines)):
        broken = [m.name for m in members if not _finite(m.lines, key)]
        if broken:
            where = f"{key} of {_named(broken)}"
            said.append(f"Not finite at some step or all: {where}. A curve has a gap there.")
    skipped = [m.name for m in members if (read.series(m.lines, "train/skipped")[1] > 0).any()]
    if skipped:
        said.append(
            "Some steps changed nothing, since their gradient was not finite: "
            f"in {_named(skipped)}."
        )
    return said


def _finite(lines: Sequence[Mapping[str, Any]], key: str) -> bool:
    return bool(np.isfinite(read.series(lines, key)[1]).all())


def _named(names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"member {names[0]}"
    return f"members {', '.join(names[:-1])} and {names[-1]}"
