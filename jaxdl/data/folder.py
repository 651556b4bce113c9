"""A folder of images, one folder a class."""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from jaxdl.data.images import FORMATS, Side, fit, load
from jaxdl.data.sampler import permutation
from jaxdl.data.source import Source
from jaxdl.data.split_spec import names, resolve
from jaxdl.errors import UserError, choices
from jaxdl.registry import register

_SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)
_SEED = 0


@dataclasses.dataclass(frozen=True)
class _Files:
    """Image files and their labels, read when asked for."""

    files: list[Path]
    label: np.ndarray
    image_size: int | None
    channels: int

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        image = load(self.files[index], self.channels)
        if self.image_size is not None:
            image = fit(image, self.image_size)
        return {"image": image, "label": self.label[index]}


@register("sources")
def folder(
    split: str,
    /,
    *,
    path: str,
    image_size: Side | None = None,
    channels: Literal[1, 3] = 3,
) -> Source:
    """Images in `path/<split>/<class>/`, or in `path/<class>/` where `path/train` does not exist.

    In the second case the one split is `all`, to be sliced: `all[:80%]`, `all[80%:]`. The files of
    a split stand in an order that is shuffled once, the same for the same file names, so that a
    slice holds every class. Classes are numbered in the order of their names.

    Args:
        split: see above.
        path: the folder.
        image_size: shorter side resized to this, then the centre cut out; needed where the images
            differ in size.
        channels: 3 for colour, 1 for grey; images are read as `data.images.load` says.
    """
    root = Path(path)
    if not root.is_dir():
        raise UserError(f"no folder '{path}' with images")
    roots = {d.name: d for d in _folders(root)} if (root / "train").is_dir() else {"all": root}
    first = roots.get("train", root)
    class_names = tuple(d.name for d in _folders(first))
    if not class_names:
        raise UserError(f"'{first}' holds no folder: expected one for each class")
    listed = {n: _examples(roots[n], class_names) for n in names(split) if n in roots}
    sizes = dict.fromkeys(roots, 0) | {name: len(found) for name, found in listed.items()}
    chosen = [e for name, i, j in resolve(split, sizes) for e in listed[name][i:j]]
    label = np.array([k for _, k in chosen], np.int32)
    files = _Files([f for f, _ in chosen], label, image_size, channels)
    return Source(files, class_names, labels=lambda: label)


def _folders(root: Path) -> list[Path]:
    return sorted(d for d in root.iterdir() if d.is_dir() and not d.name.startswith("."))


def _files(directory: Path) -> Iterator[Path]:
    """Files below a directory; links to directories are not followed."""
    for place, _, names_here in os.walk(directory):
        yield from (Path(place, name) for name in names_here)


def _examples(root: Path, class_names: tuple[str, ...]) -> list[tuple[Path, int]]:
    """(file, class) of every image below `root`, shuffled by a fixed seed."""
    found = []
    for directory in _folders(root):
        if directory.name not in class_names:
            hint = choices(directory.name, class_names)
            raise UserError(f"'{directory}' is not a class of the training images: {hint}")
        files = sorted(f for f in _files(directory) if f.suffix.lower() in _SUFFIXES)
        if not files:
            raise UserError(f"'{directory}' holds no image ({' '.join(_SUFFIXES)})")
        found += [(file, class_names.index(directory.name)) for file in files]
    return [found[i] for i in permutation(len(found), _SEED)]
