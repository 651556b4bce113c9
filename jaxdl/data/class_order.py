"""Labels in the order of classes that a run was trained with, where their source has another."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxdl.data.arrays import Columns
from jaxdl.data.source import Source

Names = Mapping[str, Sequence[str]]
"""Key of a target to the names of its classes or columns, in their order."""


def in_order(source: Source, names: Names) -> Source:
    """The source, with labels that are numbered as a run has them.

    A target is mapped where its names are those of the run in another order: a class number an
    example, and a row of as many numbers as there are names. Masks and tokens stay as they are.

    Args:
        source: not empty.
        names: of the run.
    """
    stored = {"label": source.class_names}
    stored |= {key: target.names for key, target in source.targets.items() if target.names}
    permuted = [key for key in stored if key in names and _is_permuted(stored[key], names[key])]
    first = source[0] if permuted else {}
    maps = {
        key: label_map
        for key in permuted
        if key in first and (label_map := _label_map(first[key], stored[key], names[key]))
    }
    if not maps:
        return source
    in_columns = isinstance(source.records, Columns)
    records = _mapped(source.records.arrays, maps) if in_columns else _Mapped(source, maps)
    targets = {
        key: target._replace(names=tuple(names[key])) if key in maps and target.names else target
        for key, target in source.targets.items()
    }
    of_label, labels = maps.get("label"), source.labels
    own = of_label and source.class_names
    return dataclasses.replace(
        source,
        records=Columns(records) if in_columns else records,
        class_names=tuple(names["label"]) if own else source.class_names,
        labels=(lambda: of_label(labels())) if of_label and labels else labels,
        targets=targets,
        stored_names={key: tuple(stored[key]) for key in maps},
    )


def _is_permuted(stored: Sequence[str], names: Sequence[str]) -> bool:
    """True for the same names, each there once, in another order."""
    same = sorted(stored) == sorted(names) and len(set(stored)) == len(stored)
    return same and tuple(stored) != tuple(names)


def _label_map(
    label: Any, stored: Sequence[str], names: Sequence[str]
) -> Callable[[Any], np.ndarray] | None:
    """A function of labels, one or many, to those of the run; None where there is none."""
    label = np.asarray(label)
    if label.shape == (len(stored),):
        columns = np.array([stored.index(name) for name in names])
        return lambda rows: np.asarray(rows)[..., columns]
    if label.shape or label.dtype.kind not in "iu":
        return None
    numbers = np.array([names.index(name) for name in stored])

    def renumbered(stored_labels: Any) -> np.ndarray:
        labels = np.asarray(stored_labels)
        # Others stay as they are, and are refused with all others that are no class.
        are_classes = (labels >= 0) & (labels < len(numbers))
        found = numbers[np.where(are_classes, labels, 0).astype(np.int64)]
        return np.where(are_classes, found.astype(labels.dtype), labels)

    return renumbered


def _mapped(
    arrays: Mapping[str, Any], maps: Mapping[str, Callable[[Any], np.ndarray]]
) -> dict[str, Any]:
    return {key: maps[key](array) if key in maps else array for key, array in arrays.items()}


@dataclasses.dataclass(frozen=True)
class _Mapped:
    """The records of a source, with labels that are mapped as they are read."""

    source: Source
    maps: Mapping[str, Callable[[Any], np.ndarray]]

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return _mapped(self.source[index], self.maps)

    def name(self, index: int) -> str:
        """As the source has it."""
        return self.source.name(index)

    def example(self, index: int) -> Mapping[str, Any]:
        """As the source gives it, but for its labels."""
        return _mapped(self.source.example(index), self.maps)

    def __getitems__(self, indices: Sequence[int]) -> list[Mapping[str, Any]]:
        return [_mapped(record, self.maps) for record in self.source.read(indices)]
