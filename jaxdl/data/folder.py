"""A folder of images, one folder a class."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from jaxdl.data.images import FORMATS, Side, files_below, fit, load, unreadable
from jaxdl.data.sampler import permutation
from jaxdl.data.source import Source
from jaxdl.data.split_spec import names, resolve
from jaxdl.errors import UserError, choices
from jaxdl.registry import register

_SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)
_SEED = 0


@dataclasses.dataclass(frozen=True)
class ImageFiles:
    """Image files and their labels, (n,) or (n, k), read when asked for."""

    files: list[Path]
    label: np.ndarray
    image_size: int | None
    channels: int

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        try:
            image = load(self.files[index], self.channels)
        except UserError as error:
            raise self.refusal() or error from None
        if self.image_size is not None:
            image = fit(image, self.image_size)
        return {"image": image, "label": self.label[index]}

    def refusal(self) -> UserError | None:
        """An error that names all files that cannot be read; None if all can."""
        damaged = unreadable(self.files, self.channels)
        if not damaged:
            return None
        return UserError(
            f"{len(damaged)} of {len(self.files):,} images cannot be read: {_listed(damaged)}; "
            "mend or remove them, or leave them out by the source's on_error=skip"
        )


def _listed(damaged: Mapping[Path, str], most: int = 20) -> str:
    shown = [f"{file} ({why})" for file, why in list(damaged.items())[:most]]
    return ", ".join(shown) + (f", and {len(damaged) - most} more" if len(damaged) > most else "")


@register("sources")
def folder(
    split: str,
    /,
    *,
    path: str,
    image_size: Side | None = None,
    channels: Literal[1, 3, 4] = 3,
    on_error: Literal["refuse", "skip"] = "refuse",
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
        channels: 3 for colour, 1 for grey, 4 for colour and alpha; images are read as
            `data.images.load` says.
        on_error: 'skip' leaves out, and counts, images that cannot be read: each is decoded once
            to know. 'refuse' names all of them.
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
    damaged: dict[Path, str] = {}
    if on_error == "skip":
        damaged = unreadable([f for found in listed.values() for f, _ in found], channels)
        listed = {n: [e for e in found if e[0] not in damaged] for n, found in listed.items()}
    notes = (f"{len(damaged)} images skipped: {_listed(damaged)}",) if damaged else ()
    sizes = dict.fromkeys(roots, 0) | {name: len(found) for name, found in listed.items()}
    chosen = [e for name, i, j in resolve(split, sizes) for e in listed[name][i:j]]
    label = np.array([k for _, k in chosen], np.int32)
    files = ImageFiles([f for f, _ in chosen], label, image_size, channels)
    return Source(files, class_names, labels=lambda: label, notes=notes)


def _folders(root: Path) -> list[Path]:
    return sorted(d for d in root.iterdir() if d.is_dir() and not d.name.startswith("."))


def _examples(root: Path, class_names: tuple[str, ...]) -> list[tuple[Path, int]]:
    """(file, class) of every image below `root`, shuffled by a fixed seed."""
    found = []
    for directory in _folders(root):
        if directory.name not in class_names:
            hint = choices(directory.name, class_names)
            raise UserError(f"'{directory}' is not a class of the training images: {hint}")
        files = [f for f in files_below(directory) if f.suffix.lower() in _SUFFIXES]
        if not files:
            raise UserError(f"'{directory}' holds no image ({' '.join(_SUFFIXES)})")
        found += [(file, class_names.index(directory.name)) for file in files]
    return [found[i] for i in permutation(len(found), _SEED)]
