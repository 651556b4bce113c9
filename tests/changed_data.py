"""A small data set as each kind of source stores it, and the same with something changed."""

import csv as comma_separated
import io
import subprocess
import sys

import numpy as np
from PIL import Image

from jaxdl.data.sampler import permutation

SHADES = {"ant": 0, "bee": 80, "cat": 160, "dog": 220, "wasp": 220}
NAMES = ("ant", "bee", "cat")
CHANGES = {
    "nothing": {},
    "renamed": {"names": ("ant", "cat", "wasp")},
    "permuted": {"names": ("cat", "ant", "bee")},
    "added": {"names": (*NAMES, "dog")},
    "removed": {"names": ("ant", "bee")},
    "resized": {"size": 9},
    "more": {"count": 9},
    "other pixels": {"brighter": 1},
    "other labels": {"relabelled": True},
}
"""Arguments of the functions below, by what differs from the data set that a run was trained on"""


def examples(names=NAMES, size=8, count=8, brighter=0, relabelled=False):
    """(name of the class, image) of each example of a split; class i of `names` has label i."""
    found = []
    for name in NAMES if set(names) == set(NAMES) else names:
        for j in range(count):
            pixels = np.full((size, size, 3), SHADES[name] + 2 * j + brighter, np.uint8)
            pixels[j % size] = 30 * j
            is_bee = relabelled and name == "ant" and j % 2
            found.append(("bee" if is_bee else name, pixels))
    return [found[i] for i in permutation(len(found), 0)]


def folder(path, **changed):
    for split in ("train", "test"):
        numbers = dict.fromkeys(SHADES, 0)
        for name, pixels in examples(**changed):
            (path / split / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path / split / name / f"{numbers[name]}.png")
            numbers[name] += 1
    return f"folder(path={path})"


def npz(path, names=NAMES, **changed):
    path.mkdir()
    label_names, images = zip(*examples(names, **changed), strict=True)
    label = [names.index(name) for name in label_names]
    for split in ("train", "test"):
        np.savez(path / f"{split}.npz", image=images, label=label, class_names=names)
    return f"npz(path={path})"


def csv(path, **changed):
    path.mkdir()
    rows = [("image", "label", "split")]
    for split in ("train", "test"):
        for i, (name, pixels) in enumerate(examples(**changed)):
            Image.fromarray(pixels).save(path / f"{split}{i}.png")
            rows.append((f"{split}{i}.png", name, split))
    with (path / "table.csv").open("w", newline="") as file:
        comma_separated.writer(file).writerows(rows)
    return f"csv(path={path / 'table.csv'})"


def tfds(path, **changed):
    """Prepared by TFDS itself, in a process of its own: a builder's name is taken for good."""
    path.mkdir()
    code = f"from changed_data import prepare; prepare({str(path)!r}, {changed!r})"
    command = [sys.executable, "-c", code]
    here = __file__.rpartition("/")[0]
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return f"tfds(dataset=insects,data_dir={path})"


def prepare(path, changed):
    """Write the data set as TFDS does."""
    import tensorflow_datasets as tfds

    names, size = changed.get("names", NAMES), changed.get("size", 8)

    class Insects(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(size, size, 3)),
                "label": tfds.features.ClassLabel(names=list(names)),
            }
            features = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, manager):
            return {"train": self._generate_examples(), "test": self._generate_examples()}

        def _generate_examples(self):
            for i, (name, image) in enumerate(examples(**changed)):
                file = io.BytesIO()
                Image.fromarray(image).save(file, "PNG")
                file.seek(0)
                yield i, {"image": file, "label": name}

    Insects(data_dir=path).download_and_prepare(file_format="array_record")


SOURCES = {"folder": folder, "npz": npz, "csv": csv, "tfds": tfds}
