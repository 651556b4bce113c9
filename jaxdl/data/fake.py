"""Random but learnable images, for dry runs, tests and measurements of speed."""

import numpy as np

from jaxdl.config import Count, Seed
from jaxdl.data.arrays import check_room, from_arrays
from jaxdl.data.images import Side
from jaxdl.data.source import Source
from jaxdl.data.split_spec import select
from jaxdl.registry import register

_SPLITS = ("train", "validation", "test")


@register("sources")
def fake(
    split: str,
    /,
    *,
    size: tuple[Side, Side, Side] = (32, 32, 3),
    num_classes: Count = 10,
    examples: Count = 256,
    seed: Seed = 0,
) -> Source:
    """Every class is a coarse random pattern, every image of it the pattern under noise.

    Args:
        split: of train, validation and test.
        size: height, width and channels.
        num_classes: classes, which take turns.
        examples: in each split.
        seed: of patterns and noise; the patterns are the same in all splits.
    """
    height, width, channels = size
    check_room(f"source 'fake' of size {list(size)}", max(num_classes, examples), *size, 8)
    # 4x4 tiles: a pattern that survives cropping and pooling
    tiles = np.random.default_rng(seed).integers(64, 192, (num_classes, 4, 4, channels))
    rows, columns = np.arange(height) * 4 // height, np.arange(width) * 4 // width
    pattern = tiles[:, rows[:, None], columns]
    first = {name: i * examples for i, name in enumerate(_SPLITS)}
    index = select(split, {n: np.arange(i, i + examples) for n, i in first.items()})
    label = (index % num_classes).astype(np.int32)
    image = np.empty((len(index), *size), np.uint8)
    for row, i in enumerate(index):
        noise = np.random.default_rng((seed, int(i))).integers(-64, 64, size)
        image[row] = pattern[label[row]] + noise
    return from_arrays({"image": image, "label": label}, num_classes=num_classes)
