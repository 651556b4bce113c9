"""Sources of examples: records read by number, and the meaning of their labels."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from jaxdl.data.target import Target
from jaxdl.data.tokenizers import Tokenizer


class Records(Protocol):
    """Examples by number. A batched `__getitems__(indices)` is used where there is one."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Mapping[str, Any]: ...


@dataclasses.dataclass(frozen=True)
class Source:
    """One split of a data set.

    Attributes:
        records: record i is a dict of arrays and numbers, such as `image` (h, w, c) uint8 in
            [0, 255] and `label`, an integer in [0, num_classes), or a map (h, w) of such integers
            and `VOID`. Of a text, `tokens` (t,) signed integers in [0, vocabulary), 0 padding.
        class_names: the name of every class, or nothing.
        num_classes: where it is known; the number of class names if those are given.
        labels: gives the label of every record, (n,) integers, without decoding images; None where
            that is not possible. For subsets and samplers that read labels.
        tokenizer: of the tokens, if there are any and they are of a text.
        vocabulary: tokens there are, padding included; those of the tokenizer if it is given.
        targets: what arrays of a record ask of a network, by key, where that does not follow from
            their shapes and values; see `target.infer`.
        notes: lines for the user, such as how many texts were cut.
        left_out: what is not among the records though it looks like an example, by name, each with
            the reason.
        faults: what is wrong with the data as a whole, a line each; a run refuses them.
        holds_labels: `labels` has them at hand, and reads nothing for them.
        stored_names: of each target whose labels were mapped to the order of a run's classes, the
            names as the data orders them; see `class_order.in_order`.
    """

    records: Records
    class_names: tuple[str, ...] = ()
    num_classes: int | None = None
    labels: Callable[[], np.ndarray] | None = None
    tokenizer: Tokenizer | None = None
    vocabulary: int | None = None
    targets: Mapping[str, Target] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    left_out: Mapping[str, str] = dataclasses.field(default_factory=dict)
    faults: tuple[str, ...] = ()
    holds_labels: bool = False
    stored_names: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return self.records[index]

    def remarks(self) -> tuple[str, ...]:
        """Lines for the user: the notes, and the names that were left out."""
        if not self.left_out:
            return self.notes
        return (*self.notes, f"{len(self.left_out):,} left out: {listed(self.left_out)}")

    def name(self, index: int) -> str:
        """A record as its owner knows it: the file, where it is one, or its number."""
        name = getattr(self.records, "name", None)
        return name(index) if name else f"record {index}"

    def example(self, index: int) -> Mapping[str, Any]:
        """A record; one that cannot be read is refused for itself, without a look at the others."""
        example = getattr(self.records, "example", None)
        return example(index) if example else self.records[index]

    def read(self, indices: Sequence[int] | np.ndarray) -> list[Mapping[str, Any]]:
        """Several records, in one request where the records can answer one."""
        wanted = [int(i) for i in indices]
        batched = getattr(self.records, "__getitems__", None)
        return batched(wanted) if batched else [self.records[i] for i in wanted]

    def chosen(self, rows: np.ndarray) -> "Source":
        """The source of some of the records, in the order of their numbers `rows`."""
        labels = self.labels and (lambda: np.asarray(self.labels())[rows])
        return dataclasses.replace(self, records=_Chosen(self, rows), labels=labels)


def listed(reasons: Mapping[Any, str], most: int = 20) -> str:
    """Some names, each with its reason, and how many more there are."""
    shown = [f"{name} ({why})" for name, why in list(reasons.items())[:most]]
    return ", ".join(shown) + (f", and {len(reasons) - most:,} more" if len(reasons) > most else "")


@dataclasses.dataclass(frozen=True)
class _Chosen:
    """Some of a source's records."""

    source: Source
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return self.source[int(self.rows[index])]

    def name(self, index: int) -> str:
        """As the source has it."""
        return self.source.name(int(self.rows[index]))

    def example(self, index: int) -> Mapping[str, Any]:
        """As the source gives it."""
        return self.source.example(int(self.rows[index]))

    def __getitems__(self, indices: Sequence[int]) -> list[Mapping[str, Any]]:
        return self.source.read(self.rows[np.asarray(indices, np.int64)])
