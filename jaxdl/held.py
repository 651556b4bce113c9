"""Evaluation splits: what a config says of each, and their examples, opened and checked."""

import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxdl import registry
from jaxdl.check_targets import target_name
from jaxdl.checks import shapes
from jaxdl.config import Config, Held, Part, held_of
from jaxdl.data.class_order import Names
from jaxdl.data.pipeline import Split, open_split
from jaxdl.data.sampler import Order, stream_seed
from jaxdl.data.streams import sampler_of
from jaxdl.data.subset import subset_of
from jaxdl.errors import SplitError, UserError, at
from jaxdl.metrics.base import Metric, on_target
from jaxdl.types import Objective

GIB = 2**30
READ = ("image", "tokens", "source")
"""Keys of a batch that networks read."""


class Measured(NamedTuple):
    """An evaluation split at work."""

    objective: Objective
    """The objective; its `predict` prepares batches as the split asks."""
    metrics: dict[str, Metric]
    when: str
    """'training' or 'end'"""
    sampler: Callable[..., Order] | None
    """A builder of the order of examples; None where each comes once"""


class Asked(NamedTuple):
    """A split that a config asks for, before it is opened."""

    field: str
    """Of the config that names it, such as 'data.train'"""
    split: str
    build: Callable[[str], Any]
    """The name of a split -> what its source gives"""
    subset: Callable[..., Any] | None
    """A builder of the kind `subsets`, bound"""


def asked(config: Config, parts: registry.Parts, role: str) -> Asked:
    """The split of a role: 'train', or the name of an evaluation split."""
    own = held_of(config).get(role, Held(split=config.data.train))
    is_named = role in config.evaluation.splits
    where = f"evaluation.splits.{role}" if is_named else "data"
    source = parts.one(f"{where}.source") or parts.one("data.source")
    subset = parts.one(f"{where}.subset") if role == "train" or is_named else None
    field = f"{where}.split" if is_named else f"data.{role}"
    return Asked(field, own.split, functools.partial(_build, source), subset)


def open_splits(
    config: Config,
    roles: Sequence[str] | None = None,
    num_classes: int | None = None,
    parts: registry.Parts | None = None,
    names: Names | None = None,
) -> dict[str, Split]:
    """The splits a config names, by role; of one shape, and of the first one's classes.

    Args:
        config: of the run.
        roles: those that are wanted; by default 'train' and every evaluation split.
        num_classes: where it is known, of a source that does not say.
        parts: of the config, where they are bound already.
        names: of the classes of the run that goes on, by target: labels of its source are mapped
            to their order.
    """
    parts, held = parts or registry.Parts(config), held_of(config)
    settings = {"memory": int(config.data.memory * GIB), "threads": config.data.threads}
    splits: dict[str, Split] = {}
    for role in ("train", *held) if roles is None else roles:
        own = held.get(role, Held(split=config.data.train))
        field, name, build, subset = asked(config, parts, role)
        with at(f"config.{field}", SplitError):
            splits[role] = open_split(
                build,
                name,
                num_classes=num_classes,
                subset=subset_of(subset, config.seed) if subset else None,
                names=names if own.source is None else None,
                **settings,
            )
        first = next(iter(splits.values()))
        num_classes = first.num_classes
        if num_classes is None and not first.targets:
            raise UserError(
                f"source '{config.data.source.name}' has no labels to learn: its examples hold "
                f"{shapes(first)}"
            )
        _check_alike(role, own, splits[role], first, target_name(config))
        _check_classes(splits[role], first)
    return splits


def _build(source: Callable[..., Any], split: str) -> Any:
    return registry.supply(source, split=split)


def _check_alike(role: str, held: Held, split: Split, first: Split, target: str) -> None:
    """Refuse a split that the run cannot read; another source may hold further arrays."""
    if held.source is None and held.preprocess is None:
        if split.element_spec != first.element_spec:
            raise UserError(
                f"split '{split.name}' holds {shapes(split)}, but '{first.name}' holds "
                f"{shapes(first)}"
            )
        return
    fits = lambda key: (
        split.element_spec[key] == first.element_spec[key]
        or (held.preprocess is not None and key != target)
    )
    wanted = [key for key in (*READ, target) if key in first.element_spec]
    if not all(key in split.element_spec and fits(key) for key in wanted):
        raise UserError(
            f"config.evaluation.splits.{role} holds {shapes(split)}, but '{first.name}' holds "
            f"{shapes(first)}"
        )
    if split.num_classes is not None and split.num_classes > (first.num_classes or 0):
        raise UserError(
            f"config.evaluation.splits.{role} has labels of {split.num_classes} classes, and "
            f"'{first.name}' of {first.num_classes}"
        )


def _check_classes(split: Split, first: Split) -> None:
    """Refuse a class that the first split does not have, of any target."""
    for name, target in first.targets.items():
        other = split.targets.get(name)
        counted = other and other.kind in ("classes", "mask") and other.size and target.size
        if counted and target.kind == other.kind and other.size > target.size:
            raise UserError(
                f"split '{split.name}' has {other.size} classes of target '{name}', and "
                f"'{first.name}' {target.size}"
            )


def measured(
    config: Config,
    parts: registry.Parts,
    objective: Objective,
    prepared: Callable[[list[Callable[..., Any]]], Objective],
    make: Callable[..., Any],
) -> dict[str, Measured]:
    """Every evaluation split of a config, at work.

    Args:
        config: of the run.
        parts: of the config.
        objective: on batches that are preprocessed as the run's own.
        prepared: preprocessing -> the objective on batches that are preprocessed so.
        make: calls a builder with what the program supplies.
    """
    found = {}
    for role, held in held_of(config).items():
        where, own = f"evaluation.splits.{role}", held.preprocess is not None
        found[role] = Measured(
            prepared(parts.many(f"{where}.preprocess")) if own else objective,
            metrics_of(config, parts, make, role),
            held.when,
            parts.one(f"{where}.sampler"),
        )
    return found


def order_of(config: Config, role: str, held: Measured, split: Split) -> Order | None:
    """t -> examples of batch t of an evaluation split; None where each comes once, in its order.

    It is the same at every evaluation.
    """
    if held.sampler is None:
        return None
    sampler, size = sampler_of(held.sampler, split), config.data.evaluation_batch_size
    return sampler(len(split), size, stream_seed(config.seed, f"evaluation/{role}"))


def metrics_of(
    config: Config, parts: registry.Parts, make: Callable[..., Any], role: str | None = None
) -> dict[str, Metric]:
    """The metrics of an evaluation split, or the usual ones, by name.

    A name is the one that the config gives, or the metric's own with its arguments.
    """
    held = config.evaluation.splits.get(role or "")
    own = held is not None and held.metrics is not None
    given = held.metrics if own else config.evaluation.metrics
    built = parts.named(f"evaluation.splits.{role}.metrics" if own else "evaluation.metrics")
    keys = list(given if isinstance(given, Mapping) else map(_metric_name, given))
    odd = next((key for key in keys if not re.fullmatch(r"[\w.+-]+", key)), None)
    if isinstance(given, Mapping) and odd is not None:
        raise UserError(f"a metric cannot be called '{odd}': letters, digits, '.', '_', '+', '-'")
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise UserError(f"metric '{twice}' is named twice: once is enough, or give each a name")
    metrics = {key: make(build) for key, build in zip(keys, built.values(), strict=True)}
    told = ["target" in inspect.signature(build).parameters for build in built.values()]
    name = target_name(config)
    return {
        key: metric if is_told else on_target(metric, name)
        for (key, metric), is_told in zip(metrics.items(), told, strict=True)
    }


def _metric_name(part: Part) -> str:
    values = (_metric_name(v) if isinstance(v, Part) else str(v) for v in part.args.values())
    return "_".join([part.name, *values])
