"""Checks of targets: the one that a run learns, and losses and metrics of its kind."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxdl import registry
from jaxdl.config import Config, Metrics, Part
from jaxdl.data.split import Split
from jaxdl.data.target import WORDS, Target
from jaxdl.errors import UserError, choices

OF_UNIT = {"example": ("classes",), "pixel": ("mask",), "token": ("tokens",)}
"""The unit of a metric's logits to the kinds of targets that it is of, unless it says otherwise."""


def target_name(config: Config) -> str:
    """Key of the batch that the objective learns."""
    entry = registry.find("objectives", config.objective.name)
    if entry.metadata.get("unit") == "token":
        return "tokens"
    argument = entry.arguments().get("target")
    return str(config.objective.args.get("target", argument.default if argument else "label"))


def learned(config: Config, train: Split) -> Target | None:
    """The target that the objective learns; None where the split has none of its name.

    Raises:
        UserError: the number of its classes is not known.
    """
    name = target_name(config)
    target = train.targets.get(name)
    if target is not None and target.size is None and target.kind != "tokens":
        raise UserError(
            f"the classes of target '{name}' cannot be counted, as split '{train.name}' is not in "
            "memory: its source must declare it (Source.targets)"
        )
    return target


def check_name(config: Config, train: Split) -> None:
    """Refuse to learn a target by a name that the source does not have."""
    name = target_name(config)
    if name not in ("label", "tokens", *train.targets):
        raise UserError(
            f"objective '{config.objective.name}' learns target '{name}', and source "
            f"'{config.data.source.name}' has none of that name: {choices(name, train.targets)}"
        )


def check_targets(config: Config, train: Split) -> None:
    """Refuse losses, metrics and regularizers that are not of the kind of target they are told."""
    name = target_name(config)
    if name in train.targets:
        found = [
            ("objectives", config.objective),
            *_parts_of(config.objective, "objectives", "losses"),
            *(("regularizers", part) for part in config.regularizers),
        ]
        for kind, part in found:
            _check(kind, part, name, train.targets[name])
    for metrics in all_metrics(config):
        for part in metrics:
            _check_metric(part, name, train.targets)


def all_metrics(config: Config) -> Iterator[Sequence[Part]]:
    """The metrics of every evaluation split, and the usual ones."""
    given: list[Metrics | None] = [config.evaluation.metrics]
    given += [held.metrics for held in config.evaluation.splits.values()]
    for metrics in given:
        yield tuple(metrics.values()) if isinstance(metrics, Mapping) else metrics or ()


def _check_metric(part: Part, name: str, targets: Mapping[str, Target]) -> None:
    """A metric that is told a target is of that one, and so is the metric inside it."""
    if "target" in registry.find("metrics", part.name).arguments():
        name = str(part.args["target"])
        if name not in targets:
            raise UserError(
                f"metric '{part.name}' reads target '{name}', and the source has none of that "
                f"name: {choices(name, targets)}"
            )
        for _, inner in _parts_of(part, "metrics", "metrics"):
            _check_metric(inner, name, targets)
    elif name in targets:
        _check("metrics", part, name, targets[name])


def _check(kind: str, part: Part, name: str, target: Target) -> None:
    kinds = _kinds(kind, part)
    # To a loss, each pixel and each token is an example.
    dense = kind == "losses" and target.kind in ("mask", "tokens")
    asked = "classes" if dense else target.kind
    if kinds is not None and asked not in kinds:
        entries = registry.entries(kind)
        mates = [e.name for e in entries if asked in (_kinds(kind, Part(e.name)) or ())]
        raise UserError(
            f"{registry.singular(kind)} '{part.name}' is of {' or '.join(map(_short, kinds))}, and "
            f"target '{name}' holds {target}: {choices(part.name, mates)}"
        )


def _short(kind: str) -> str:
    return WORDS[kind].partition(",")[0]


def _kinds(kind: str, part: Part) -> tuple[str, ...] | None:
    """Kinds of targets that a part is of, as it or the parts inside it say; None for any."""
    metadata = registry.find(kind, part.name).metadata
    if "target" in metadata:
        return tuple(metadata["target"])
    inside = [_kinds(kind, inner) for _, inner in _parts_of(part, kind, kind)]
    said = [kinds for kinds in inside if kinds is not None]
    if said:
        return tuple(k for k in said[0] if all(k in kinds for kinds in said))
    if kind != "metrics":
        return None
    unit = metadata.get("unit", "example")
    units = (unit,) if isinstance(unit, str) else unit
    return tuple(k for u in units for k in OF_UNIT[u])


def _parts_of(part: Part, kind: str, inner: str) -> Iterator[tuple[str, Part]]:
    """(inner, part) for each part of a kind among the arguments of another, defaults too."""
    entry = registry.find(kind, part.name)
    for name, parameter in entry.arguments().items():
        value: Any = part.args.get(name, parameter.default)
        if value is not parameter.empty and registry.inner_kind(entry, name) == inner:
            values = value if isinstance(value, list | tuple) else [value]
            for one in values:
                if callable(one):
                    one = registry.name_of(one)
                if isinstance(one, str):
                    one = Part(one)
                if isinstance(one, Part):
                    yield inner, one
