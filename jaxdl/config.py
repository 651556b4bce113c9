"""Configuration of a run: frozen dataclasses, overridden by path, saved as JSON.

A `Part` names a registered builder and its arguments, so that a whole run is plain data. Types and
ranges are checked by msgspec. This file imports no JAX: a config can be read on any machine.
"""

import dataclasses
import functools
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import msgspec

from jaxdl.errors import UserError, choices

Count = Annotated[int, msgspec.Meta(ge=1, lt=2**31)]
Seed = Annotated[int, msgspec.Meta(ge=0, lt=2**32)]
Rate = Annotated[float, msgspec.Meta(ge=0, lt=1)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
NonNegative = Annotated[float, msgspec.Meta(ge=0)]
Factor = Annotated[float, msgspec.Meta(gt=1)]
Fraction = Annotated[float, msgspec.Meta(gt=0, le=1)]


class Steps:
    """Marks an annotation whose value is a duration, handed to builders as a number of steps."""


Duration = Annotated[int | str, Steps()]
"""A number of steps, or a string: '500 steps', '3 epochs', '1e6 examples', '5%' of the run."""


@dataclasses.dataclass(frozen=True)
class Of:
    """Marks a part, and says of which kind it is: `Annotated[Part, Of('losses')]`."""

    kind: str


class Network:
    """Marks an argument that names a network of its own: a run directory, or a registered model."""


class Varying(float):
    """A number of which each member of a population has its own: `value`, while it is traced."""

    value: Any

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
class Stream:
    """A further source of training examples: each batch has one of its batches under its name."""

    source: Annotated[Part, Of("sources")] | None = None  # None: the main one
    split: str | None = None  # None: as `data.train`, of another source 'train'
    subset: Annotated[Part, Of("subsets")] | None = None
    sampler: Annotated[Part, Of("samplers")] = part("shuffle")
    batch_size: Count | None = None  # None: as `data.batch_size`
    labels: bool = True  # false: the stream has neither these nor other targets
    augment: tuple[Annotated[Part, Of("augmentations")], ...] | None = None  # None: the run's own
    preprocess: tuple[Annotated[Part, Of("augmentations")], ...] | None = None  # the same
    views: dict[str, tuple[Annotated[Part, Of("augmentations")], ...]] = dataclasses.field(
        default_factory=dict
    )  # name: in place of `augment`, of the same examples; under `<stream>/<name>`


@dataclasses.dataclass(frozen=True)
class Data:
    """Source of examples, and batching. A split is `name` or `name[from:to]`."""

    source: Annotated[Part, Of("sources")] = part("digits")
    train: str = "train"
    validation: str | None = "validation"
    test: str | None = "test"
    subset: Annotated[Part, Of("subsets")] | None = None  # of the training split; None: all of it
    sampler: Annotated[Part, Of("samplers")] = part("shuffle")  # the order of training examples
    streams: dict[str, Stream] = dataclasses.field(default_factory=dict)  # beside the main one
    batch_size: Count = 128
    evaluation_batch_size: Count = 256
    memory: Positive = 4.0  # GiB: a split that decodes to less is held in memory, else streamed
    device_memory: NonNegative = 1.0  # GiB: a split that fits lives on the accelerator
    threads: Count = 2  # readers of a streamed split
    prefetch: Count = 2  # batches made ahead of the step


@dataclasses.dataclass(frozen=True)
class Gradient:
    """Computation of the gradient, and transforms applied to it before the optimizer."""

    method: Annotated[Part, Of("gradient_methods")] = part("full_batch")
    accumulate: Count = 1  # micro-batches that one batch is cut into
    transforms: tuple[
        Annotated[Part, Of("gradient_transforms")], ...
    ] = ()  # clipping and the like, in order
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
    stage: int = 1  # splits the chain of blocks: see the gradient methods gpipe and one_f_one_b
    rules: tuple[tuple[str, tuple[str | None, ...]], ...] = ()


Metrics = tuple[Annotated[Part, Of("metrics")], ...] | dict[str, Annotated[Part, Of("metrics")]]
"""Metrics, in a dict under names of your own."""


@dataclasses.dataclass(frozen=True)
class Held:
    """Evaluation split: examples that are measured, and not trained on."""

    split: str = "test"
    source: Annotated[Part, Of("sources")] | None = None  # None: data.source
    subset: Annotated[Part, Of("subsets")] | None = None  # None: all of it
    sampler: Annotated[Part, Of("samplers")] | None = None  # None: each example once
    preprocess: tuple[Annotated[Part, Of("augmentations")], ...] | None = None  # None: the run's
    metrics: Metrics | None = None  # None: evaluation.metrics
    when: Literal["training", "end"] = "training"


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Evaluation: its period, its metrics, and the metric by which a run is judged."""

    every: Duration = "1 epoch"
    metrics: Metrics = (part("accuracy"), part("cross_entropy"))
    splits: dict[str, Held] = dataclasses.field(
        default_factory=dict
    )  # beside data.validation and data.test
    monitor: str = "validation/accuracy"  # or a score: mean(validation/accuracy, NAME/accuracy)
    mode: Literal["max", "min"] = "max"
    average: bool = True  # evaluate the averaged weights where the run keeps them
    norm_batches: Annotated[int, msgspec.Meta(ge=0)] = 0  # to find averaged weights' statistics by
    predictors: tuple[
        Annotated[Part, Of("predictors")], ...
    ] = ()  # other ways to predict, around the plain one
    outputs_limit: NonNegative = 64.0  # MiB of logits a split that are kept; else see the README
    generalization_gap: bool = False  # measure training examples too: as many, and as they are


@dataclasses.dataclass(frozen=True)
class EarlyStopping:
    """Stop after `patience` evaluations without a gain of more than `min_delta`."""

    patience: Count = 10
    min_delta: NonNegative = 0.0
    restore_best: bool = True


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Checkpointing: its period, and how many of the newest and of the best are kept."""

    every: Duration = "1 epoch"
    keep_latest: Count = 2
    keep_best: Count = 1


@dataclasses.dataclass(frozen=True)
class Log:
    """Logging: its period, and sinks besides the console."""

    every: Duration = "1%"
    sinks: tuple[Annotated[Part, Of("sinks")], ...] = (part("tensorboard"),)


@dataclasses.dataclass(frozen=True)
class Population:
    """Members that train at once, in one program: each seed with each combination of values."""

    seeds: Count = 1  # config.seed and those after it
    grid: dict[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)  # path: values
    successive_halving: Duration | None = (
        None  # how often the worse half by evaluation.monitor is pruned
    )


@dataclasses.dataclass(frozen=True)
class Config:
    """One run, whole. Every field can be set as `--config.field=value`."""

    data: Data = Data()
    model: Annotated[Part, Of("models")] = part("cnn")
    initializer: Annotated[Part, Of("initializers")] | None = (
        None  # draws every kernel, in place of the model's own
    )
    dropout: Annotated[Part, Of("dropouts")] | None = (
        None  # what every dropout layer does, in place of its own
    )
    freeze_norms: bool = False  # batch norms keep their statistics: for fine-tuning
    sync_norms: bool = True  # batch statistics of the whole batch, not of each device's part of it
    init_from: str | dict[str, str] | None = (
        None  # weights to begin with: a file, a hub id, an address, a run; or path of a module: one
    )
    objective: Annotated[Part, Of("objectives")] = part("supervised")
    regularizers: tuple[
        Annotated[Part, Of("regularizers")], ...
    ] = ()  # around the objective, the last one outermost
    refresh: tuple[
        Annotated[Part, Of("refreshes")], ...
    ] = ()  # what changes between steps, by what was measured
    optimizer: Annotated[Part, Of("optimizers")] = part("adamw", learning_rate=1e-3)
    optimizers: dict[str, Annotated[Part, Of("optimizers")]] = dataclasses.field(
        default_factory=dict
    )  # path regex: what moves these parameters in place of `optimizer`; the first match holds
    wrappers: tuple[
        Annotated[Part, Of("wrappers")], ...
    ] = ()  # around the optimizer, the last one outermost
    schedule: Annotated[Part, Of("schedules")] = part("warmup_cosine")
    freeze: str | None = None  # regular expression on paths of parameters that do not move
    freeze_statistics: bool = True  # batch norms whose parameters are frozen keep their statistics
    lr_multipliers: dict[str, NonNegative] = dataclasses.field(
        default_factory=dict
    )  # path regex: factor
    layer_decay: Fraction | None = None  # the rate of a layer, as a part of the next layer's
    gradient: Gradient = Gradient()
    preprocess: tuple[Annotated[Part, Of("augmentations")], ...] = (
        part("normalize"),
    )  # every batch, training and evaluation
    augment: tuple[
        Annotated[Part, Of("augmentations")], ...
    ] = ()  # training batches only, before `preprocess`
    duration: Duration = "10 epochs"
    precision: Annotated[Part, Of("precisions")] = part("auto")
    average: Annotated[Part, Of("averages")] | None = (
        None  # of the weights, kept beside them: "ema" or "swa"
    )
    evaluation: Evaluation = Evaluation()
    early_stopping: EarlyStopping | None = None
    population: Population | None = None  # many runs in one program
    checkpoint: Checkpoint = Checkpoint()
    watchdog_seconds: Positive = (
        600.0  # seconds without a step or a batch evaluated that end the run
    )
    mesh: Mesh = Mesh()
    log: Log = Log()
    steps_per_execution: Count = (
        1  # steps in one call of the program: for networks faster than a call
    )
    seed: Seed = 0
    imports: tuple[str, ...] = ()  # modules or files of your own that register parts


def held_of(config: Config) -> dict[str, Held]:
    """Every evaluation split by name: data.validation, data.test, and evaluation.splits."""
    held = {}
    if config.data.validation:
        held["validation"] = Held(split=config.data.validation)
    if config.data.test:
        held["test"] = Held(split=config.data.test, when="end")
    return held | config.evaluation.splits


def choose(argument: str, table: Mapping[str, Any]) -> Any:
    """`table[argument]`, or an error that names the arguments a config file takes."""
    if argument not in table:
        raise UserError(f"unknown config argument '{argument}': {choices(argument, table)}")
    return table[argument]


def dataclass_of(annotation: Any) -> type | None:
    """The dataclass inside `X`, `X | None` or `Annotated[X, ...]`."""
    if typing.get_origin(annotation) is Annotated:
        return dataclass_of(annotation.__origin__)
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        return annotation
    found = (dataclass_of(a) for a in typing.get_args(annotation))
    union = isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union
    return next((f for f in found if f), None) if union else None


def parts_of(config: Any, path: str = "") -> Iterator[tuple[str, str, Part]]:
    """(path, kind, part) of every part in a config, in the order of its fields.

    Positions in tuples and keys of dicts are steps of a path: 'evaluation.metrics.0'.
    """
    hints = _hints(config.__class__)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        yield from _parts_in(value, hints[field.name], f"{path}{field.name}")


def _parts_in(value: Any, annotation: Any, path: str) -> Iterator[tuple[str, str, Part]]:
    if isinstance(value, Part):
        yield path, kind_of(annotation) or "", value
    elif isinstance(value, str) and kind_of(annotation):
        raise UserError(f"config.{path}: in Python, write jaxdl.part('{value}'), not '{value}'")
    elif dataclasses.is_dataclass(value):
        yield from parts_of(value, f"{path}.")
    elif isinstance(value, tuple | dict) and kind_of(annotation) is not None:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            yield from _parts_in(inner, element_of(annotation), f"{path}.{key}")


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls, include_extras=True)


def kind_of(annotation: Any) -> str | None:
    """The kind of the parts that an annotation speaks of, through unions, tuples and dicts.

    For fields that hold dataclasses with parts, in dicts too, it is the empty string.
    """
    if typing.get_origin(annotation) is Annotated:
        marks = [m.kind for m in annotation.__metadata__ if isinstance(m, Of)]
        return marks[0] if marks else kind_of(annotation.__origin__)
    if dataclasses.is_dataclass(annotation):
        return ""
    kinds = (kind_of(a) for a in typing.get_args(annotation))
    return next((k for k in kinds if k is not None), None)


def element_of(annotation: Any) -> Any:
    """Element type of a tuple or dict annotation: X of `tuple[X, ...] | dict[str, X] | None`."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is tuple:
        return inner[0]
    if origin is dict:
        return inner[1]
    return next((e for e in map(element_of, inner) if e is not None), None)
