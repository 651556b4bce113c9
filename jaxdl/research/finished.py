"""A finished model, measured or given away: `jaxdl evaluate` and `jaxdl export`."""

from pathlib import Path

import numpy as np

from jaxdl.assemble import Plan, assemble
from jaxdl.config import Config
from jaxdl.errors import UserError, choices
from jaxdl.hub.load import save
from jaxdl.session import final_state, first_state, weights_of, whole_split
from jaxdl.train.evaluate import make_evaluate
from jaxdl.types import PyTree


def weights(config: Config, workdir: Path | None = None) -> tuple[Plan, PyTree, PyTree]:
    """The plan of a config, and (params, variables): of a run, or those it would begin with.

    Args:
        config: of the run.
        workdir: its directory; the weights are those that it was judged by in the end.
    """
    plan = assemble(config)
    state = first_state(config, plan) if workdir is None else final_state(config, plan, workdir)
    return plan, *weights_of(config, plan, state)


def evaluate(config: Config, workdir: Path | None = None, role: str = "test") -> dict[str, float]:
    """Metric to value over one split: 'train', 'validation' or 'test'."""
    plan, params, variables = weights(config, workdir)
    if role not in plan.splits:
        raise UserError(f"the config has no split '{role}': {choices(role, plan.splits)}")
    measure = make_evaluate(plan.objective, plan.metrics, plan.mesh)
    found = measure(params, variables, whole_split(config, plan, role))
    return {name: float(value) for name, value in found.items() if np.ndim(value) == 0}


def export(workdir: Path, config: Config, file: Path, publisher: str | None = None) -> str:
    """Write a run's weights as safetensors under a publisher's names; returns the publisher."""
    _, params, variables = weights(config, workdir)
    return save(file, config.model.name, params, variables, publisher=publisher)
