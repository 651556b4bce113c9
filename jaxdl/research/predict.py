"""Predictions of a finished run for new files: classes, masks, or text that goes on.

Files are read by the function that reads a source's (`data.images.load`), and a batch at a time. A
file that cannot be read is answered with its error, and the others are predicted.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from jaxdl.data.images import load
from jaxdl.errors import UserError
from jaxdl.loaded import LoadedRun
from jaxdl.report.samples import colors


class Scored(NamedTuple):
    """A class and how much of a prediction it has."""

    name: str
    number: int
    fraction: float
    """the probability of an image's class; of a mask, the fraction of its pixels"""


class Answer(NamedTuple):
    """The prediction for one file."""

    file: Path
    classes: tuple[Scored, ...] = ()
    """the likeliest first"""
    mask: np.ndarray | None = None
    """(h, w) int, the class of each pixel of the image as the run reads it"""
    numbers: dict[str, float] | None = None
    """of a run that learns numbers, by name"""
    error: str | None = None
    """why the file was not predicted"""

    def to_json(self) -> dict[str, Any]:
        """The file and its classes, or its numbers, as JSON."""
        if self.numbers is not None:
            return {"file": str(self.file), "numbers": self.numbers}
        key = "probability" if self.mask is None else "fraction"
        classes = [{"class": c.name, "number": c.number, key: c.fraction} for c in self.classes]
        return {"file": str(self.file), "classes": classes}


def predicted(run: LoadedRun, files: Sequence[Path], top: int) -> Iterator[Answer]:
    """An answer for each image file, in order.

    Args:
        run: that classifies images or their pixels, or learns numbers of images.
        files: to be read.
        top: classes of each answer; of a mask only those that are on it.
    """
    channels = run.image_shape[2]
    for start in range(0, len(files), run.batch_size):
        read = [_read(file, channels) for file in files[start : start + run.batch_size]]
        images = [x for x in read if not isinstance(x, UserError)]
        outputs = run.predict(images) if images else {}
        rows = iter(range(len(images)))
        for file, image in zip(files[start:], read, strict=False):
            if isinstance(image, UserError):
                yield Answer(file, error=str(image))
            else:
                i = next(rows)
                yield _answer(run, file, {name: x[i] for name, x in outputs.items()}, top)


def _read(file: Path, channels: int) -> np.ndarray | UserError:
    try:
        return load(file, channels)
    except UserError as error:
        return error


def _answer(run: LoadedRun, file: Path, output: dict[str, np.ndarray], top: int) -> Answer:
    names, mask = run.class_names, None
    if run.plan.target.kind == "numbers":
        pairs = zip(names, output["logits"], strict=True)
        return Answer(file, numbers={name: float(x) for name, x in pairs})
    if "probability" in output:
        fractions = output["probability"]
    else:
        mask = output["label"]
        fractions = np.bincount(mask.ravel(), minlength=len(names)) / mask.size
    order = np.argsort(-fractions, kind="stable")[:top]
    chosen = [Scored(names[k], int(k), float(fractions[k])) for k in order]
    return Answer(file, tuple(c for c in chosen if mask is None or c.fraction > 0), mask)


def save_mask(mask: np.ndarray, file: Path, num_classes: int) -> None:
    """Write a mask (h, w) as a PNG whose pixels are class numbers, shown in a colour for each."""
    picture = Image.fromarray(mask.astype(np.uint8))
    picture.putpalette(colors(min(num_classes, 256)).ravel().tolist())
    file.parent.mkdir(parents=True, exist_ok=True)
    picture.save(file, format="png")


def mask_names(inputs: Sequence[Path], files: Sequence[Path]) -> list[Path]:
    """The name of each file's mask: its path below the folder that was named, ending in `.png`.

    Two files of one name, such as `a.jpg` and `a.png`, are told apart by a number.
    """
    names: list[Path] = []
    taken: dict[Path, int] = {}
    folders = [i for i in inputs if i.is_dir()]
    for file in files:
        folder = next((f for f in folders if file.is_relative_to(f)), file.parent)
        name = file.relative_to(folder).with_suffix(".png")
        taken[name] = taken.get(name, 0) + 1
        alone = taken[name] == 1
        names.append(name if alone else name.with_stem(f"{name.stem}-{taken[name]}"))
    return names
