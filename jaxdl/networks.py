"""Networks that arguments of parts name, built: what `FrozenModel` stands for in a config."""

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxdl import registry
from jaxdl.config import Config, Part
from jaxdl.errors import UserError
from jaxdl.objectives.base import Model
from jaxdl.objectives.frozen_model import FrozenModel
from jaxdl.registry import Named
from jaxdl.rundir.read import read_config, read_manifest
from jaxdl.types import CONSTANT

KINDS = ("objective", "regularizers")
"""Fields of a config whose parts may name networks."""


class NetworkSpec(NamedTuple):
    """A network whose weights a run holds and never moves."""

    model: Part
    source: str
    """Source of its weights, as `init_from` reads it."""
    num_classes: int | None
    """Of its own training, where a run says so."""


def network_specs(config: Config, parts: registry.Parts) -> dict[str, NetworkSpec]:
    """Networks by the names of the arguments that name them.

    Raises:
        UserError: two of one name, one without a source of weights, or one beside a pipeline.
    """
    asked = config.init_from if isinstance(config.init_from, dict) else {}
    specs: dict[str, NetworkSpec] = {}
    for name, named in _all_named(parts):
        path = f"{CONSTANT}/{name}"
        if name in specs:
            raise UserError(f"two parts name a network '{name}', and a run has one of each name")
        if named.run is not None:
            run = Path(named.run)
            classes = read_manifest(run).get("data", {}).get("num_classes")
            specs[name] = NetworkSpec(read_config(run).model, asked.get(path, named.run), classes)
        elif path in asked:
            specs[name] = NetworkSpec(named.model, asked[path], None)
        else:
            raise UserError(
                f"'{name}' has no weights: name a run directory in place of "
                f"'{named.model.name}', or what fills it in config.init_from['{path}']"
            )
    if specs and config.mesh.stage != 1:
        raise UserError(
            f"config.mesh.stage splits one network, and '{next(iter(specs))}' is another beside "
            "it: leave one of the two out"
        )
    return specs


def with_networks(
    bound: functools.partial[Any], specs: Mapping[str, NetworkSpec], model: Model
) -> functools.partial[Any]:
    """A bound builder whose named networks are `FrozenModel`s.

    Args:
        bound: from `registry.bind`.
        specs: from `network_specs`.
        model: that is trained.
    """

    def built(name: str, value: Any) -> Any:
        if isinstance(value, functools.partial):
            return with_networks(value, specs, model)
        if isinstance(value, dict):
            return {key: built(key, x) for key, x in value.items()}
        if isinstance(value, tuple) and not isinstance(value, Named):
            return tuple(built(name, x) for x in value)
        if not isinstance(value, Named):
            return value
        network = specs[name]
        own = model._replace(num_classes=network.num_classes or model.num_classes)
        return FrozenModel(name, own.of(registry.bind("models", network.model)))

    keywords = {name: built(name, value) for name, value in bound.keywords.items()}
    return functools.partial(bound.func, *bound.args, **keywords)


def _all_named(parts: registry.Parts) -> Iterator[tuple[str, Named]]:
    for bound in [parts.one(KINDS[0]), *parts.many(KINDS[1])]:
        yield from _named_in("", bound)


def _named_in(name: str, value: Any) -> Iterator[tuple[str, Named]]:
    if isinstance(value, Named):
        yield name, value
    elif isinstance(value, functools.partial):
        yield from _named_in(name, value.keywords)
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _named_in(key, inner)
    elif isinstance(value, tuple):
        for inner in value:
            yield from _named_in(name, inner)
