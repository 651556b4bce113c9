"""Names to builders. A room is a package; every file in it registers what it offers when imported.

The one convention: a builder's positional-only parameters are what the program supplies, each by
its name (a model's `num_classes`, a source's `split`); the others are what a config may set, and
their annotations are checked, ranges included.
"""

import dataclasses
import fnmatch
import functools
import importlib
import inspect
import json
import pkgutil
import re
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec

from jaxdl.config import Network, Of, Part, Steps, Varying, kind_of, parts_of
from jaxdl.corrections import Correction, either, instead, offering, value, word
from jaxdl.errors import UserError, at, choices, nearest

ROOMS = {
    "models": "jaxdl.models",
    "blocks": "jaxdl.models",
    "activations": "jaxdl.nn",
    "norms": "jaxdl.nn",
    "convs": "jaxdl.nn",
    "poolings": "jaxdl.nn",
    "gates": "jaxdl.nn",
    "attentions": "jaxdl.nn",
    "positions": "jaxdl.nn",
    "initializers": "jaxdl.nn",
    "dropouts": "jaxdl.nn",
    "objectives": "jaxdl.objectives",
    "regularizers": "jaxdl.objectives",
    "predictors": "jaxdl.objectives",
    "losses": "jaxdl.losses",
    "segmentation_losses": "jaxdl.losses",
    "embedding_losses": "jaxdl.losses",
    "metrics": "jaxdl.metrics",
    "augmentations": "jaxdl.augment",
    "optimizers": "jaxdl.optim",
    "wrappers": "jaxdl.optim",
    "gradient_transforms": "jaxdl.optim",
    "schedules": "jaxdl.optim",
    "averages": "jaxdl.optim",
    "gradient_methods": "jaxdl.train",
    "precisions": "jaxdl.train",
    "refreshes": "jaxdl.train",
    "sinks": "jaxdl.rundir",
    "sources": "jaxdl.data",
    "tokenizers": "jaxdl.data",
    "subsets": "jaxdl.data",
    "samplers": "jaxdl.data",
    "weights": "jaxdl.hub.names",
}


def singular(kind: str) -> str:
    """One of a kind, in words: 'losses' -> 'loss', 'segmentation_losses' -> 'segmentation loss'."""
    double = kind.endswith(("sses", "shes"))
    stem = kind.removesuffix("es") if double else kind.removesuffix("s")
    return stem.replace("_", " ")


Builder = TypeVar("Builder", bound=Callable[..., Any])

_entries: dict[str, dict[str, "Entry"]] = {kind: {} for kind in ROOMS}


@dataclasses.dataclass(frozen=True)
class Entry:
    """One registered builder."""

    kind: str
    name: str
    build: Callable[..., Any]
    module: str
    metadata: dict[str, Any]
    """Further facts: of a model, `image`, the input shape it was made for."""

    @property
    def summary(self) -> str:
        """First line of the builder's docstring, or of its file."""
        for doc in (inspect.getdoc(unwrapped(self.build)), sys.modules[self.module].__doc__):
            if doc:
                return doc.strip().splitlines()[0]
        return ""

    @property
    def paper(self) -> str:
        """The link at the head of the builder's docstring or file, if it has one."""
        docs = (inspect.getdoc(unwrapped(self.build)), sys.modules[self.module].__doc__)
        links = (re.search(r"https?://[^\s)>]+", doc or "") for doc in docs)
        return next((link[0].rstrip(".,;") for link in links if link), "")

    def arguments(self) -> dict[str, inspect.Parameter]:
        """Arguments that a config may set."""
        parameters = inspect.signature(self.build, eval_str=True).parameters
        skipped = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_KEYWORD)
        return {n: p for n, p in parameters.items() if p.kind not in skipped}

    def supplied(self) -> list[inspect.Parameter]:
        """Parameters that the program supplies: the positional-only ones."""
        parameters = inspect.signature(self.build, eval_str=True).parameters.values()
        return [p for p in parameters if p.kind is p.POSITIONAL_ONLY]


class RegisterError(ValueError):
    """Mistake in a file that registers a builder: an unknown kind, or a name that is taken."""


def unwrapped(build: Callable[..., Any]) -> Callable[..., Any]:
    """The function inside `functools.partial`, or the builder itself."""
    return build.func if isinstance(build, functools.partial) else build


def register(kind: str, name: str | None = None, **metadata: Any) -> Callable[[Builder], Builder]:
    """Decorator: offer a builder under its own name, or under `name`, with what is known of it."""
    if kind not in ROOMS:
        raise RegisterError(f"unknown kind '{kind}': {choices(kind, ROOMS)}")

    def add(build: Builder) -> Builder:
        function = unwrapped(build)
        entry = Entry(kind, name or function.__name__, build, function.__module__, metadata)
        known = _entries[kind].get(entry.name)
        if known and known.module != entry.module:
            raise RegisterError(f"{kind} '{entry.name}' is in {known.module} and {entry.module}")
        _entries[kind][entry.name] = entry
        return build

    return add


@functools.cache
def _walk(room: str) -> None:
    package = importlib.import_module(room)
    for module in pkgutil.iter_modules(package.__path__, f"{room}."):
        importlib.import_module(module.name)


def entries(kind: str, pattern: str = "*") -> list[Entry]:
    """Registered builders whose names match a wildcard, in natural order (b2 before b10)."""
    if kind not in ROOMS:
        near = nearest(kind, ROOMS)
        correction = word(kind, near[0]) if near else instead("--list")
        raise UserError(f"unknown kind '{kind}': {choices(kind, ROOMS)}", correction)
    _walk(ROOMS[kind])
    names = fnmatch.filter(_entries[kind], pattern)
    natural = sorted(
        names,
        key=lambda n: [(t.isdigit(), int(t) if t.isdigit() else t) for t in re.split(r"(\d+)", n)],
    )
    return [_entries[kind][n] for n in natural]


def find(kind: str, name: str) -> Entry:
    """The builder called `name`, or an error with the nearest names."""
    known = {e.name: e for e in entries(kind)}
    if name in known:
        return known[name]
    elsewhere = [k for k in ROOMS if name in {e.name for e in entries(k)}]
    hint = f"it is one of the {elsewhere[0]}" if elsewhere else choices(name, known)
    near = [] if elsewhere else nearest(name, known)
    correction = word(name, _typed(known[near[0]])) if near else instead("--list", kind)
    raise UserError(f"unknown {singular(kind)} '{name}': {hint}", correction)


_USUAL = {"learning_rate": "1e-3"}
"""Values to propose for arguments that have no default."""


def _typed(entry: Entry) -> str:
    """A builder as it is typed, with what it needs."""
    needed = [n for n in _needed(entry) if n in _USUAL]
    args = ",".join(f"{name}={_USUAL[name]}" for name in needed)
    return f"{entry.name}({args})" if args else entry.name


def _needed(entry: Entry) -> list[str]:
    """Arguments without a default."""
    return [
        n
        for n, p in entry.arguments().items()
        if p.default is p.empty and p.kind is not p.VAR_POSITIONAL
    ]


def _default(entry: Entry, key: str) -> Correction:
    """Give an argument the value that it has by default."""
    default = entry.arguments()[key].default
    items = default if isinstance(default, tuple) else (default,)
    is_plain = all(isinstance(item, int | float | str) for item in items)
    text = default if isinstance(default, str) else json.dumps(default) if is_plain else None
    text = text or _USUAL.get(key)
    return value(key, text) if text else instead("--list", entry.kind, entry.name)


def bind(
    kind: str, part: Part, to_steps: Callable[[int | str], int] | None = None
) -> functools.partial[Any]:
    """The builder with a part's checked arguments filled in, ready for what the program supplies.

    Args:
        kind: a key of `ROOMS`.
        part: the name and arguments from a config.
        to_steps: turns the durations among the arguments, defaults included, into steps.
    """
    entry = find(kind, part.name)
    parameters = entry.arguments()
    where = f"{singular(kind)} '{part.name}'"
    for key in part.args:
        if key not in parameters:
            near = nearest(key, parameters)
            correction = word(key, near[0]) if near else instead("--list", kind, part.name)
            hint = choices(key, parameters)
            raise UserError(f"{where} takes no argument '{key}': {hint}", correction)
    missing = [name for name in _needed(entry) if name not in part.args]
    if missing:
        given = f"{part.name}({missing[0]}={_USUAL.get(missing[0], '')}"
        usual = either(word(f"{part.name}(", f"{given},"), word(part.name, f"{given})"))
        correction = usual if missing[0] in _USUAL else instead("--list", kind, part.name)
        raise UserError(f"{where} needs the argument '{missing[0]}'", correction)
    args = {}
    for key, given in part.args.items():
        with offering(_default(entry, key)):
            annotation = parameters[key].annotation
            args[key] = _convert(given, annotation, f"{where}, argument '{key}'")
    bound = functools.partial(entry.build, **args)
    return in_steps(bound, to_steps, where) if to_steps else bound


def name_of(build: Callable[..., Any]) -> str:
    """The name of the function that a bound builder calls."""
    while isinstance(build, functools.partial):
        build = build.func
    return build.__name__


def in_steps(
    bound: functools.partial[Any], to_steps: Callable[[int | str], int], where: str = "argument"
) -> functools.partial[Any]:
    """A bound builder whose durations, defaults included, are numbers of steps.

    Args:
        bound: by `bind`.
        to_steps: turns a duration into steps.
        where: the builder stands in the config, for the message about a wrong duration.
    """
    args: dict[str, Any] = {}
    for name, parameter in inspect.signature(bound, eval_str=True).parameters.items():
        value = parameter.default
        if any(isinstance(m, Steps) for m in _marks(parameter.annotation)):
            if value is not None and value is not parameter.empty:
                with at(f"{where}.{name}"):
                    args[name] = to_steps(value)
        elif isinstance(value, functools.partial) and name in bound.keywords:
            args[name] = in_steps(value, to_steps, f"{where}.{name}")
    return functools.partial(bound, **args)


def supplied(build: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Parameters that the program supplies to a builder: the positional-only ones, by name."""
    parameters = inspect.signature(build).parameters
    return {n: p for n, p in parameters.items() if p.kind is p.POSITIONAL_ONLY}


def supply(build: Callable[..., Any], /, **offered: Any) -> Any:
    """Call a builder with what it asks for, out of what is offered, by name.

    Args:
        build: bound or not; it may ask for less than there is, in any order.
        offered: by name.

    Raises:
        UserError: it asks for something else.
    """
    values = []
    for name, parameter in supplied(build).items():
        if name not in offered and parameter.default is parameter.empty:
            function = inspect.unwrap(build.func if isinstance(build, functools.partial) else build)
            raise UserError(
                f"'{getattr(function, '__name__', function)}' asks for '{name}', which the program "
                f"does not supply here: {choices(name, offered)}"
            )
        values.append(offered.get(name, parameter.default))
    return build(*values)


class Parts:
    """The parts of a config, each bound once, by their paths in it.

    Args:
        config: a Config, or a dataclass within one.

    Raises:
        UserError: for the first part that is unknown or is given what it does not take.
    """

    def __init__(self, config: Any):
        self._bound = {path: bind(kind, part) for path, kind, part in parts_of(config)}

    def one(
        self, path: str, to_steps: Callable[[int | str], int] | None = None
    ) -> functools.partial[Any] | None:
        """The builder at a path, such as 'optimizer'; None where the config has none."""
        return self._at(path, to_steps) if path in self._bound else None

    def _at(self, path: str, to_steps: Callable[[int | str], int] | None) -> functools.partial[Any]:
        bound = self._bound[path]
        return in_steps(bound, to_steps, f"config.{path}") if to_steps else bound

    def named(
        self, path: str, to_steps: Callable[[int | str], int] | None = None
    ) -> dict[str, functools.partial[Any]]:
        """The builders in a dict or a tuple at a path, by key or position, in order."""
        inside = [p for p in self._bound if p.startswith(f"{path}.")]
        return {p.removeprefix(f"{path}."): self._at(p, to_steps) for p in inside}

    def many(
        self, path: str, to_steps: Callable[[int | str], int] | None = None
    ) -> list[functools.partial[Any]]:
        """The builders in a tuple at a path, in order."""
        return list(self.named(path, to_steps).values())


def _marks(annotation: Any) -> tuple[Any, ...]:
    """Markers of `Annotated[...]`, looking inside `X | None`."""
    if typing.get_origin(annotation) is Annotated:
        return tuple(annotation.__metadata__)
    if type(None) in typing.get_args(annotation):
        return tuple(m for a in typing.get_args(annotation) for m in _marks(a))
    return ()


def inner_kind(entry: Entry, argument: str) -> str | None:
    """The kind of the part that an argument of a builder takes; None where it takes no part."""
    return kind_of(entry.arguments()[argument].annotation) or None


class Named(NamedTuple):
    """A network that an argument names, until `assemble` builds it: one of the two."""

    run: str | None = None
    """A run directory."""
    model: Part | None = None


def _named(value: Part | str, where: str) -> Named:
    if isinstance(value, str) and (Path(value) / "config.json").is_file():
        return Named(run=value)
    part = value if isinstance(value, Part) else Part(value)
    try:
        bind("models", part)
    except UserError as error:
        if isinstance(value, Part):
            raise
        raise UserError(f"{where}: '{value}' is not a run directory, and {error}") from None
    return Named(model=part)


def _convert(value: Any, annotation: Any, where: str) -> Any:
    if any(isinstance(m, Network) for m in _marks(annotation)) and isinstance(value, Part | str):
        return _named(value, where)
    inner = next((m.kind for m in _marks(annotation) if isinstance(m, Of)), None)
    if inner and isinstance(value, Part | str):
        return bind(inner, value if isinstance(value, Part) else Part(value))
    if inner and callable(value):
        return value
    if typing.get_origin(annotation) is tuple and isinstance(value, list | tuple):
        item = typing.get_args(annotation)[0]
        if any(isinstance(m, Of) for m in _marks(item)):
            return tuple(_convert(v, item, where) for v in value)
    if typing.get_origin(annotation) is dict and isinstance(value, dict):
        item = typing.get_args(annotation)[1]
        if any(isinstance(m, Of) for m in _marks(item)):
            return {k: _convert(v, item, f"{where}, '{k}'") for k, v in value.items()}
    if isinstance(value, Part):
        raise UserError(f"{where} takes a plain value, not the part '{value.name}'")
    if annotation is inspect.Parameter.empty:
        return value
    if isinstance(value, Varying):
        _convert(float(value), annotation, where)
        return value.value
    try:
        return msgspec.convert(value, annotation)
    except msgspec.ValidationError as error:
        message = str(error)[:1].lower() + str(error)[1:]
        joint = " " if ", got `" in message else ", got "  # its type is named where it is wrong
        raise UserError(f"{where}: {message}{joint}{value!r}") from error
