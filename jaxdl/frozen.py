"""Frozen leaves: told at the start of a run, and compared bit for bit at its end."""

from collections.abc import Callable
from typing import Any

from jaxdl import tree
from jaxdl.assemble import frozen_norms_pattern
from jaxdl.config import Config
from jaxdl.errors import UserError
from jaxdl.nn.norm import frozen_norms
from jaxdl.rundir.digest import start
from jaxdl.train.state import TrainState
from jaxdl.types import PyTree

STATISTICS = "batch_stats"


def frozen_leaves(config: Config, state: TrainState) -> dict[str, Any]:
    """Path to leaf of what a run holds still: parameters, batch statistics, averages of both.

    Args:
        config: of the run.
        state: of the run, arrays or their shapes.
    """
    leaves = _of(config, state.params, state.variables)
    if state.average is not None:
        averages = _of(config, state.average["params"], state.average["variables"])
        leaves |= {f"average/{path}": leaf for path, leaf in averages.items()}
    return leaves


def _of(config: Config, params: PyTree, variables: PyTree) -> dict[str, Any]:
    statistics, pattern = variables.get(STATISTICS, {}), frozen_norms_pattern(config)
    norms = set() if pattern is None else frozen_norms(params, statistics, pattern)
    masks = {} if config.freeze is None else tree.flatten(tree.select(params, config.freeze))
    leaves = {path: leaf for path, leaf in tree.flatten(params).items() if masks.get(path)}
    for path, leaf in tree.flatten(statistics).items():
        if path.rpartition("/")[0] in norms:
            leaves[f"{STATISTICS}/{path}"] = leaf
    return leaves


def in_words(config: Config, state: TrainState) -> str | None:
    """Numbers of frozen parameters and statistics, as in '12 parameters, 6 statistics'."""
    paths = [p for p in frozen_leaves(config, state) if not p.startswith("average/")]
    statistics = sum(path.startswith(f"{STATISTICS}/") for path in paths)
    if not paths:
        return None
    return f"{len(paths) - statistics} parameters, {statistics} statistics"


def unmoved(config: Config, state: TrainState) -> Callable[[TrainState], None]:
    """Take digests of the frozen leaves; returns a function that compares those of a later state.

    That function raises a `UserError` that names the leaves which differ.
    """
    leaves = frozen_leaves(config, state)
    if not leaves:
        return lambda later: None
    before = start(leaves)  # the state is donated to the next step

    def compare(later: TrainState) -> None:
        old, new = before(), start(frozen_leaves(config, later))()
        moved = [path for path in old if old[path] != new[path]]
        if moved:
            raise UserError(
                f"{len(moved)} frozen leaves have changed, such as {', '.join(moved[:3])}: an "
                "optimizer, a wrapper or an objective of your own changes them"
            )

    return compare
