"""What a run has reached: arrays of its newest checkpoints, and numbers of its metrics.jsonl.

Files are read as they are, without the program's code, so that old and new code are judged alike.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp

KEPT = ("params", "variables", "average")
"""Entries of a state that are compared."""
TIMED = ("images_per_second", "data_wait")
"""Ends of the keys whose numbers differ each time."""


def arrays_of(workdir: Path) -> dict[str, np.ndarray]:
    """Path to array, float32, of a run's newest checkpoint; of members as MEMBER:PATH."""
    arrays = {}
    for prefix, folder in _runs(workdir):
        checkpoints = [f for f in (folder / "checkpoints").iterdir() if f.name.isdecimal()]
        newest = max(checkpoints, key=lambda f: int(f.name))
        with ocp.StandardCheckpointer() as checkpointer:
            state = checkpointer.restore(newest.absolute() / "state")
        leaves = _flattened({name: state[name] for name in KEPT})
        arrays |= {prefix + path: np.asarray(leaf, np.float32) for path, leaf in leaves}
    return arrays


def values_of(workdir: Path) -> dict[str, float]:
    """Key to the last value that was measured; of members as MEMBER:KEY."""
    values: dict[str, float] = {}
    for prefix, folder in _runs(workdir):
        for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()):
            values |= {prefix + k: v for k, v in line.items() if not k.endswith(TIMED)}
    return values


def _runs(workdir: Path) -> list[tuple[str, Path]]:
    """(prefix, directory) of the run, or of each member of a population."""
    members = sorted((workdir / "members").glob("*"))
    return [(f"{member.name}:", member) for member in members] or [("", workdir)]


def _flattened(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping):
        for name, value in tree.items():
            yield from _flattened(value, f"{path}/{name}" if path else name)
    elif tree is not None:
        yield path, tree
