"""A finished run in hand: its network with the weights that it was judged by.

    run = load_run("runs/a")
    run.predict(images)["label"], run.evaluate("test"), run.features(images)

Only the run directory is read. The data of the run is opened where a split is evaluated, and where
batch statistics have to be found anew (`evaluation.norm_batches`).
"""

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl import tree
from jaxdl.assemble import Plan, assemble, open_splits
from jaxdl.checks import check_batch, shapes
from jaxdl.config import Config, Data, held_of
from jaxdl.config_file import in_words
from jaxdl.data.class_order import Names
from jaxdl.data.identity import comparable, compare, names_of, own_source, prepared
from jaxdl.data.images import as_stored, load
from jaxdl.data.recorded import record, recorded
from jaxdl.data.split import Split
from jaxdl.data.tokenizers import recorded_tokenizer
from jaxdl.errors import UserError, choices
from jaxdl.evaluation import evaluator, whole_split
from jaxdl.hub.load import save
from jaxdl.metrics.base import by_name
from jaxdl.objectives.generate import greedy
from jaxdl.rundir.read import read_config, read_manifest
from jaxdl.rundir.weights import run_constants, run_weights
from jaxdl.session import first_state, training_batches, weights_of
from jaxdl.train.evaluate import lagged
from jaxdl.train.sharding import AXES, batch_sharding, batch_shards, fetch, make_mesh, replicated
from jaxdl.train.state import run_key
from jaxdl.types import CONSTANT, PADDING, Array, Batch, PyTree

Images = np.ndarray | Sequence[np.ndarray | str | Path]


@dataclasses.dataclass(frozen=True)
class LoadedRun:
    """A network with weights, and all that its config describes around it."""

    config: Config
    plan: Plan
    params: PyTree
    variables: PyTree
    known: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """The section `data` of its manifest, as far as the config names the same data"""

    def __repr__(self) -> str:
        model, source = in_words(self.config.model), in_words(self.config.data.source)
        return f"LoadedRun({model} on {source}, {tree.count(self.params):,} parameters)"

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of every class; their numbers where they have no names."""
        target = self.plan.target
        return target.names or tuple(str(i) for i in range(target.size or 0))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the images that the run reads."""
        split = self.plan.splits["train"]
        if "image" not in split.element_spec:
            raise UserError(f"this run reads no images, but {shapes(split)}")
        return split.element_spec["image"].shape

    @property
    def batch_size(self) -> int:
        """Inputs that are predicted at once: as many as in an evaluation."""
        shards = batch_shards(self.plan.mesh)
        return -(-self.config.data.evaluation_batch_size // shards) * shards

    def predict(self, images: Images) -> dict[str, np.ndarray]:
        """Answers of the network for images, by the predictor that the run is judged by.

        Args:
            images: (n, h, w, c) as the run's source stores them; or images of any sizes, each
                (h, w) or (h, w, c) uint8 or a file, which are resized and cut as a source does it.

        Returns:
            `logits` (n, k) float32, `probability` (n, k) and `label` (n,), the likeliest class, or
            (n, k), 1 for each that holds; of numbers only the logits, which they are. Of
            a segmentation `logits` (n, h, w, k) and `label` (n, h, w).
        """
        logits = np.concatenate([fetch(x) for x in self._run(self._answer, images)])
        answers, kind = {"logits": logits}, self.plan.target.kind
        if kind == "multilabel":
            answers["probability"] = 1 / (1 + np.exp(-logits))
            answers["label"] = (logits > 0).astype(np.int32)
        elif kind != "numbers":
            answers["label"] = np.argmax(logits, axis=-1).astype(np.int32)
            if self.plan.unit == "example":
                answers["probability"] = softmax(logits)
        return answers

    def features(self, images: Images) -> np.ndarray:
        """Features of images as the head reads them, (n, d) float32; of maps, the means."""
        return np.concatenate([fetch(x) for x in self._run(self._features, images)])

    def complete(self, prompt: str, length: int | None = None) -> str:
        """The text that a language model writes after a prompt, the likeliest token each time.

        Args:
            prompt: text that goes on; where the model reads a source, what it is to translate. Of
                a long one, the end that leaves room within the sequences the model was trained on.
            length: tokens to write at most; by default as many as there is room for.
        """
        split = self.plan.splits["train"]
        if "tokens" not in split.element_spec:
            raise UserError(f"this run writes no text: it reads {shapes(split)}")
        if split.tokenizer is None:
            raise UserError("this run's tokens are not of a text: its source has no tokenizer")
        text = split.tokenizer
        room = split.element_spec["tokens"].shape[0]
        tokens, batch = text.encode(prompt), {}
        if "source" in split.element_spec:
            read = split.element_spec["source"].shape[0]
            source = [*tokens[: read - 1], text.end]
            batch["source"] = np.array([source + [PADDING] * (read - len(source))], np.int32)
            tokens = []
        first = [*text.start, *tokens]
        if not first:
            raise UserError("an empty text does not go on")
        if length is not None and length >= room:
            raise UserError(f"this run's sequences have {room} tokens, the first ones given")
        kept = first[-(room - (length or 1)) :]
        total = min(room, len(kept) + length) if length else room
        given = np.array([kept], np.int32)
        weights = (self.params, self.variables)
        written = self._write(*weights, batch, given, total, text.end)
        return text.decode(np.asarray(written)[0, len(kept) :].tolist())

    @functools.cached_property
    def _write(self) -> Callable[..., Array]:
        @functools.partial(jax.jit, static_argnums=(4, 5))
        def write(
            params: PyTree,
            variables: PyTree,
            batch: Batch,
            given: Array,
            total: int,
            end: int | None,
        ) -> Array:
            def logits(tokens: Array) -> Array:
                read = self.plan.prepare({**batch, "tokens": tokens})
                return self.plan.model.predict(params, variables, read)["logits"]

            return greedy(logits, given, total, end)

        return write

    def evaluate(self, split: str = "test") -> dict[str, float | np.ndarray]:
        """Metric to number or matrix over one split of the run's data, which is opened for it.

        Args:
            split: 'train', 'validation', 'test' or a name of `evaluation.splits`.
        """
        roles = ["train", *held_of(self.config)]
        if split not in roles:
            raise UserError(f"the config has no split '{split}': {choices(split, roles)}")
        plan = self.plan._replace(splits={**self.plan.splits, split: self.opened(split)})
        measure = evaluator(plan, split)
        values = measure(self.params, self.variables, whole_split(self.config, plan, split))
        numbers, matrices = by_name(values, plan.metrics_of(split), plan.classes())
        return numbers | matrices

    def export(self, file: Path, publisher: str | None = None) -> str:
        """Write the weights as safetensors under a publisher's names; returns the publisher."""
        name = self.config.model.name
        return save(file, name, self.params, self.variables, publisher=publisher)

    def opened(self, role: str) -> Split:
        """A split of the run's data with its examples: 'train', 'validation' or 'test'."""
        there = self.plan.splits.get(role)
        if there is not None and there.readable:
            return there
        train = self.plan.splits["train"]
        about = {"num_classes": train.num_classes, "names": names_of(self.known)}
        opened = open_splits(self.config, (role,), **about)
        _compare(self.config, self.known, opened)
        self._check_shapes(role, opened[role])
        return opened[role]

    def _check_shapes(self, role: str, split: Split) -> None:
        """Refuse examples of another shape, for which the network would have other parameters."""
        spec, train = split.element_spec, self.plan.splits["train"]
        if role in prepared(self.config) or spec == train.element_spec:
            return
        batch = {k: jax.ShapeDtypeStruct((1, *s.shape), s.dtype) for k, s in spec.items()}
        fresh, _ = jax.eval_shape(self.plan.objective.init, jax.random.key(0), batch)
        here, own = tree.flatten(fresh), tree.flatten(self.params)
        other = [name for name in here if name in own and here[name].shape != own[name].shape]
        if other:
            raise UserError(
                f"the network of this run reads {shapes(train)}, and split '{role}' holds "
                f"{shapes(split)}: for these {other[0]} would be {list(here[other[0]].shape)}, "
                f"and is {list(own[other[0]].shape)}"
            )

    @functools.cached_property
    def _answer(self) -> Callable[[PyTree, PyTree, Batch], Array]:
        predict = self.plan.objective.predict
        return jax.jit(
            lambda params, variables, batch: predict(params, variables, batch)["logits"],
            out_shardings=replicated(self.plan.mesh),
        )

    @functools.cached_property
    def _features(self) -> Callable[[PyTree, PyTree, Batch], Array]:
        return pooled_features(self.plan)

    def _run(self, program: Callable[..., Array], images: Images) -> Iterator[Array]:
        """Outputs of a program for images, batch by batch, without the padding of the last."""
        stored = self.stored(images)
        size, sharding = self.batch_size, batch_sharding(self.plan.mesh)

        def batches() -> Iterator[Array]:
            for start in range(0, len(stored), size):
                index = np.arange(start, start + size)
                batch = {"image": stored[np.where(index < len(stored), index, 0)]}
                batch["mask"] = (index < len(stored)).astype(np.float32)
                yield program(self.params, self.variables, jax.device_put(batch, sharding))

        starts = range(0, len(stored), size)
        for start, answer in zip(starts, lagged(batches()), strict=True):
            yield answer[: len(stored) - start]

    def stored(self, images: Images) -> np.ndarray:
        """Images as the run's source stores them, (n, h, w, c)."""
        image, kind = self.image_shape, self.plan.splits["train"].element_spec["image"].dtype
        if isinstance(images, np.ndarray) and images.shape[1:] == image and images.dtype == kind:
            return images
        if kind != np.uint8:
            raise UserError(
                f"this run reads images of {kind}{list(image)}: give an array ({kind}) of them"
            )
        if isinstance(images, str | Path):
            raise UserError(f"give a list of images or of their files: ['{images}']")
        if not len(images):
            raise UserError("give at least one image to predict")
        return np.stack([as_stored(_in_hand(x, image[2]), image) for x in images])


def _in_hand(image: np.ndarray | str | Path, channels: int) -> np.ndarray:
    """An image, (h, w) or (h, w, c) uint8, that is given so or as a file."""
    if isinstance(image, str | Path):
        return load(Path(image), channels)
    array = np.asarray(image)
    if array.ndim not in (2, 3) or array.dtype != np.uint8:
        raise UserError(
            "give a list of images, each (h, w) or (h, w, c) uint8 or a file, or an array of them: "
            f"one of these is {array.dtype}{list(array.shape)}"
        )
    return array


def load_run(workdir: str | Path, *choice: str, config: Config | None = None) -> LoadedRun:
    """A run by its directory, with the weights that it is judged by.

    Args:
        workdir: the run directory.
        choice: of other weights: 'latest', 'raw' or the number of a checkpoint's step; see
            `rundir.weights.run_weights`.
        config: in place of the run's own, such as one with other data to evaluate.

    Raises:
        UserError: it is not a run directory, or its files are damaged.
    """
    workdir, trained = Path(workdir), read_config(Path(workdir))
    config = config or trained
    weights = run_weights(workdir, *choice)
    anew = weights.averaged and "batch_stats" in weights.variables
    anew = anew and config.evaluation.norm_batches
    known = comparable(read_manifest(workdir).get("data") or {}, config, trained)
    names = names_of(known)
    splits = None if anew else _recorded(config, workdir, names)
    plan = _assembled(config if anew else _without_order(config), splits, names)
    _compare(config, known, plan.splits)
    place = replicated(plan.mesh)
    constants = run_constants(workdir, weights.step)
    whole = weights.variables | ({CONSTANT: constants} if constants else {})
    params, variables = jax.device_put((weights.params, whole), place)
    if anew:
        with contextlib.closing(training_batches(config, plan, 0, anew)) as batches:
            key = run_key(jax.random.key(config.seed))
            variables = plan.reestimate(params, variables, batches, key)
    return LoadedRun(config, plan, params, variables, known)


def load_start(config: Config, split: str | None = None) -> LoadedRun:
    """A run of a config before its first step: fresh weights, or those of `init_from`.

    Args:
        config: of the run.
        split: the only one to be opened besides 'train'; by default all are.
    """
    plan = assemble(config) if split is None else _opening(config, split)
    return LoadedRun(config, plan, *weights_of(config, plan, first_state(config, plan)))


def _opening(config: Config, split: str) -> Plan:
    config = dataclasses.replace(config, early_stopping=None)
    return assemble(config, open_splits(config, [*dict.fromkeys(("train", split))]))


def _recorded(config: Config, workdir: Path, names: Names) -> dict[str, Split] | None:
    """The splits that the manifest tells of; None where it tells nothing.

    Of an older run it tells no shapes: for these the smallest split is opened.
    """
    data, opened = read_manifest(workdir).get("data", {}), {}
    names = {"train": config.data.train} | {k: held.split for k, held in held_of(config).items()}
    roles = [role for role in names if role in data]
    known = any(data.get(key) for key in ("num_classes", "vocabulary", "targets"))
    if not (roles and known):
        return None
    if "elements" not in data:
        smallest = min(roles, key=data.get)
        opened = open_splits(config, (smallest,), data.get("num_classes"), names=names)
    elements = data.get("elements") or record(next(iter(opened.values())))
    text = (recorded_tokenizer(data), data.get("vocabulary"), data.get("targets"))
    about = (elements, data.get("class_names", ()), data.get("num_classes"), *text)
    return {r: recorded(names[r], data[r], *about) for r in roles} | opened


def _without_order(config: Config) -> Config:
    """The config of a run that does not train: no order of examples, no further streams."""
    data = dataclasses.replace(config.data, sampler=Data().sampler, streams={})
    return dataclasses.replace(config, data=data, early_stopping=None)


def _compare(config: Config, known: Mapping[str, Any], splits: Mapping[str, Split]) -> None:
    """Refuse other data than the run's; say on standard error what else has changed."""
    roles = [role for role in ("train", *own_source(config)) if role in splits]
    own = {role: splits[role] for role in roles if splits[role].readable}
    for line in compare(known, own, prepared(config)):
        print(line, file=sys.stderr)


def _assembled(config: Config, splits: dict[str, Split] | None, names: Names) -> Plan:
    """On the run's mesh, or on one device where this machine's do not make that mesh."""
    try:
        mesh = make_mesh(*(getattr(config.mesh, axis) for axis in AXES))
        check_batch(config, mesh)
    except UserError:
        kinds = (jax.sharding.AxisType.Auto,) * len(AXES)
        device = np.asarray(jax.devices()[:1]).reshape((1,) * len(AXES))
        mesh = jax.sharding.Mesh(device, AXES, axis_types=kinds)
    return assemble(config, splits, mesh, names)


def pooled_features(plan: Plan) -> Callable[[PyTree, PyTree, Batch], Array]:
    """A function (params, variables, batch) -> features, the input of the head, (b, d) float32.

    Maps and sequences are the mean over their places.
    """

    @functools.partial(jax.jit, out_shardings=replicated(plan.mesh))
    def pooled(params: PyTree, variables: PyTree, batch: Batch) -> Array:
        features = plan.objective.predict(params, variables, batch)["features"]
        if isinstance(features, tuple):
            raise UserError("this network's features are several maps, not one vector an example")
        return jnp.mean(features, axis=tuple(range(1, features.ndim - 1)))

    return pooled


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities (..., k) float32 of logits."""
    odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return odds / odds.sum(axis=-1, keepdims=True)
