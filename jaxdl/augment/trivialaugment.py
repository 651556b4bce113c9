"""TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation. Mueller, Hutter 2021.

https://arxiv.org/abs/2103.10158, its wide space with 31 magnitudes, as torchvision has it:
Brightness, Color, Contrast and Sharpness go either way from 1 by up to 0.99 (the paper: from 0.01
to 2), and translations reach 32 pixels whatever the size of the image.
"""

import jax

from jaxdl.augment.batch import Byte, Interpolation
from jaxdl.augment.operations import applied, bits, colours, drawn, rows, steps
from jaxdl.registry import register
from jaxdl.types import Array, Batch

BINS = 31
SPACE = {
    "Identity": ([0.0] * BINS, False),
    "ShearX": (steps(0, 0.99, BINS), True),
    "ShearY": (steps(0, 0.99, BINS), True),
    "TranslateX": (steps(0, 32, BINS), True),
    "TranslateY": (steps(0, 32, BINS), True),
    "Rotate": (steps(0, 135, BINS), True),
    **colours(0.99, BINS),
    "Posterize": (bits(8, 6, BINS), False),
    "Solarize": (steps(255, 0, BINS), False),
    "AutoContrast": ([0.0] * BINS, False),
    "Equalize": ([0.0] * BINS, False),
}


@register("augmentations", pixels="uint8")
def trivial_augment(
    key: Array,
    batch: Batch,
    /,
    *,
    interpolation: Interpolation = "nearest",
    fill: Byte = 128,
) -> Batch:
    """One operation for each image, at a magnitude drawn evenly: there is nothing to tune.

    Args:
        interpolation: of the warps.
        fill: grey that warps show outside of the image.
    """
    table, index = rows(SPACE, batch["image"].shape[1:3])
    which, strength = jax.random.split(key)
    shape = (1, batch["image"].shape[0])
    levels = jax.random.randint(strength, shape, 0, BINS)
    return applied(
        batch,
        table,
        drawn(which, index, levels, shape),
        name="trivial_augment",
        interpolation=interpolation,
        fill=fill,
    )
