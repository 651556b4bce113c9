"""Handwritten digits that come with scikit-learn: 1,797 real 8x8 images in 10 classes.

Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998
https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits
It is the original's test set; the split into train, validation and test is ours, and fixed.
"""

from typing import Annotated

import msgspec
import numpy as np
from PIL import Image

from jaxdl.data.arrays import check_room, from_arrays
from jaxdl.data.images import fit
from jaxdl.data.sampler import permutation
from jaxdl.data.source import Source
from jaxdl.data.split_spec import select
from jaxdl.registry import register

_FRACTIONS = {"train": (0.0, 0.7), "validation": (0.7, 0.8), "test": (0.8, 1.0)}


def split_indices(label: np.ndarray) -> dict[str, np.ndarray]:
    """Indices of each split: 70%, 10% and 20% of every class, in file order."""
    parts: dict[str, list[np.ndarray]] = {name: [] for name in _FRACTIONS}
    for k in np.unique(label):
        of_class = np.flatnonzero(label == k)
        of_class = of_class[permutation(len(of_class), int(k))]
        for name, (start, stop) in _FRACTIONS.items():
            parts[name].append(of_class[round(start * len(of_class)) : round(stop * len(of_class))])
    return {name: np.sort(np.concatenate(part)) for name, part in parts.items()}


@register("sources")
def digits(split: str, /, *, size: Annotated[int, msgspec.Meta(ge=1, le=512)] = 8) -> Source:
    """Handwritten digits: 1,797 real grey 8x8 images, embedded; nothing to download.

    Args:
        split: of train, validation and test.
        size: side in pixels; above 8 the images are interpolated (bicubic).
    """
    from sklearn.datasets import load_digits  # half a second that other sources need not wait for

    stored = load_digits()
    index = select(split, split_indices(stored.target))
    check_room(f"source 'digits' of size {size}", len(index), size, size)
    # 0..16 -> 0..255
    image = np.round(stored.images[index] * (255 / 16)).astype(np.uint8)[..., None]
    if size != 8:
        image = np.stack([fit(x, size, Image.Resampling.BICUBIC) for x in image])
    label = stored.target[index].astype(np.int32)
    return from_arrays({"image": image, "label": label}, tuple("0123456789"))
