"""Targets: what a split's arrays ask of a network, by the key of each in a batch."""

from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args

import numpy as np

from jaxdl.types import VOID

Kind = Literal["classes", "multilabel", "soft", "numbers", "mask", "tokens"]
KINDS: tuple[str, ...] = get_args(Kind)
INPUTS = ("image", "source", "mask", "index")
"""Keys of a batch that are not targets."""
SUM_TOLERANCE = 1e-3
"""Probabilities of classes add up to 1 to within this."""


class Target(NamedTuple):
    """One thing to learn of each example."""

    kind: Kind
    """A class; any number of classes; probabilities of classes; numbers; a class of each pixel;
    tokens"""
    size: int | None
    """Outputs of a head that learns it: classes, numbers, or the vocabulary. None: not known"""
    names: tuple[str, ...] = ()
    """Of the classes, or of the numbers"""

    def __str__(self) -> str:
        return f"{self.size or '?'} {WORDS[self.kind]}"


WORDS = {
    "classes": "classes",
    "multilabel": "classes, any number of which hold (multilabel)",
    "soft": "probabilities of classes (soft)",
    "numbers": "numbers",
    "mask": "classes of each pixel (mask)",
    "tokens": "tokens",
}


def infer(name: str, array: np.ndarray, whole: bool, num_classes: int | None) -> Target | None:
    """The target that an array of a split is, or None.

    An integer an example is a class, a map of integers (h, w) a mask; of rows (k,), integers 0 and
    1 are a multilabel, floats that add up to 1 soft, others numbers, as one float is.

    Args:
        name: key of a batch.
        array: (n, ...), all examples or some.
        whole: whether these are all: else classes cannot be counted.
        num_classes: of `label`, or of `tokens`, where they are known.
    """
    if name in INPUTS or array.ndim > 3:
        return None
    integer = array.dtype.kind in "iub"
    if name == "tokens":
        return Target("tokens", num_classes)
    if array.ndim == 2:
        return Target(_kind_of_rows(array, integer), array.shape[1])
    if not integer:
        return Target("numbers", 1) if array.ndim == 1 else None
    valid = array if array.ndim == 1 else array[array != VOID]
    if valid.size and valid.min() < 0:
        return Target("numbers", 1) if array.ndim == 1 else None
    known = num_classes if name == "label" else None
    counted = int(valid.max()) + 1 if whole and valid.size else None
    return Target("classes" if array.ndim == 1 else "mask", known or counted)


def _kind_of_rows(rows: np.ndarray, integer: bool) -> Kind:
    if integer:
        return "multilabel" if np.isin(rows, (0, 1)).all() else "numbers"
    is_soft = (rows >= 0).all() and np.allclose(rows.sum(axis=1), 1, atol=SUM_TOLERANCE)
    return "soft" if is_soft else "multilabel" if np.isin(rows, (0, 1)).all() else "numbers"


def targets_of(
    columns: Mapping[str, np.ndarray],
    whole: bool,
    declared: Mapping[str, Target],
    num_classes: int | None,
    vocabulary: int | None,
    class_names: tuple[str, ...],
) -> dict[str, Target]:
    """Every target of a split: those that its source declares, and what the other arrays are.

    Args:
        columns: arrays (n, ...), of all examples or of some.
        whole: whether of all.
        declared: by the source.
        num_classes: of `label`, where they are known.
        vocabulary: of `tokens`, where it is known.
        class_names: of the classes of `label`.
    """
    found: dict[str, Target] = {}
    for name, array in columns.items():
        size = vocabulary if name == "tokens" else num_classes
        target = declared.get(name) or infer(name, array, whole, size)
        if target is not None:
            usual = name == "label" and not target.names
            found[name] = target._replace(names=class_names) if usual else target
    return found
