"""Notices at the start of a run: options that change nothing in it, and data that has changed."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdl import tree
from jaxdl.assemble import Plan
from jaxdl.checks import unread_streams
from jaxdl.config import Config
from jaxdl.data.identity import compare, own_source, prepared
from jaxdl.data.split import Split
from jaxdl.rundir.read import kept_steps, read_manifest
from jaxdl.train.state import TrainState
from jaxdl.types import VOID, Array, Batch, PyTree


def notices(config: Config, plan: Plan, state: TrainState) -> list[str]:
    """Options that have no effect, a line for each with the reason.

    Args:
        config: of the run.
        plan: made of it.
        state: of the run, arrays or their shapes.
    """
    lines = [
        f"stream '{name}' changes nothing: no objective or regularizer names it"
        for name in unread_streams(config)
    ]
    if config.mesh.tensor > 1 and not _is_split(state.params.get("backbone", state.params)):
        lines.append(
            f"config.mesh.tensor splits no layer of the backbone of model '{config.model.name}': "
            "the devices of a group repeat its work"
        )
    size, examples = config.data.batch_size, len(plan.splits["train"])
    if size > examples:
        lines.append(
            f"config.data.batch_size {size:,} is more than the {examples:,} training examples: "
            "a batch repeats them"
        )
    for name, split in plan.splits.items():
        lines += _of_images(name, split)
    lines += _of_labels(plan.splits["train"])
    for option, why in (*_of_config(config), *_of_network(config, plan, state)):
        lines.append(f"config.{option} changes nothing: {why}")
    return lines


def _of_images(name: str, split: Split) -> Iterator[str]:
    """Images in memory with a value that is not finite."""
    image = (split.arrays or {}).get("image")
    if image is None or not np.issubdtype(image.dtype, np.floating):
        return
    broken = np.flatnonzero(~np.isfinite(image).reshape(len(image), -1).all(axis=1))
    if broken.size:
        number = int(split.numbers(broken[:1])[0])
        yield (
            f"{broken.size:,} of {len(image):,} images of split '{name}' hold NaN or infinity, the "
            f"first is record {number}: a loss of them is not finite"
        )


def _of_labels(train: Split) -> Iterator[str]:
    """Classes without an example, of labels that are there without decoding images."""
    label = (train.arrays or {}).get("label")
    if train.num_classes is None or label is None or label.dtype != np.int32 or label.ndim == 2:
        return
    values, is_map = label.ravel(), label.ndim > 1
    counts = np.bincount(values[values != VOID] if is_map else values, minlength=train.num_classes)
    missing, unit = np.flatnonzero(counts == 0), "pixels" if is_map else "examples"
    names = train.class_names or range(len(counts))
    if len(missing) == len(counts) - 1:
        yield f"all training {unit} are of class {names[counts.argmax()]}: nothing is to be learned"
    elif len(missing):
        shown = ", ".join(str(names[i]) for i in missing[:5]) + (
            ", ..." if len(missing) > 5 else ""
        )
        hint = "; labels count from 0" if not train.class_names else ""
        yield f"{len(missing)} of {len(counts)} classes have no training {unit}: {shown}{hint}"


def _of_config(config: Config) -> Iterator[tuple[str, str]]:
    evaluation, gradient = config.evaluation, config.gradient
    if evaluation.norm_batches and config.average is None:
        yield "evaluation.norm_batches", "config.average keeps no averaged weights"
    elif evaluation.norm_batches and not evaluation.average:
        yield "evaluation.norm_batches", "config.evaluation.average is false"
    if not config.freeze_statistics and config.freeze is None:
        yield "freeze_statistics", "config.freeze is not set"
    if config.average is not None and not evaluation.average:
        yield "average", "config.evaluation.average is false; the averaged weights are only saved"
    if gradient.rollback and not gradient.skip_nonfinite:
        yield "gradient.rollback", "config.gradient.skip_nonfinite is false, so nothing is counted"
    if config.layer_decay == 1:
        yield "layer_decay", "1 is the factor of every layer"
    for pattern, factor in config.lr_multipliers.items():
        if factor == 1:
            yield f"lr_multipliers['{pattern}']", "its factor is 1"


def _of_network(config: Config, plan: Plan, state: TrainState) -> Iterator[tuple[str, str]]:
    has_statistics = "batch_stats" in state.variables
    if not has_statistics:
        why = f"model '{config.model.name}' has no batch norms"
        if config.freeze_norms:
            yield "freeze_norms", why
        if not config.sync_norms:
            yield "sync_norms", why
        if config.evaluation.norm_batches and config.average and config.evaluation.average:
            yield "evaluation.norm_batches", why
    if config.freeze:
        frozen = tree.select(state.params, config.freeze)
        for pattern in config.lr_multipliers:
            of_pattern = tree.select(state.params, pattern)
            pairs = zip(*map(jax.tree.leaves, (frozen, of_pattern)), strict=True)
            if all(is_frozen for is_frozen, is_its in pairs if is_its):
                yield f"lr_multipliers['{pattern}']", "config.freeze holds all that it matches"
    samples = [p.name for p in config.evaluation.predictors if p.name == "mc_dropout"]
    if (config.dropout or samples) and not draws(plan):
        why = f"nothing drops in model '{config.model.name}' as it is: see its arguments"
        if config.dropout:
            yield "dropout", why
        if samples:
            yield "evaluation.predictors: 'mc_dropout'", why


def _is_split(params: PyTree) -> bool:
    specs = [getattr(leaf.sharding, "spec", ()) for leaf in jax.tree.leaves(params)]
    axes = [axis for spec in specs for axis in spec if axis]
    return any("tensor" in (axis if isinstance(axis, tuple) else (axis,)) for axis in axes)


def draws(plan: Plan) -> bool:
    """True if a prediction with a key depends on it: something in the network drops."""
    state = plan.abstract_state(0)
    key = jax.eval_shape(lambda: jax.random.key(0))

    def predict(params: PyTree, variables: PyTree, batch: Batch, key: Array) -> dict[str, Array]:
        return plan.model.predict(params, variables, plan.prepare(batch), key)

    jaxpr = jax.make_jaxpr(predict)(state.params, state.variables, plan.batch_spec(2), key).jaxpr
    drawn_from = jaxpr.invars[-1]
    return any(drawn_from in equation.invars for equation in jaxpr.eqns)


def trained_data(workdir: Path, first_member: Path | None = None) -> dict[str, Any]:
    """The section `data` of the manifest of a run that goes on; empty for one that begins.

    Args:
        workdir: of the run.
        first_member: directory of a population's first member, which has it where an older
            population has not.
    """
    if not kept_steps(workdir / "checkpoints"):
        return {}
    data = read_manifest(workdir).get("data")
    if not data and first_member:
        data = read_manifest(first_member).get("data")
    return data or {}


def data_changes(config: Config, plan: Plan, then: Mapping[str, Any]) -> list[str]:
    """Lines on data that differs from those of the run's last start; refused if it does harm."""
    splits = {name: plan.splits[name] for name in ("train", *own_source(config))}
    return compare(then, splits, prepared(config)) if then else []
