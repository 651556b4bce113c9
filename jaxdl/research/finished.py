"""A finished model, measured or given away: `jaxdl evaluate` and `jaxdl export`."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from jaxdl.assemble import Plan, assemble, open_splits
from jaxdl.config import Config
from jaxdl.data.source import Source
from jaxdl.data.split import Split
from jaxdl.errors import UserError, choices
from jaxdl.hub.load import save
from jaxdl.metrics.base import by_name
from jaxdl.session import final_state, first_state, weights_of, whole_split
from jaxdl.train.evaluate import make_evaluate
from jaxdl.types import PyTree


def weights(
    config: Config, workdir: Path | None = None, role: str | None = None
) -> tuple[Plan, PyTree, PyTree]:
    """The plan of a config, and (params, variables): of a run, or those it would begin with.

    Args:
        config: of the run.
        workdir: its directory; the weights are those that it was judged by in the end.
        role: the one split that is wanted; by default all are opened.
    """
    # Early stopping asks for a validation split, and nothing is trained here.
    measured = dataclasses.replace(config, early_stopping=None) if role else config
    plan = assemble(measured, role and _opened(config, workdir, role))
    state = first_state(config, plan) if workdir is None else final_state(config, plan, workdir)
    return plan, *weights_of(config, plan, state)


def _opened(config: Config, workdir: Path | None, role: str) -> dict[str, Split]:
    """One split, and beside it what a run wrote down of the one that it trained on."""
    known = _manifest(workdir).get("data", {})
    if role == "train" or config.evaluation.norm_batches or not known.get("num_classes"):
        return open_splits(config, [*dict.fromkeys(("train", role))])
    opened = open_splits(config, (role,), num_classes=known["num_classes"])[role]
    # Of examples that nobody reads the number is enough: durations follow from it.
    unread = Source(range(known["train"]), opened.class_names, known["num_classes"])
    train = dataclasses.replace(opened, name=config.data.train, source=unread, arrays=None)
    return {"train": train, role: opened}


def _manifest(workdir: Path | None) -> dict[str, Any]:
    file = workdir and workdir / "manifest.json"
    return json.loads(file.read_text()) if file and file.is_file() else {}


def evaluate(
    config: Config, workdir: Path | None = None, role: str = "test"
) -> dict[str, float | np.ndarray]:
    """Metric to number or matrix over one split: 'train', 'validation' or 'test'.

    No other split of a run is opened, unless its weights need batches to train on.
    """
    roles = [r for r in ("train", "validation", "test") if getattr(config.data, r)]
    if role not in roles:
        raise UserError(f"the config has no split '{role}': {choices(role, roles)}")
    plan, params, variables = weights(config, workdir, role)
    measure = make_evaluate(plan.objective, plan.metrics, plan.mesh)
    found = measure(params, variables, whole_split(config, plan, role))
    numbers, matrices = by_name(found, plan.metrics, plan.classes(role))
    return numbers | matrices


def export(workdir: Path, config: Config, file: Path, publisher: str | None = None) -> str:
    """Write a run's weights as safetensors under a publisher's names; returns the publisher."""
    _, params, variables = weights(config, workdir)
    return save(file, config.model.name, params, variables, publisher=publisher)
