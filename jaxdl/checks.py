"""Consistency checks: mistakes in a config that can be found before anything is built."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxdl import registry
from jaxdl.check_targets import all_metrics, check_name, check_targets, target_name
from jaxdl.config import Config, Part, held_of
from jaxdl.corrections import setting, word
from jaxdl.data.pipeline import Split
from jaxdl.errors import UserError, choices, nearest
from jaxdl.judging import score
from jaxdl.train.sharding import batch_shards

RESERVED = ("train", "train_eval", "generalization_gap")
"""Names in the metric log that are of no evaluation split."""
PIPELINES = ("gpipe", "one_f_one_b")
BATCH_KEYS = ("image", "label", "tokens", "source", "mask", "mixed_label", "lam", "index")
"""Keys of the arrays of a batch; see `types.py`."""


def check(config: Config) -> registry.Parts:
    """The parts of a config, bound; UserError for the first that is unknown or ill-supplied."""
    parts = registry.Parts(config)
    _streams(config)
    _rates(config)
    _skips(config)
    _held(config)
    return parts


def check_batch(config: Config, mesh: jax.sharding.Mesh) -> None:
    """Refuse a batch that does not divide over the devices, in its micro-batches."""
    sizes, n = {"": config.data.batch_size}, config.gradient.accumulate
    sizes |= {f"streams.{k}.": s.batch_size for k, s in config.data.streams.items() if s.batch_size}
    shards = batch_shards(mesh)
    for where, size in sizes.items():
        if size % (shards * n):
            field, divisor = f"config.data.{where}batch_size", shards * n
            raise UserError(
                f"{field} {size} does not divide over {shards} devices"
                + (f" in {n} micro-batches" if n > 1 else ""),
                setting(field, -(-size // divisor) * divisor),
            )


def _streams(config: Config) -> None:
    """Refuse further streams where their batches cannot stand, or cannot be told apart."""
    streams = config.data.streams
    if streams and (config.mesh.stage > 1 or config.gradient.method.name in PIPELINES):
        raise UserError(
            "config.data.streams: a pipeline (config.mesh.stage) takes batches of one stream"
        )
    for name, stream in streams.items():
        for kind, key in [("stream", name), *(("view", view) for view in stream.views)]:
            if not key.isidentifier() or key in BATCH_KEYS:
                raise UserError(
                    f"config.data.streams: '{key}' is not a name for a {kind}: it stands in a "
                    f"batch beside {', '.join(BATCH_KEYS)}"
                )


def check_stream(config: Config, name: str, split: Split, main: Split) -> None:
    """Refuse a further stream that does not fit into the batch, or whose transforms do not fit it.

    Args:
        config: of the run.
        name: of the stream.
        split: its examples.
        main: those of the main stream.
    """
    stream, path = config.data.streams[name], f"data.streams.{name}"
    if name in main.element_spec:
        raise UserError(f"config.{path}: the batch of source '{config.data.source.name}' has it")
    source = (stream.source or config.data.source).name
    for view in stream.views:
        if view in split.element_spec:
            raise UserError(f"config.{path}.views.{view}: the batch of source '{source}' has it")
        _augmentations(stream.views[view], f"{path}.views.{view}", source, split)
    for field in ("augment", "preprocess"):
        value, where = getattr(stream, field), f"{path}.{field}"
        value = getattr(config, field) if value is None else value
        _augmentations(value, where, source, split)


def unread_streams(config: Config) -> list[str]:
    """Names of streams that no argument of the objective or of a regularizer mentions.

    What reads a stream that its arguments do not name says so where it is registered, by `streams`.
    """

    def texts(value: Any) -> Iterator[str]:
        if isinstance(value, Part):
            yield from texts(tuple(value.args.values()))
        elif isinstance(value, dict):
            yield from texts((*value, *value.values()))
        elif isinstance(value, list | tuple):
            for item in value:
                yield from texts(item)
        elif isinstance(value, str):
            yield value

    readers = [
        ("objectives", config.objective),
        *(("regularizers", p) for p in config.regularizers),
    ]
    read = set(texts([part for _, part in readers]))
    for kind, part in readers:
        entry = registry.find(kind, part.name)
        read |= set(entry.metadata.get("streams", ()))
        read |= set(texts([p.default for p in entry.arguments().values()]))
    return [name for name in config.data.streams if name not in read]


def reads_index(config: Config) -> bool:
    """True where the objective or a regularizer is registered with `index=True`."""
    readers = [
        ("objectives", config.objective),
        *(("regularizers", p) for p in config.regularizers),
    ]
    return any(registry.find(kind, part.name).metadata.get("index") for kind, part in readers)


def unit_of(kind: str, part: Part) -> str:
    """The unit of an objective's or a metric's logits: 'example' unless it says otherwise."""
    return units_of(kind, part)[0]


def units_of(kind: str, part: Part) -> tuple[str, ...]:
    """The units of a part that may be of several."""
    unit = metadata_of(kind, part, "unit") or "example"
    return (unit,) if isinstance(unit, str) else unit


def metadata_of(kind: str, part: Part, key: str) -> Any:
    """Metadata of a part, or else of the part of its kind inside it; None where neither says."""
    entry = registry.find(kind, part.name)
    if key in entry.metadata:
        return entry.metadata[key]
    for name, inner in part.args.items():
        if name in entry.arguments() and registry.inner_kind(entry, name) == kind:
            return metadata_of(kind, inner if isinstance(inner, Part) else Part(inner), key)
    return None


def check_fit(config: Config, module: Any, train: Split) -> None:
    """Refuse parts that do not speak of the same thing, before anything compiles."""
    _mixing(config)
    source = config.data.source.name
    for field in ("augment", "preprocess"):
        _augmentations(getattr(config, field), field, source, train)
    for name in getattr(module, "inputs", ("image",)):
        if name not in train.element_spec:
            raise UserError(
                f"model '{config.model.name}' reads '{name}', and source '{source}' gives "
                f"{shapes(train)}"
            )
    asked = registry.supplied(registry.find("models", config.model.name).build)
    if "vocabulary" in asked and train.vocabulary is None:
        raise UserError(
            f"model '{config.model.name}' needs a vocabulary, and source '{source}' does not say "
            f"how many tokens there are: it gives {shapes(train)}"
        )
    _same_unit(config, getattr(module, "unit", None))
    check_name(config, train)
    target = train.targets.get(target_name(config))
    given = target and ("pixel" if target.kind == "mask" else "example")
    wanted = unit_of("objectives", config.objective)
    if wanted != "token" and given != wanted:
        found = f"a label of each {given}" if given else f"{shapes(train)}, no label"
        raise UserError(
            f"objective '{config.objective.name}' reads a label of each {wanted}, and source "
            f"'{source}' gives {found}"
        )
    check_targets(config, train)


def check_held(config: Config, splits: Mapping[str, Split]) -> None:
    """Refuse preprocessing of an evaluation split that does not fit its examples."""
    for name, held in config.evaluation.splits.items():
        if held.preprocess is not None and name in splits:
            source = (held.source or config.data.source).name
            path = f"evaluation.splits.{name}.preprocess"
            _augmentations(held.preprocess, path, source, splits[name])


def _augmentations(parts: Sequence[Part], path: str, source: str, split: Split) -> None:
    spec = split.element_spec
    stream = path.removesuffix("preprocess") if path.startswith("data.streams.") else ""
    for part in parts:
        entry = registry.find("augmentations", part.name)
        metadata = entry.metadata
        if path.endswith("preprocess") and entry.supplied()[0].annotation is jax.Array:
            raise UserError(
                f"augmentation '{part.name}' draws at random, and config.{path} is done to "
                f"every batch alike: put it into config.{stream}augment"
            )
        read = metadata.get("inputs", "image")
        if read not in spec:
            raise UserError(
                f"augmentation '{part.name}' reads '{read}', and source '{source}' gives "
                f"{shapes(split)}: set config.{path} to []"
            )
        if metadata.get("mixes") and "label" not in spec:
            raise UserError(
                f"augmentation '{part.name}' mixes labels, and config.{path} is of a stream "
                "without: leave it out there"
            )
        if metadata.get("pixels") == "uint8" and spec[read].dtype != np.uint8:
            raise UserError(
                f"augmentation '{part.name}' is of bytes, and source '{source}' gives "
                f"{shapes(split)}"
            )


def _same_unit(config: Config, unit: str | None) -> None:
    """Objective, metrics and predictors speak of what the model speaks of."""
    predictors = config.evaluation.predictors
    measures = [part for metrics in all_metrics(config) for part in metrics]
    asked = [("objectives", config.objective), *(("metrics", m) for m in measures)]
    # A predictor that does not say what it is of is of anything.
    choosy = [p for p in predictors if "unit" in registry.find("predictors", p.name).metadata]
    for kind, part in [*asked, *(("predictors", p) for p in choosy)]:
        wanted = units_of(kind, part)
        if unit is not None and unit not in wanted:
            mates = [e.name for e in registry.entries(kind) if unit in units_of(kind, Part(e.name))]
            raise UserError(
                f"{registry.singular(kind)} '{part.name}' is of each {wanted[0]}, and model "
                f"'{config.model.name}' speaks of each {unit}: {choices(part.name, mates)}"
            )
    for part in measures:
        made_by = metadata_of("metrics", part, "inputs")
        if made_by == "generated" and "generate" not in {p.name for p in predictors}:
            raise UserError(
                f"metric '{part.name}' is of what the model writes: set "
                "config.evaluation.predictors=generate"
            )


def _rates(config: Config) -> None:
    """An optimizer that averages its own steps must be the last to scale them."""
    scaled = {
        "config.lr_multipliers": config.lr_multipliers,
        "config.layer_decay": config.layer_decay,
    }
    for p in config.wrappers:
        scaled[f"wrapper '{p.name}'"] = registry.find("wrappers", p.name).metadata.get("scales")
    by = next((name for name, value in scaled.items() if value), None)
    for part in (config.optimizer, *config.optimizers.values()):
        if by and not registry.find("optimizers", part.name).metadata.get("linear", True):
            raise UserError(
                f"optimizer '{part.name}' averages its own steps, and {by} would scale them"
            )


def _skips(config: Config) -> None:
    """Refuse a transform that skips steps where the step may not: it makes the gradient NaN."""
    for part in config.gradient.transforms:
        skips = registry.find("gradient_transforms", part.name).metadata.get("skips")
        if skips and not config.gradient.skip_nonfinite:
            raise UserError(f"gradient '{part.name}' needs config.gradient.skip_nonfinite=true")


def _mixing(config: Config) -> None:
    """Mixed examples have two labels: nothing comes after them but what knows that."""
    mixes = [registry.find("augmentations", p.name).metadata.get("mixes") for p in config.augment]
    if True in mixes[:-1]:
        name = config.augment[mixes.index(True)].name
        raise UserError(f"augmentation '{name}' mixes examples: it is the last in config.augment")
    knows = [registry.find("objectives", config.objective.name).metadata.get("mixed")]
    knows.append(unit_of("objectives", config.objective) == "pixel")  # maps are pasted, not mixed
    if True in mixes and not any(knows):
        raise UserError(
            f"augmentation '{config.augment[-1].name}' mixes examples, and objective "
            f"'{config.objective.name}' knows of one label each"
        )


def shapes(split: Split) -> str:
    """The arrays of one example of a split, as text."""
    return ", ".join(f"{k} {s.dtype}{list(s.shape)}" for k, s in split.element_spec.items())


def check_monitor(config: Config, measured: Sequence[str]) -> None:
    """Refuse to be judged by what is not measured while training.

    Args:
        config: of the run.
        measured: keys such as 'validation/iou/sky', of all splits that are.
    """
    evaluation = config.evaluation
    if not measured:
        if config.early_stopping:
            raise UserError("config.early_stopping needs a split in config.data.validation")
        return
    for key in score(evaluation.monitor).keys:
        if key not in measured:
            raise UserError(
                f"config.evaluation.monitor '{key}' is not measured while training: "
                f"{choices(key, measured)}",
                word(key, (nearest(key, measured) or sorted(measured))[0]),
            )


def _held(config: Config) -> None:
    """Refuse evaluation splits that cannot be told from others, and what asks for one in vain."""
    for name in config.evaluation.splits:
        if not re.fullmatch(r"[\w-]+", name) or name in RESERVED:
            raise UserError(
                f"an evaluation split cannot be called '{name}': letters, digits, '_', '-', and "
                f"none of {', '.join(RESERVED)}"
            )
        if name in ("validation", "test") and getattr(config.data, name):
            raise UserError(
                f"config.evaluation.splits.{name} and config.data.{name} are two of one name: set "
                f"config.data.{name} to null"
            )
    if config.evaluation.generalization_gap and "validation" not in held_of(config):
        raise UserError("config.evaluation.generalization_gap needs config.data.validation")
