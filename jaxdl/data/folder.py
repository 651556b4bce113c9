"""A folder of images, one folder a class."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from jaxdl.corrections import instead
from jaxdl.data.images import FORMATS, Side, files_below, fit, load, unreadable
from jaxdl.data.sampler import permutation
from jaxdl.data.source import Source, listed
from jaxdl.data.split_spec import names, resolve
from jaxdl.errors import UserError, choices
from jaxdl.registry import register

_SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)
_UNREAD = (".heic", ".heif", ".avif", ".jp2", ".jxl", ".svg", ".tga", ".psd", ".raw", ".dng")
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
            return self.example(index)
        except UserError as error:
            raise self.refusal() or error from None

    def example(self, index: int) -> dict[str, np.ndarray]:
        """An image and its label, whatever the others are like."""
        image = load(self.files[index], self.channels)
        if self.image_size is not None:
            image = fit(image, self.image_size)
        return {"image": image, "label": self.label[index]}

    def name(self, index: int) -> str:
        """The file of an image."""
        return str(self.files[index])

    def refusal(self) -> UserError | None:
        """An error that names all files that cannot be read; None if all can."""
        damaged = unreadable(self.files, self.channels)
        if not damaged:
            return None
        return UserError(
            f"{len(damaged)} of {len(self.files):,} images cannot be read: {listed(damaged)}; "
            "mend or remove them, or leave them out by the source's on_error=skip"
        )


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
        raise UserError(f"no folder '{path}' with images", instead("--list", "sources", "folder"))
    roots = {d.name: d for d in _folders(root)} if (root / "train").is_dir() else {"all": root}
    first = roots.get("train", root)
    class_names = tuple(d.name for d in _folders(first))
    if not class_names:
        raise UserError(f"'{first}' holds no folder: expected one for each class")
    below = {
        name: {directory: files_below(directory) for directory in _folders(roots[name])}
        for name in dict.fromkeys(names(split))
        if name in roots
    }
    examples = {name: _examples(files, class_names) for name, files in below.items()}
    faults = [line for files in below.values() for line in _faults(files, class_names)]
    damaged: dict[Path, str] = {}
    if on_error == "skip":
        damaged = unreadable([f for pairs in examples.values() for f, _ in pairs], channels)
        examples = {n: [e for e in pairs if e[0] not in damaged] for n, pairs in examples.items()}
    sizes = dict.fromkeys(roots, 0) | {name: len(pairs) for name, pairs in examples.items()}
    chosen = [e for name, i, j in resolve(split, sizes) for e in examples[name][i:j]]
    label = np.array([k for _, k in chosen], np.int32)
    records = ImageFiles([f for f, _ in chosen], label, image_size, channels)
    left_out = {str(file): why for file, why in damaged.items()}
    for name, files in below.items():
        left_out |= _not_read(roots[name], files)
    return Source(
        records,
        class_names,
        labels=lambda: label,
        holds_labels=True,
        left_out=left_out,
        faults=tuple(faults),
    )


def _folders(root: Path) -> list[Path]:
    return sorted(d for d in root.iterdir() if d.is_dir() and not d.name.startswith("."))


def _images(files: Sequence[Path]) -> list[Path]:
    return [file for file in files if file.suffix.lower() in _SUFFIXES]


def _examples(
    files: Mapping[Path, Sequence[Path]], class_names: tuple[str, ...]
) -> list[tuple[Path, int]]:
    """(file, class) of every image, shuffled by a fixed seed.

    Args:
        files: those below each folder of a split.
        class_names: other folders are passed over.
    """
    pairs = [
        (file, class_names.index(directory.name))
        for directory, inside in files.items()
        if directory.name in class_names
        for file in _images(inside)
    ]
    return [pairs[i] for i in permutation(len(pairs), _SEED)]


def _faults(files: Mapping[Path, Sequence[Path]], class_names: tuple[str, ...]) -> list[str]:
    """Folders that are not a class of the training images, or hold no image."""
    faults = []
    for directory, inside in files.items():
        if directory.name not in class_names:
            hint = choices(directory.name, class_names)
            faults.append(f"'{directory}' is not a class of the training images: {hint}")
        elif not _images(inside):
            faults.append(f"'{directory}' holds no image ({' '.join(_SUFFIXES)})")
    return faults


def _not_read(root: Path, files: Mapping[Path, Sequence[Path]]) -> dict[str, str]:
    """Images that are not examples, each with the reason: of other formats, or of no class."""
    other = [f for inside in files.values() for f in inside if f.suffix.lower() in _UNREAD]
    loose = [f for f in sorted(root.iterdir()) if f.suffix.lower() in _SUFFIXES and f.is_file()]
    loose = [f for f in loose if not f.name.startswith(".")]
    return {str(f): f"{f.suffix} is not read" for f in other} | {
        str(f): "it lies in no folder of a class" for f in loose
    }
