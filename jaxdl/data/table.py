"""A table of examples: a CSV file with a column of image paths or of text, and of labels."""

import csv as comma_separated
import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from jaxdl.config import Count
from jaxdl.data.arrays import from_arrays
from jaxdl.data.folder import ImageFiles
from jaxdl.data.images import Side, unreadable
from jaxdl.data.sampler import permutation, words
from jaxdl.data.source import Source
from jaxdl.data.split_spec import names, select
from jaxdl.data.target import SUM_TOLERANCE, Target
from jaxdl.data.tokenizers import Tokenize, byte_tokenizer, learnt
from jaxdl.errors import UserError, choices
from jaxdl.registry import register
from jaxdl.types import PADDING

Kind = Literal["classes", "multilabel", "soft", "numbers"]
_SEED = 0
_SPLIT_NAMES = {"val": "validation", "valid": "validation", "training": "train"}
_MOST = 5  # culprits that a message lists


@dataclasses.dataclass(frozen=True)
class Table:
    """The cells of a CSV file by column, each a text without blanks around it."""

    path: Path
    columns: Mapping[str, Sequence[str]]
    lines: Sequence[int]
    """Of the file, where each row ends, counted from 1"""

    def column(self, name: str) -> Sequence[str]:
        """The cells of a column, none of them empty.

        Raises:
            UserError: the table has no such column, or some of its cells are empty.
        """
        if name not in self.columns:
            raise UserError(f"{self.path} has no column '{name}': {choices(name, self.columns)}")
        cells = self.columns[name]
        empty = [line for cell, line in zip(cells, self.lines, strict=True) if not cell]
        if empty:
            raise UserError(f"{self.path}: column '{name}' is empty in {_places(empty)}")
        return cells

    def numbers(self, name: str) -> np.ndarray:
        """A column as finite numbers, (n,) float64.

        Raises:
            UserError: a cell holds something else.
        """
        values = [_number(cell) for cell in self.column(name)]
        wrong = [i for i, value in enumerate(values) if value is None]
        if wrong:
            cell, line = self.columns[name][wrong[0]], self.lines[wrong[0]]
            raise UserError(
                f"{self.path}, line {line}: '{name}' is '{cell[:40]}', and a number is expected"
            )
        return np.array(values, np.float64)


@register("sources")
def csv(
    split: str,
    /,
    *,
    path: str,
    label: str | tuple[str, ...] = "label",
    kind: Kind | None = None,
    image: str | None = None,
    text: str | None = None,
    split_column: str = "split",
    delimiter: str = ",",
    image_size: Side | None = None,
    channels: Literal[1, 3, 4] = 3,
    on_error: Literal["refuse", "skip"] = "refuse",
    length: Count = 128,
    tokenizer: Tokenize = byte_tokenizer,
) -> Source:
    """Rows of a CSV file, whose first line names the columns: image files or texts, with labels.

    The splits are those that the column `split` names (val is validation); without that column the
    one split is `all`, to be sliced: `all[:80%]`, `all[80%:]`. The rows of a split stand in an
    order that is drawn once, the same for the same file, in which each slice holds its share of
    every class.

    One label column of words or whole numbers holds classes, numbered in their order; one of other
    numbers is a number to learn. Several columns of 0 and 1 are a multilabel, of numbers from 0
    that add up to 1 probabilities of classes, of others numbers. `kind` says what does not follow.

    Args:
        split: see above.
        path: the file, UTF-8.
        label: the column of the labels, or several.
        kind: of the target, such as 'numbers' for an age in whole years.
        image: the column of image files, relative to the folder of the table; by default 'image'.
        text: or the column of texts, which become `tokens`; by default 'text'.
        split_column: the column of the splits.
        delimiter: between two cells.
        image_size: of images, as in `folder`.
        channels: of images, as in `folder`.
        on_error: of images, as in `folder`.
        length: tokens of a text: longer ones are cut, and counted.
        tokenizer: of the texts; what it learns, it learns from the rows of split 'train'.
    """
    table = read_table(Path(path), delimiter)
    target, values = _target(table, (label,) if isinstance(label, str) else label, kind)
    groups = _splits(table, split_column)
    order = {name: rows[_order(values[rows], target.kind)] for name, rows in groups.items()}
    rows = select(split, {n: r if n in names(split) else r[:0] for n, r in order.items()})
    column, is_text = _input(table, image, text)
    if is_text:
        texts = table.column(column)
        made = learnt(tokenizer, _TrainingTexts(table, column, split_column))
        tokens, cut = _tokens([made.encode(texts[i]) for i in rows], length)
        source = from_arrays({"tokens": tokens, "label": values[rows]}, tokenizer=made)
        notes = (f"{cut:,} of {len(rows):,} texts cut to {length} tokens",) if cut else ()
        source = dataclasses.replace(source, notes=notes)
    else:
        files = [table.path.parent / cell for cell in table.column(column)]
        damaged = unreadable([files[i] for i in rows], channels) if on_error == "skip" else {}
        rows = np.array([i for i in rows if files[i] not in damaged], np.int64)
        source = Source(
            ImageFiles([files[i] for i in rows], values[rows], image_size, channels),
            left_out={str(file): why for file, why in damaged.items()},
            faults=_missing(table, column, files, rows),
        )
    if target.kind != "classes":
        return dataclasses.replace(source, targets={"label": target}, labels=None)
    labels = {"labels": lambda: values[rows], "holds_labels": True}
    return dataclasses.replace(source, class_names=target.names, **labels)


def read_table(path: Path, delimiter: str = ",") -> Table:
    """A CSV file as a table.

    Raises:
        UserError: not readable, no rows, a column named twice, a row of another length.
    """
    if len(delimiter) != 1:
        raise UserError(f"the delimiter of a table is one character, not '{delimiter}'")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = comma_separated.reader(file, delimiter=delimiter)
            rows = [([c.strip() for c in r], reader.line_num) for r in reader if any(r)]
    except (OSError, UnicodeDecodeError, comma_separated.Error, TypeError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"cannot read the table {path}: {why}") from error
    if len(rows) < 2:
        raise UserError(f"{path} has no rows: expected a line of names of columns, and examples")
    (header, _), *rows = rows
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise UserError(f"{path} names column '{twice[0]}' twice")
    if len(header) == 1 and (other := next((d for d in ";\t|" if d in header[0]), "")):
        raise UserError(f"{path} has one column '{header[0][:40]}': is its delimiter {other!r}?")
    for cells, line in rows:
        if len(cells) != len(header):
            raise UserError(
                f"{path}, line {line}: {len(cells)} cells, and the first line names {len(header)}"
            )
    columns = dict(zip(header, zip(*(cells for cells, _ in rows), strict=True), strict=True))
    return Table(path, columns, [line for _, line in rows])


def _number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _places(lines: Sequence[int]) -> str:
    more = f", and {len(lines) - _MOST} more" if len(lines) > _MOST else ""
    return f"line {', '.join(map(str, lines[:_MOST]))}{more}"


def _input(table: Table, image: str | None, text: str | None) -> tuple[str, bool]:
    """The column of the inputs, and whether they are texts."""
    if image and text:
        raise UserError("source 'csv' reads a column of images or of text, not both")
    if image or text:
        return image or text or "", not image
    usual = [name for name in ("image", "text") if name in table.columns]
    if len(usual) != 1:
        columns = ", ".join(table.columns)
        raise UserError(
            f"{table.path} has the columns {columns}: say which holds the inputs, image=COLUMN "
            "(of files) or text=COLUMN"
        )
    return usual[0], usual == ["text"]


def _target(table: Table, label: tuple[str, ...], kind: Kind | None) -> tuple[Target, np.ndarray]:
    """The target that the label columns hold, and its values, (n,) or (n, k), of all rows."""
    if not label or len(set(label)) != len(label):
        raise UserError(f"source 'csv': label={list(label)} must name columns, each once")
    if len(label) == 1 and kind in (None, "classes", "numbers"):
        return _single(table, label[0], kind)
    values = np.stack([table.numbers(name) for name in label], axis=1)
    is_binary = np.isin(values, (0, 1)).all(axis=1)
    is_soft = (values >= 0).all(axis=1) & np.isclose(values.sum(axis=1), 1, atol=SUM_TOLERANCE)
    if kind is None:
        kind = "multilabel" if is_binary.all() else "soft" if is_soft.all() else "numbers"
    rule = {
        "multilabel": (is_binary, "0 or 1"),
        "soft": (is_soft, "probabilities, which add up to 1"),
        "numbers": (np.ones(len(values), bool), ""),
        "classes": (np.zeros(len(values), bool), "classes, which stand in one column"),
    }
    holds, expected = rule[kind]
    if not holds.all():
        first = int(np.argmin(holds))
        cells = ", ".join(f"{x:g}" for x in values[first])
        raise UserError(
            f"{table.path}, line {table.lines[first]}: the labels are {cells}, and kind={kind} "
            f"expects {expected}"
        )
    dtype = np.int32 if kind == "multilabel" else np.float32
    return Target(kind, len(label), label), values.astype(dtype)


def _single(table: Table, name: str, kind: Kind | None) -> tuple[Target, np.ndarray]:
    """One column: classes, or a number."""
    cells = table.column(name)
    numbers = [_number(cell) for cell in cells]
    are_numbers = all(x is not None for x in numbers)
    are_whole = are_numbers and all(x is not None and x.is_integer() for x in numbers)
    if kind == "numbers" or (kind is None and are_numbers and not are_whole):
        return Target("numbers", 1, (name,)), table.numbers(name).astype(np.float32)
    # '01' and '1' are two classes to nobody
    keys = [f"{int(float(cell))}" for cell in cells] if are_whole else list(cells)
    class_names = sorted(set(keys), key=int) if are_whole else sorted(set(keys))
    number = {key: i for i, key in enumerate(class_names)}
    values = np.array([number[key] for key in keys], np.int32)
    return Target("classes", len(class_names), tuple(class_names)), values


def _splits(table: Table, column: str) -> dict[str, np.ndarray]:
    """The rows of every split, (n,) ascending."""
    if column not in table.columns:
        if column != "split":
            hint = choices(column, table.columns)
            raise UserError(f"{table.path} has no column '{column}' of splits: {hint}")
        return {"all": np.arange(len(table.lines))}
    cells = [_SPLIT_NAMES.get(cell.lower(), cell) for cell in table.column(column)]
    return {name: np.flatnonzero([c == name for c in cells]) for name in dict.fromkeys(cells)}


def _order(values: np.ndarray, kind: str) -> np.ndarray:
    """A permutation, (n,); of classes (n,) one that spreads each evenly.

    The i-th of the n_k examples of class k stands at (i + u_k) / n_k, u_k uniform in [0, 1).
    """
    order = permutation(len(values), _SEED)
    if kind != "classes":
        return order
    place = np.empty(len(values))
    for k in np.unique(values):
        members = np.flatnonzero(values[order] == k)
        offset = float(words(1, _SEED, int(k))[0]) / 2**64
        place[members] = (np.arange(len(members)) + offset) / len(members)
    return order[np.argsort(place, kind="stable")]


class _TrainingTexts:
    """Gives the texts of split 'train'; equal ones are one to a cache."""

    def __init__(self, table: Table, column: str, split_column: str):
        self._table, self._column, self._split = table, column, split_column
        self._key = (str(table.path.resolve()), column, split_column, table.column(column))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _TrainingTexts) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __call__(self) -> list[str]:
        groups = _splits(self._table, self._split)
        if "train" not in groups:
            raise UserError(
                f"{self._table.path}: a tokenizer that learns reads split 'train', and the table "
                f"has {', '.join(groups)}: add a column 'split', or use tokenizer=bytes"
            )
        texts = self._table.column(self._column)
        return [texts[i] for i in groups["train"]]


def _tokens(encoded: Sequence[np.ndarray], length: int) -> tuple[np.ndarray, int]:
    """(n, length) int32, padded, and how many texts were cut."""
    tokens = np.full((len(encoded), length), PADDING, np.int32)
    for row, text in zip(tokens, encoded, strict=True):
        row[: len(text)] = text[:length]
    return tokens, sum(len(text) > length for text in encoded)


def _missing(table: Table, column: str, files: Sequence[Path], rows: np.ndarray) -> tuple[str, ...]:
    """In one line, the files that are not there."""
    missing = [i for i in sorted(rows) if not files[i].is_file()]
    if not missing:
        return ()
    shown = ", ".join(f"{files[i]} (line {table.lines[i]})" for i in missing[:_MOST])
    more = f", and {len(missing) - _MOST} more" if len(missing) > _MOST else ""
    return (
        f"{len(missing)} of {len(rows):,} files in column '{column}' of {table.path} "
        f"are missing: {shown}{more}",
    )
