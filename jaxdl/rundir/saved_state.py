"""Fields of a state in a checkpoint, without constants; older checkpoints have older paths."""

import dataclasses
from collections.abc import Collection

from flax.traverse_util import flatten_dict, unflatten_dict

from jaxdl.aliases import STATE
from jaxdl.train.state import TrainState
from jaxdl.types import CONSTANT, PyTree

FIELDS = ("variables", "average")
"""Fields of a state in which paths have changed."""


def saved_fields(state: TrainState) -> dict[str, PyTree]:
    """The fields of a state that a checkpoint holds."""
    names = (field.name for field in dataclasses.fields(state))
    return {name: getattr(state, name) for name in names if name != CONSTANT}


def as_saved(fields: dict[str, PyTree], saved: Collection[str]) -> dict[str, PyTree]:
    """The shapes of a state of today, under the paths of a checkpoint.

    Args:
        fields: of shapes.
        saved: names of the leaves that the checkpoint holds.
    """
    old = {path: new for path, new in STATE.items() if path in saved}
    if not old:
        return fields
    leaves = _flat(fields)
    kept = {path: x for path, x in leaves.items() if path in saved or path not in old.values()}
    moved = {path: leaves[new] for path, new in old.items() if new in leaves}
    return fields | _nested(kept | moved)


def as_today(fields: dict[str, PyTree], like: dict[str, PyTree]) -> dict[str, PyTree]:
    """Restored fields, under the paths of `like`."""
    leaves, wanted = _flat(fields), _flat(like)
    if leaves.keys() == wanted.keys():
        return fields
    moved = {STATE[path]: leaves[path] for path in STATE if path in leaves}
    return fields | _nested({path: (leaves | moved)[path] for path in wanted})


def _flat(fields: dict[str, PyTree]) -> dict[str, PyTree]:
    changed = {name: fields[name] for name in FIELDS}
    flat: dict[str, PyTree] = flatten_dict(changed, keep_empty_nodes=True, sep="/")
    return flat


def _nested(leaves: dict[str, PyTree]) -> dict[str, PyTree]:
    fields: dict[str, PyTree] = unflatten_dict(leaves, sep="/")
    return fields
