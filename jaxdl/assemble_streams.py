"""Streams of a config: further sources opened, and every stream with its sampler."""

from jaxdl import registry
from jaxdl.checks import check_stream, reads_index
from jaxdl.config import Config
from jaxdl.data.class_order import Names
from jaxdl.data.split import Split, open_split
from jaxdl.data.streams import MAIN, TrainStream, sampler_of
from jaxdl.data.subset import subset_of
from jaxdl.errors import at
from jaxdl.held import GIB
from jaxdl.objectives.base import StreamTransforms


def with_streams(
    config: Config,
    parts: registry.Parts,
    splits: dict[str, Split],
    names: Names | None = None,
) -> dict[str, Split]:
    """The splits of a run, and for each further stream one more, as 'streams.NAME'.

    Args:
        config: of the run.
        parts: of the config, bound.
        splits: by role, `train` among them; what is open already stays as it is.
        names: of the classes of the run that goes on, by target, as in `open_splits`.
    """
    further = {}
    for name in config.data.streams:
        if f"streams.{name}" not in splits:
            with at(f"config.data.streams.{name}"):
                further[f"streams.{name}"] = _opened(config, parts, name, splits["train"], names)
    return splits | further


def _opened(
    config: Config, parts: registry.Parts, name: str, train: Split, names: Names | None
) -> Split:
    """The examples of a further stream; arrays are shared where they are those of the main one."""
    stream, data = config.data.streams[name], config.data
    split = stream.split or ("train" if stream.source else data.train)
    is_main = stream.source is None and split == data.train and stream.subset == data.subset
    if is_main and (stream.labels or stream.subset is None):
        return train if stream.labels else train.without_labels()
    source = parts.one(f"data.streams.{name}.source") or parts.one("data.source")
    subset = parts.one(f"data.streams.{name}.subset")
    return open_split(
        lambda split: registry.supply(source, split=split),
        split,
        memory=int(data.memory * GIB),
        num_classes=None if stream.source else train.num_classes,
        threads=data.threads,
        subset=subset and subset_of(subset, config.seed),
        labels=stream.labels,
        names=None if stream.source else names,
    )


def train_streams(
    config: Config, parts: registry.Parts, splits: dict[str, Split]
) -> dict[str, TrainStream]:
    """The main stream and the further ones, refused where a sampler or a transform does not fit."""
    numbered = reads_index(config)
    streams = {}
    for name in (MAIN, *config.data.streams):
        path, key, size = "data", "train", config.data.batch_size
        if name:
            path, key = f"data.streams.{name}", f"streams.{name}"
            size = config.data.streams[name].batch_size
            check_stream(config, name, splits[key], splits["train"])
        with at(f"config.{path}"):
            split = splits[key].with_numbers() if numbered else splits[key]
            sampler = sampler_of(parts.one(f"{path}.sampler"), splits[key])
            fixed, size = bool(name and size), size or config.data.batch_size
            streams[name] = TrainStream(split, sampler, size, fixed)
            streams[name].order(config.seed, name)
    return streams


def stream_transforms(config: Config, parts: registry.Parts) -> dict[str, StreamTransforms]:
    """Transforms of the batches of each further stream, by its name."""
    return {name: _transforms(config, parts, name) for name in config.data.streams}


def _transforms(config: Config, parts: registry.Parts, name: str) -> StreamTransforms:
    stream, path = config.data.streams[name], f"data.streams.{name}"
    own = {f: getattr(stream, f) is not None for f in ("augment", "preprocess")}
    augment, preprocess = (parts.many(f"{path}.{f}" if is_own else f) for f, is_own in own.items())
    views = {view: parts.many(f"{path}.views.{view}") for view in stream.views}
    return StreamTransforms(augment, preprocess, views)
