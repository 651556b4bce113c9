"""Arrays that are already there: in memory, or in .npz files."""

import dataclasses
import math
import os
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxdl.data.source import Source
from jaxdl.data.split_spec import names, resolve
from jaxdl.data.target import Target
from jaxdl.data.tokenizers import Tokenizer
from jaxdl.errors import UserError
from jaxdl.registry import register
from jaxdl.untrusted import BROKEN_ARRAY

_FEATURES = {"images": "image", "labels": "label", "x": "image", "y": "label"}
"""Key of an array in other conventions to the key of a batch."""


@dataclasses.dataclass(frozen=True)
class Columns:
    """Records that are rows of arrays."""

    arrays: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {name: array[index] for name, array in self.arrays.items()}


def check_room(what: str, *shape: int) -> None:
    """Refuse to make more bytes at once than this machine has memory."""
    asked, there = math.prod(shape), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if asked > there:
        raise UserError(
            f"{what} would take {asked / 2**30:.3g} GiB, and this machine has {there / 2**30:.3g}"
        )


def from_arrays(
    arrays: Mapping[str, np.ndarray],
    class_names: tuple[str, ...] = (),
    num_classes: int | None = None,
    *,
    tokenizer: Tokenizer | None = None,
    vocabulary: int | None = None,
    targets: Mapping[str, Target] | None = None,
) -> Source:
    """A source of arrays that share their first axis, such as `image` (n, h, w, c), `label` (n,).

    Args:
        arrays: by key of a batch.
        class_names: of the labels.
        num_classes: of the labels.
        tokenizer: of `tokens`, if they are of a text.
        vocabulary: of `tokens` without a tokenizer.

    Raises:
        UserError: no arrays, or arrays of different lengths.
    """
    columns = {name: np.asarray(array) for name, array in arrays.items()}
    lengths = {name: len(a) if a.ndim else 0 for name, a in columns.items()}
    if not columns:
        raise UserError("a source of arrays holds no array: expected e.g. 'image' and 'label'")
    if len(set(lengths.values())) > 1:
        raise UserError(f"arrays of one split differ in length: {lengths}")
    labels = (lambda: columns["label"]) if "label" in columns else None
    about = (tokenizer, vocabulary, targets or {})
    known = (tuple(class_names), num_classes, labels, *about)
    return Source(Columns(columns), *known, holds_labels=True)


@register("sources")
def npz(split: str, /, *, path: str) -> Source:
    """Arrays saved by `numpy.savez`.

    `path` is a directory of `<split>.npz` with arrays `image`, `label` and so on; or one file with
    arrays `train_image`, `train_label`, `test_image`...; or one file with `image`, `label`, whose
    one split is `all`. An array `class_names` in a file names the classes. The keys of Keras
    (`x_train`, `y_train`, ...) and MedMNIST (`train_images`, `train_labels`, `val_images`, ...) are
    read as these; so are `images`, `labels`, `x` and `y`.
    """
    location = Path(path)
    files = sorted(location.glob("*.npz")) if location.is_dir() else [location]
    if not files or not files[0].is_file():
        raise UserError(f"no .npz file at '{path}'")
    places = _by_split(files, named_by_file=location.is_dir())
    tables = {name: _load(places[name]) for name in names(split) if name in places}
    lengths = {name: len(from_arrays(table)) for name, table in tables.items()}
    terms = resolve(split, dict.fromkeys(places, 0) | lengths)
    if len({tuple(sorted(tables[name])) for name, *_ in terms}) > 1:
        raise UserError(f"split '{split}' of '{path}' joins splits that hold different arrays")
    parts = [{k: a[i:j] for k, a in tables[name].items()} for name, i, j in terms]
    try:
        columns = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    except ValueError as error:
        raise UserError(f"split '{split}' of '{path}' joins arrays that differ: {error}") from error
    return from_arrays(columns, _class_names(files))


def _class_names(files: Sequence[Path]) -> tuple[str, ...]:
    """The classes' names, which all files that have them must have in the same order."""
    tables: dict[Path, tuple[str, ...]] = {}
    for file in files:
        if "class_names" in _keys(file):
            names = _read(file, "class_names")
            if names.ndim != 1 or not len(names):
                raise UserError(
                    f"{file}: 'class_names' has shape {names.shape}; it must be a list of names"
                )
            tables[file] = tuple(map(str, names))
    for file, table in tables.items():
        first = next(iter(tables))
        if table != tables[first]:
            raise UserError(
                f"{file}: its classes are {', '.join(table[:5])}; those of {first} are "
                f"{', '.join(tables[first][:5])}"
            )
    return next(iter(tables.values()), ())


def _by_split(files: list[Path], named_by_file: bool) -> dict[str, dict[str, tuple[Path, str]]]:
    """Split name to feature name to the file and the key that hold it."""
    places: dict[str, dict[str, tuple[Path, str]]] = {}
    for file in files:
        keys = [key for key in _keys(file) if key != "class_names"]
        prefixed = any(key.startswith("train_") for key in keys)
        for key in keys:
            if keras := re.fullmatch("([xy])_(train|valid|validation|val|test)", key):
                feature, name = keras.groups()
            elif named_by_file:
                name, feature = file.stem, key
            else:
                name, _, feature = key.partition("_") if prefixed else ("all", "", key)
            ours = _FEATURES.get(feature)
            if ours and not any(other.endswith(ours) for other in keys):
                feature, name = ours, "validation" if name in ("val", "valid") else name
            places.setdefault(name, {})[feature] = (file, key)
    return places


def _load(places: dict[str, tuple[Path, str]]) -> dict[str, np.ndarray]:
    arrays = {feature: _read(file, key) for feature, (file, key) in places.items()}
    label = arrays.get("label")
    if label is not None and label.shape[1:] == (1,) and label.dtype.kind in "iu":
        arrays["label"] = label[:, 0]  # a column, as Keras and MedMNIST write class numbers
    return arrays


def _keys(file: Path) -> list[str]:
    try:
        with np.load(file) as stored:
            return list(stored.files)
    except BROKEN_ARRAY as error:
        raise UserError(f"{file} is not an .npz file: {error}") from error


def _read(file: Path, key: str) -> np.ndarray:
    try:
        with zipfile.ZipFile(file) as members:
            check_room(f"{file}: the array '{key}'", members.getinfo(f"{key}.npy").file_size)
        with np.load(file) as stored:
            return stored[key]
    except BROKEN_ARRAY as error:
        raise UserError(f"{file}: cannot read the array '{key}': {error}") from error
