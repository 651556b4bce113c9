"""What a run is: frozen dataclasses that are loaded from a file, overridden by path, saved as JSON.

A `Part` names a registered builder and its arguments, so that a whole run is plain data. Types and
ranges are checked by msgspec. This file imports no JAX: a config can be read on any machine.
"""

import dataclasses
import importlib.util
import inspect
import json
import math
import re
import traceback
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from jaxdl.errors import UserError, choices
from jaxdl.untrusted import check_plain, parse

Count = Annotated[int, msgspec.Meta(ge=1, lt=2**31)]
Seed = Annotated[int, msgspec.Meta(ge=0, lt=2**32)]
Rate = Annotated[float, msgspec.Meta(ge=0, lt=1)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
NonNegative = Annotated[float, msgspec.Meta(ge=0)]
Factor = Annotated[float, msgspec.Meta(gt=1)]
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]


class Steps:
    """Marks an annotation whose value is a duration, handed to builders as a number of steps."""


Duration = Annotated[int | str, Steps()]
"""A number of steps, or a string: '500 steps', '3 epochs', '1e6 examples', '5%' of the run."""


class Varying(float):
    """A number of which each member of a population has its own: `value`, while it is traced."""

    def __new__(cls, number: float, value: Any) -> "Varying":
        self = super().__new__(cls, number)
        self.value = value
        return self


@dataclasses.dataclass(frozen=True)
class Part:
    """A registered builder by name, with the arguments it is given."""

    name: str
    args: dict[str, Any] = dataclasses.field(default_factory=dict)


def part(name: str, /, **args: Any) -> Part:
    """`part('adamw', learning_rate=1e-3)`: how a config file writes a `Part`."""
    return Part(name, args)


@dataclasses.dataclass(frozen=True)
class Data:
    """Where examples come from, and how they are batched. A split is `name` or `name[from:to]`."""

    source: Part = part("digits")
    train: str = "train"
    validation: str | None = "validation"
    test: str | None = "test"
    batch_size: Count = 128
    evaluation_batch_size: Count = 256
    memory: Positive = 4.0  # GiB: a split that decodes to less is held in memory, else streamed
    device_memory: NonNegative = 1.0  # GiB: a split that fits lives on the accelerator
    threads: Count = 2  # readers of a streamed split
    prefetch: Count = 2  # batches made ahead of the step


@dataclasses.dataclass(frozen=True)
class Gradient:
    """How a gradient is obtained, and what is done to it before the optimizer sees it."""

    taker: Part = part("plain")
    accumulate: Count = 1  # micro-batches that one batch is cut into
    transforms: tuple[Part, ...] = ()  # clipping and the like, in order
    remat: Literal["blocks", "products"] | None = None  # compute again instead of keeping
    skip_nonfinite: bool = True  # a step whose gradient is not finite changes nothing
    max_skipped: Count = 100  # such steps in a row that end the run
    rollback: Annotated[int, msgspec.Meta(ge=0)] = 0  # times that it goes back instead


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Devices by axis; -1 takes what is left. `rules`: (path regex, axes of the last dims)."""

    data: int = -1  # splits batches
    fsdp: int = 1  # splits batches, and parameters that are gathered where they are used
    tensor: int = 1  # splits layers
    stage: int = 1  # splits the chain of blocks: see the takers gpipe and one_f_one_b
    rules: tuple[tuple[str, tuple[str | None, ...]], ...] = ()


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """When to evaluate, what to measure, and the metric by which a run is judged."""

    every: Duration = "1 epoch"
    metrics: tuple[Part, ...] = (part("accuracy"), part("cross_entropy"))
    monitor: str = "validation/accuracy"
    mode: Literal["max", "min"] = "max"
    average: bool = True  # evaluate the averaged weights where the run keeps them
    norm_batches: Annotated[int, msgspec.Meta(ge=0)] = 0  # to find averaged weights' statistics by
    predictors: tuple[Part, ...] = ()  # other ways to predict, around the plain one
    gap: bool = False  # measure training examples too: as many, and as they are


@dataclasses.dataclass(frozen=True)
class EarlyStopping:
    """Stop after `patience` evaluations without a gain of more than `min_delta`."""

    patience: Count = 10
    min_delta: NonNegative = 0.0
    restore_best: bool = True


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """When to save; the newest and the best are kept side by side."""

    every: Duration = "1 epoch"
    keep_latest: Count = 2
    keep_best: Count = 1


@dataclasses.dataclass(frozen=True)
class Log:
    """Where the numbers go besides the console."""

    every: Duration = "1%"
    sinks: tuple[Part, ...] = (part("tensorboard"),)


@dataclasses.dataclass(frozen=True)
class Population:
    """Members that train at once, in one program: each seed with each combination of values."""

    seeds: Count = 1  # config.seed and those after it
    grid: dict[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)  # path: values
    halve: Duration | None = None  # how often the worse half by evaluation.monitor is left behind


@dataclasses.dataclass(frozen=True)
class Config:
    """One run, whole. Every field can be set as `--config.field=value`."""

    data: Data = Data()
    model: Part = part("cnn")
    initializer: Part | None = None  # draws every kernel, in place of the model's own
    dropout: Part | None = None  # what every dropout layer does, in place of its own
    freeze_norms: bool = False  # batch norms keep their statistics: for fine-tuning
    sync_norms: bool = True  # batch statistics of the whole batch, not of each device's share
    init_from: str | None = None  # published weights to begin with: a file, a hub id, an address
    objective: Part = part("supervised")
    regularizers: tuple[Part, ...] = ()  # around the objective, the last one outermost
    optimizer: Part = part("adamw", learning_rate=1e-3)
    wrappers: tuple[Part, ...] = ()  # around the optimizer, the last one outermost
    schedule: Part = part("warmup_cosine")
    freeze: str | None = None  # regular expression on paths of parameters that do not move
    rates: dict[str, NonNegative] = dataclasses.field(default_factory=dict)  # path regex: factor
    layer_decay: Share | None = None  # the rate of a layer, as a part of the next layer's
    gradient: Gradient = Gradient()
    preprocess: tuple[Part, ...] = (part("normalize"),)  # every batch, training and evaluation
    augment: tuple[Part, ...] = ()  # training batches only, before `preprocess`
    duration: Duration = "10 epochs"
    precision: Part = part("auto")
    average: Part | None = None  # of the weights, kept beside them: "ema" or "swa"
    evaluation: Evaluation = Evaluation()
    early_stopping: EarlyStopping | None = None
    population: Population | None = None  # many runs in one program
    checkpoint: Checkpoint = Checkpoint()
    hang_after: Positive = 600.0  # seconds without a step or a batch evaluated that end the run
    mesh: Mesh = Mesh()
    log: Log = Log()
    dispatch: Count = 1  # steps in one call of the program: for networks faster than a call
    seed: Seed = 0
    imports: tuple[str, ...] = ()  # modules or files of your own that register parts


# Durations


_DURATION = re.compile(
    r"\s*([0-9]+(?:\.[0-9]*)?(?:e[+-]?[0-9]+)?)\s*(%|percent|steps?|epochs?|examples?)?\s*$"
)


def to_steps(
    duration: int | str, *, examples: int, batch_size: int, total: int | None = None
) -> int:
    """A duration in optimizer steps, rounded up and at least 0.

    Args:
        duration: steps, or '500 steps', '3 epochs', '1e6 examples', '5%'.
        examples: size of the training split, which is one epoch.
        batch_size: examples per step.
        total: steps of the whole run; needed for a percentage.
    """
    match = _DURATION.match(str(duration))
    if not match:
        raise UserError(
            f"'{duration}' is no duration: write '500 steps', '3 epochs', '1e6 examples' or '5%'"
        )
    amount, unit = float(match[1]), (match[2] or "steps").rstrip("s")
    if unit in ("%", "percent"):
        if total is None:
            raise UserError(f"'{duration}': the length of a run cannot be a percentage")
        steps = amount * total / 100
    elif unit == "step":
        steps = amount
    else:
        steps = amount * (examples if unit == "epoch" else 1) / batch_size
    # 1e-9 absorbs the rounding of fractions: 0.7 epochs of 1000 examples are 70 steps of 10.
    return max(0, math.ceil(steps - 1e-9))


def summary(config: Config) -> str:
    """The config in a few lines: every field that a reader would want, parts on one line each."""

    def is_set(value: Any) -> bool:
        return value not in (None, (), {}) and value is not False

    def said(value: Any) -> str:
        if isinstance(value, Part):
            return " ".join([value.name, *(f"{k}={said(v)}" for k, v in value.args.items())])
        if dataclasses.is_dataclass(value):
            fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
            return "  ".join(f"{k}={said(v)}" for k, v in fields.items() if is_set(v))
        if isinstance(value, list | tuple):
            return "(" + ", ".join(said(v) for v in value) + ")"
        return str(value)

    fields = [(f.name, getattr(config, f.name)) for f in dataclasses.fields(config)]
    shown = [(name, value) for name, value in fields if is_set(value)]
    return "\n".join(f"  {name:<15} {said(value)}" for name, value in shown)


# From files


def load(spec: str) -> Config:
    """The config that `file.py[:argument]` or `file.json` describes."""
    path, _, argument = spec.partition(":")
    file = Path(path)
    try:
        found = file.is_file()
        siblings = sorted(str(p) for p in file.parent.glob("*.py")) if file.parent.is_dir() else []
    except OSError as error:  # a name that is too long
        raise UserError(f"no config file '{path}': {error.strerror}") from error
    if not found:
        raise UserError(f"no config file '{path}': {choices(path, siblings)}")
    if file.suffix == ".json":
        return from_json(_text(file), where=path)
    if file.suffix != ".py":
        raise UserError(f"a config is a .py or a .json file, not '{path}'")
    return _load_python(file, argument)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is no text: {error}") from error


def _load_python(file: Path, argument: str) -> Config:
    spec = importlib.util.spec_from_file_location(f"jaxdl_config_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise UserError(f"{file} defines no get_config()")
        takes_argument = bool(inspect.signature(module.get_config).parameters)
        if argument and not takes_argument:
            raise UserError(f"{file} takes no argument, so ':{argument}' means nothing to it")
        config = module.get_config(argument) if argument else module.get_config()
    except UserError:
        raise
    except SyntaxError as error:
        raise UserError(f"{file}, line {error.lineno}: {error.msg}") from error
    except Exception as error:
        lines = [
            f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == spec.origin
        ]
        line = f", line {lines[-1]}" if lines else ""
        raise UserError(f"{file}{line}: {type(error).__name__}: {error}") from error
    if not isinstance(config, Config):
        raise UserError(f"{file}: get_config() gave a {type(config).__name__}, not a Config")
    return from_dict(to_dict(config), where=str(file))


def add_imports(config: Config, modules: Iterable[str]) -> Config:
    """The config with more of the user's own modules to import; saved with it."""
    return dataclasses.replace(config, imports=(*config.imports, *modules))


def choose(argument: str, table: Mapping[str, Any]) -> Any:
    """`table[argument]`, or an error that names the arguments a config file takes."""
    if argument not in table:
        raise UserError(f"unknown config argument '{argument}': {choices(argument, table)}")
    return table[argument]


# To and from JSON


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass as dicts, lists, numbers and strings: what its JSON says."""
    try:
        return msgspec.json.decode(msgspec.json.encode(config))
    except TypeError as error:
        raise UserError(f"the config holds something that JSON cannot say: {error}") from error


def to_json(config: Config) -> str:
    """The whole config as indented JSON, which `from_json` reads back to an equal one."""
    return json.dumps(to_dict(config), indent=2) + "\n"


def from_json(text: str, where: str = "config") -> Config:
    """Read what `to_json` wrote; unknown keys and wrong types are errors."""
    try:
        tree = parse(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}, line {error.lineno}: not JSON: {error.msg}") from error
    except ValueError as error:
        raise UserError(f"{where}: not JSON: {error}") from error
    if not isinstance(tree, dict):
        raise UserError(f"{where}: expected an object, found {type(tree).__name__}")
    return from_dict(tree, where=where)


def from_dict(tree: Mapping[str, Any], where: str = "config") -> Config:
    """A checked Config from nested dicts."""
    check_plain(tree, "config")
    _refuse_unknown(Config, tree, "config")
    try:
        config = msgspec.convert(tree, Config)
    except msgspec.ValidationError as error:
        raise UserError(f"{where}: {_at_path(error)}") from error
    return _revive(config)


def _at_path(error: Exception) -> str:
    message, _, path = str(error).partition(" - at ")
    message = message[:1].lower() + message[1:]
    return f"{path.strip('`').replace('$', 'config', 1)}: {message}" if path else message


def dataclass_of(annotation: Any) -> type | None:
    """The dataclass inside `X`, `X | None` or `Annotated[X, ...]`."""
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        return annotation
    found = (dataclass_of(a) for a in typing.get_args(annotation))
    union = isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union
    return next((f for f in found if f), None) if union else None


def _refuse_unknown(cls: type, tree: Mapping[str, Any], path: str) -> None:
    known = {f.name: f.type for f in dataclasses.fields(cls)}
    for key, value in tree.items():
        if key not in known:
            raise UserError(f"unknown key {path}.{key}: {choices(key, known)}")
        inner = dataclass_of(known[key])
        if inner and isinstance(value, Mapping):
            _refuse_unknown(inner, value, f"{path}.{key}")


def _revive(value: Any) -> Any:
    """Turn {'name', 'args'} inside the arguments of parts back into parts."""
    if isinstance(value, Part):
        return Part(value.name, {k: _revive(v) for k, v in value.args.items()})
    if dataclasses.is_dataclass(value):
        return dataclasses.replace(
            value, **{f.name: _revive(getattr(value, f.name)) for f in dataclasses.fields(value)}
        )
    if isinstance(value, dict):
        inner = {k: _revive(v) for k, v in value.items()}
        return Part(inner["name"], inner["args"]) if set(inner) == {"name", "args"} else inner
    if isinstance(value, list | tuple):
        return type(value)(_revive(v) for v in value)
    return value
