"""Data sets of TensorFlow Datasets, read at random from ArrayRecord without TensorFlow.

https://www.tensorflow.org/datasets
A data set is prepared once, by TFDS and in an environment that has TensorFlow; from then on it is
read here. Features that are text (ids, file names) or whose length varies are left out, and
`index` and `mask`, which number examples and mark padding here, unless one is the label.
"""

import dataclasses
import functools
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxdl.config import Count
from jaxdl.corrections import instead, word
from jaxdl.data.images import Side, fit
from jaxdl.data.source import Source
from jaxdl.errors import MissingData, SplitError, UserError, choices, nearest
from jaxdl.registry import register
from jaxdl.types import VOID

_MASK = "segmentation_mask"
_TAKEN = ("index", "mask")  # keys of a batch that mean something else here
_CHUNK = 1024  # records that are read at a time where only their labels are wanted


@dataclasses.dataclass(frozen=True)
class _Records:
    """The wanted features of a TFDS data source, one of them under the name `label`."""

    data: Any
    features: tuple[str, ...]
    image_size: int | None
    label: str = "label"
    void: int | None = None

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._example(self.data[index])

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        return [self._example(record) for record in self.data.__getitems__(list(indices))]

    def _example(self, record: dict[str, Any]) -> dict[str, Any]:
        example = {name: record[name] for name in self.features}
        if self.image_size is not None:
            for name, resample in (
                ("image", Image.Resampling.BILINEAR),
                (_MASK, Image.Resampling.NEAREST),
            ):
                if name in example:
                    example[name] = fit(example[name], self.image_size, resample)
        if self.label in example:
            example["label"] = self._label(example.pop(self.label))
        return example

    def _label(self, label: Any) -> np.ndarray:
        """A number, or a map (h, w), whose void pixels are `VOID`."""
        label = np.asarray(label)
        if label.ndim == 3 and label.shape[-1] == 1:
            label = label[..., 0]
        return label if self.void is None else np.where(label == self.void, VOID, label)


@register("sources", "tfds")
def tfds_source(
    split: str,
    /,
    *,
    dataset: str,
    data_dir: str | None = None,
    image_size: Side | None = None,
    label: str = "label",
    num_classes: Count | None = None,
    void: int | None = None,
) -> Source:
    """A prepared data set of TensorFlow Datasets; TensorFlow itself is not needed.

    Args:
        split: as TFDS reads it: 'train', 'train[:80%]', 'train+test'.
        dataset: name, with configuration and version where wanted: 'cifar10', 'mnist:3.0.1'.
        data_dir: where data sets lie; by default $TFDS_DATA_DIR, else ~/tensorflow_datasets.
        image_size: shorter side resized to this, then the centre cut out; needed where the images
            differ in size. A segmentation mask is resized with its image, to the nearest pixel.
        label: the feature that is the label, such as 'segmentation_mask'; a map (h, w, 1) loses
            its last axis.
        num_classes: of the label; by default what the data set says, or else the largest + 1.
        void: number of what has no class in a segmentation mask; its pixels become 255.
    """
    builder = prepared(dataset, data_dir)
    try:
        data = builder.as_data_source(split=split)
    except (ValueError, NotImplementedError) as error:
        names, reason = ", ".join(builder.info.splits), str(error).splitlines()[0]
        raise SplitError(f"data set '{dataset}' has {names}, not '{split}': {reason}") from error
    try:
        is_empty = len(data) == 0
    except ValueError:  # TFDS gives a slice that ends before it begins a negative length
        is_empty = True
    if is_empty:
        raise UserError(f"split '{split}' of data set '{dataset}' is empty")
    features = builder.info.features
    named = [name for name in sorted(features) if name == label or name not in _TAKEN]
    wanted = tuple(name for name in named if _stacks(name, features[name]))
    if not wanted:
        raise UserError(f"data set '{dataset}' holds no arrays, only {', '.join(sorted(features))}")
    if label not in wanted and (label != "label" or void is not None):
        raise UserError(f"data set '{dataset}' has no label '{label}': {choices(label, wanted)}")
    feature = dict(features).get(label)
    return Source(
        _Records(data, wanted, image_size, label, void),
        tuple(getattr(feature, "names", None) or ()),
        num_classes or getattr(feature, "num_classes", None),
        functools.partial(_labels, builder, split, label) if label in wanted else None,
    )


def _labels(builder: Any, split: str, label: str) -> np.ndarray:
    """The label of every record, whose images stay encoded."""
    import tensorflow_datasets as tfds

    is_image = lambda feature: isinstance(feature, tfds.features.Image)
    images = [name for name, feature in builder.info.features.items() if is_image(feature)]
    decoders = {name: tfds.decode.SkipDecoding() for name in images if name != label}
    data = builder.as_data_source(split=split, decoders=decoders)
    chunks = (range(i, min(i + _CHUNK, len(data))) for i in range(0, len(data), _CHUNK))
    return np.array([r[label] for chunk in chunks for r in data.__getitems__(list(chunk))])


def _stacks(name: str, feature: Any) -> bool:
    """True if examples of a feature have one shape (images may be resized to one)."""
    if not isinstance(feature.shape, tuple) or np.dtype(feature.np_dtype).kind not in "biuf":
        return False
    return name in ("image", _MASK) or None not in feature.shape


def prepared(dataset: str, data_dir: str | None) -> Any:
    """The TFDS builder of a data set that lies prepared as ArrayRecord; else it says how to."""
    try:
        import tensorflow_datasets as tfds  # optional, and half a second to import
    except ImportError as error:
        raise MissingData("TFDS data sets need `pip install tensorflow-datasets`") from error

    hush()
    root = Path(data_dir or tfds.core.constants.DATA_DIR).expanduser()
    try:
        builder = tfds.builder(dataset, data_dir=str(root))
    except tfds.core.DatasetNotFoundError as error:
        names = _names_in(root)
        near, hint = nearest(dataset, names), choices(dataset, names)
        correction = word(dataset, near[0]) if near else instead("--list", "sources", "tfds")
        message = f"TFDS knows no '{dataset}'; of those in {root}: {hint}"
        raise UserError(message, correction) from error
    except (ValueError, AssertionError, RuntimeError) as error:
        raise UserError(f"data set '{dataset}': {_reason(error)}") from error
    if builder.info.splits and builder.info.file_format.value == "array_record":
        return builder
    found = f"prepared as {builder.info.file_format.value}" if builder.info.splits else "missing"
    arguments = f"{dataset!r}, data_dir={data_dir!r}" if data_dir else repr(dataset)
    raise MissingData(
        f"data set '{dataset}' is {found} at {builder.data_path} (set TFDS_DATA_DIR, or data_dir "
        "of the source, if it is elsewhere); to prepare it, where tensorflow "
        'is installed (only this needs it): python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder({arguments}).download_and_prepare(file_format='array_record')\"",
        instead("--list", "sources", "tfds"),
    )


def hush() -> None:
    """Keep TFDS from recommending OpenCV: images are decoded by Pillow here, as all others are."""
    logging.getLogger("absl").addFilter(worth_saying)


def worth_saying(record: logging.LogRecord) -> bool:
    """True for log lines that a user should see."""
    return not str(record.msg).startswith("OpenCV is not installed")


def _names_in(root: Path) -> list[str]:
    """Names of the data sets that lie in a folder: name/version or name/configuration/version."""
    files = [f for depth in ("*/*", "*/*/*") for f in root.glob(f"{depth}/dataset_info.json")]
    return sorted({f.parent.parent.relative_to(root).as_posix() for f in files})


def _reason(error: Exception) -> str:
    """Message of a TFDS error, without the arguments it repeats and the lists it appends."""
    first = str(error).splitlines()[0]
    return re.sub(r"^Failed to construct .*?}\": |\. Here are .*", "", first)
