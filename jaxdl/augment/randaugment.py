"""RandAugment: Practical Automated Data Augmentation with a Reduced Search Space.

Cubuk, Zoph, Shlens, Le 2019. https://arxiv.org/abs/1909.13719

The fourteen operations that it lists, at one magnitude for all. The scale is torchvision's: 30 is
the strongest, 9 (its default) rotates by 9 degrees. The paper's own scale ends at 10, so that its
magnitude m is 3 m here; see `autoaugment` for the other differences of the tables.
"""

from typing import Annotated

import msgspec

from jaxdl.augment.autoaugment import space
from jaxdl.augment.batch import Byte, Interpolation
from jaxdl.augment.operations import applied, drawn, rows
from jaxdl.config import Count
from jaxdl.registry import register
from jaxdl.types import Array, Batch

BINS = 31
Level = Annotated[int, msgspec.Meta(ge=0, le=BINS - 1)]


@register("augmentations", pixels="uint8")
def rand_augment(
    key: Array,
    batch: Batch,
    /,
    *,
    layers: Count = 2,
    magnitude: Level = 9,
    interpolation: Interpolation = "nearest",
    fill: Byte = 128,
) -> Batch:
    """So many operations for each image, drawn evenly out of fourteen, all at one magnitude.

    Args:
        layers: operations an image (the paper's N).
        magnitude: from 0 to 30 (three times the paper's M).
        interpolation: of the warps.
        fill: grey that warps show outside of the image.
    """
    size = batch["image"].shape[1:3]
    known = {"Identity": ([0.0] * BINS, False), **space(BINS, size)}
    del known["Invert"]
    table, index = rows({n: (m[magnitude : magnitude + 1], s) for n, (m, s) in known.items()}, size)
    chosen = drawn(key, index, 0, (layers, batch["image"].shape[0]))
    return applied(
        batch, table, chosen, name="rand_augment", interpolation=interpolation, fill=fill
    )
