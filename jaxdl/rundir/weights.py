"""Weights of a run, from its directory alone: no data opened, no network built, nothing compiled.

A checkpoint's manifest names every leaf with its type, shape and digest, so the few that are
weights are read by name, whatever optimizer the rest belongs to.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorstore as ts

from jaxdl import judging
from jaxdl.aliases import STATE
from jaxdl.config import Config
from jaxdl.errors import UserError, choices
from jaxdl.optim import schedule_free
from jaxdl.rundir import integrity
from jaxdl.rundir.digest import digest_on_host
from jaxdl.rundir.journal import MetricLog
from jaxdl.rundir.read import kept_steps, read_config
from jaxdl.types import CONSTANT, PyTree


class RunWeights(NamedTuple):
    """Weights of a run at one of its checkpoints, as NumPy arrays."""

    config: Config
    """of the run"""
    step: int
    averaged: bool
    """True for an average of the weights, kept by the run or by its optimizer"""
    params: PyTree
    variables: PyTree
    """collections such as 'batch_stats'; an average's own where the run averages"""


def run_weights(workdir: Path, *choice: str) -> RunWeights:
    """The weights that a run is evaluated with, or others of its checkpoints.

    These are the best if early stopping restores them, else the newest; averaged
    where `evaluation.average` has them so. `evaluation.norm_batches` is left to whoever has the
    data: averaged statistics come as they are.

    Args:
        workdir: its directory.
        choice: 'latest', the newest in place of the best; 'raw', what the optimizer moves in place
            of an average; a number, the checkpoint of that step.

    Raises:
        UserError: it is not a run directory, has no such checkpoint, or a file is damaged.
    """
    folder = workdir / "checkpoints"
    # A population keeps checkpoints of its own, of all members at once.
    if members := sorted((workdir / "members").glob("*")):
        raise UserError(f"'{workdir}' is a population: name a member, such as '{members[0]}'")
    if not folder.is_dir():
        raise UserError(f"'{workdir}' has no checkpoints: is it a run directory?")
    config, steps = read_config(workdir), kept_steps(folder)
    if not steps:
        raise UserError(f"'{workdir}' has no finished checkpoint")
    number, best = None, True
    for word in choice:
        if word.isdecimal() and int(word) in steps:
            number = int(word)
        elif word == "latest":
            best = False
        elif word != "raw":
            valid = choices(word, ["latest", "raw", *map(str, steps)])
            raise UserError(f"'{workdir}' has no '@{word}': {valid}")
    if number is None and best:
        history = MetricLog(workdir, step=2**62, writes=False).series(config.evaluation.monitor)
        number = best_step(config, steps, history)
    if number is not None:
        return _at(folder, number, config, "raw" not in choice)
    return _newest(folder, steps, config, "raw" not in choice)


def run_constants(workdir: Path, step: int) -> dict[str, PyTree]:
    """Constants of a run by name, which no step moves; see `rundir.constants`.

    Args:
        workdir: its directory.
        step: of one of its checkpoints.

    Raises:
        UserError: it is missing or damaged.
    """
    digest = integrity.read(workdir / "checkpoints" / str(step), step).extra.get(CONSTANT)
    if digest is None:
        return {}
    folder = workdir / CONSTANT / digest
    if not folder.is_dir():
        raise UserError(f"{folder} is missing, which the run began with")
    return _nested(read_leaves(folder, integrity.read(folder, 0).digests))


def best_step(
    config: Config, kept: Iterable[int], history: Sequence[tuple[int, float]]
) -> int | None:
    """The step of the best weights; None unless early stopping restores them.

    Args:
        config: of the run.
        kept: steps that have a checkpoint.
        history: (step, value) of the monitored metric.
    """
    if not (config.early_stopping and config.early_stopping.restore_best):
        return None
    kept = set(kept)
    measured = [(s, v) for s, v in history if s in kept]
    position = judging.best([v for _, v in measured], config.evaluation.mode)
    return None if position is None else measured[position][0]


def read_leaves(folder: Path, names: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Leaves of a checkpoint on the host, by name, verified by their digests.

    Args:
        folder: of the checkpoint.
        names: of the leaves, to their digests.

    Raises:
        UserError: a leaf cannot be read, or is not what was saved.
    """
    context = ts.Context()  # one cache of the index for all of them
    try:
        stores = {name: ts.open(_store(folder, name), context=context) for name in names}
        reads = {name: store.result().read() for name, store in stores.items()}
        leaves = {name: np.asarray(read.result()) for name, read in reads.items()}
    except (ValueError, OSError, RuntimeError) as error:
        text = " ".join(str(error).split()).partition(" [source locations")[0]
        raise UserError(f"checkpoint {folder} cannot be read: {text[:200]}") from error
    for name, leaf in leaves.items():
        if digest_on_host(leaf) != names[name]:
            raise UserError(f"checkpoint {folder} is damaged: {name} differs from what was saved")
    return leaves


def _store(folder: Path, name: str) -> dict[str, Any]:
    base = f"file://{(folder / 'state').absolute()}/"
    path = f"{name.replace('/', '.')}/"
    return {"driver": "zarr", "kvstore": {"driver": "ocdbt", "base": base, "path": path}}


def _newest(folder: Path, steps: Sequence[int], config: Config, average: bool) -> RunWeights:
    """Weights of the newest intact checkpoint."""
    errors: list[UserError] = []
    for step in reversed(steps):
        try:
            weights = _at(folder, step, config, average)
        except UserError as error:
            errors.append(error)
            continue
        for damage in errors:
            warnings.warn(f"{damage}; using step {step} instead", stacklevel=3)
        return weights
    raise errors[0]


def _at(folder: Path, step: int, config: Config, average: bool) -> RunWeights:
    saved = folder / str(step)
    manifest = integrity.read(saved, step)
    if damaged := integrity.verify(saved, manifest):
        raise UserError(f"checkpoint {saved} is damaged: {damaged[0]}")
    digests = manifest.digests

    def below(prefix: str) -> set[str]:
        return {n for n in digests if n.startswith(f"{prefix}/")}

    # What each weight is made of: later entries win.
    origin = {STATE.get(n, n): n for n in below("params") | below("variables")}
    averages = average and config.evaluation.average and below("average")
    if averages:
        origin |= {n.removeprefix("average/"): n for n in averages if n not in STATE}
    iterates = {} if averages or not average else _iterates(digests)
    leaves: dict[str, Any] = read_leaves(
        saved, {n: digests[n] for n in {*origin.values(), *iterates, *iterates.values()}}
    )
    flat = {name: leaves[source] for name, source in origin.items()}
    for z, share in iterates.items():
        name = "params/" + z.partition("/z/")[2]
        y = flat[name].astype(np.float32)
        flat[name] = schedule_free.average(y, leaves[z], leaves[share]).astype(flat[name].dtype)
    nested = _nested(flat)
    return RunWeights(
        config,
        step,
        bool(averages or iterates),
        nested.get("params", {}),
        nested.get("variables", {}),
    )


def _iterates(names: Iterable[str]) -> dict[str, str]:
    """Leaves z of schedule-free optimizers, each with the leaf of its mixing fraction."""
    names = set(names)
    inside = {n: n.partition("/z/")[0] for n in names if n.startswith("opt_state/") and "/z/" in n}
    return {n: f"{at}/share" for n, at in inside.items() if f"{at}/share" in names}


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, leaf in flat.items():
        *path, last = name.split("/")
        node = tree
        for key in path:
            node = node.setdefault(key, {})
        node[last] = leaf
    return tree
