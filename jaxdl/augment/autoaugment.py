"""AutoAugment: Learning Augmentation Strategies from Data. Cubuk, Zoph, Mane, Vasudevan, Le 2018.

https://arxiv.org/abs/1805.09501, the policies of its tables 7 (CIFAR-10), 8 (SVHN), 9 (ImageNet).

Magnitudes are torchvision's, which published weights were trained with. They differ from the
paper's: Brightness, Color, Contrast and Sharpness go either way from 1 by up to 0.9, where the
paper goes from 0.1 up to 1.9; Solarize's threshold is 255 at level 0, where the paper has 256; and
translations are a fraction of the image (150 of 331 pixels), as in the paper's ImageNet models.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from jaxdl.augment.batch import Byte, Interpolation
from jaxdl.augment.operations import Row, applied, bits, colours, row, stacked, steps
from jaxdl.registry import register
from jaxdl.types import Array, Batch

# A sub-policy a line: operation, probability in tenths, magnitude in ninths; then the second one.
POLICIES = {
    "imagenet": """
        Posterize 4 8     Rotate 6 9
        Solarize 6 5      AutoContrast 6 -
        Equalize 8 -      Equalize 6 -
        Posterize 6 7     Posterize 6 6
        Equalize 4 -      Solarize 2 4
        Equalize 4 -      Rotate 8 8
        Solarize 6 3      Equalize 6 -
        Posterize 8 5     Equalize 10 -
        Rotate 2 3        Solarize 6 8
        Equalize 6 -      Posterize 4 6
        Rotate 8 8        Color 4 0
        Rotate 4 9        Equalize 6 -
        Equalize 0 -      Equalize 8 -
        Invert 6 -        Equalize 10 -
        Color 6 4         Contrast 10 8
        Rotate 8 8        Color 10 2
        Color 8 8         Solarize 8 7
        Sharpness 4 7     Invert 6 -
        ShearX 6 5        Equalize 10 -
        Color 4 0         Equalize 6 -
        Equalize 4 -      Solarize 2 4
        Solarize 6 5      AutoContrast 6 -
        Invert 6 -        Equalize 10 -
        Color 6 4         Contrast 10 8
        Equalize 8 -      Equalize 6 -
    """,
    "cifar10": """
        Invert 1 -        Contrast 2 6
        Rotate 7 2        TranslateX 3 9
        Sharpness 8 1     Sharpness 9 3
        ShearY 5 8        TranslateY 7 9
        AutoContrast 5 -  Equalize 9 -
        ShearY 2 7        Posterize 3 7
        Color 4 3         Brightness 6 7
        Sharpness 3 9     Brightness 7 9
        Equalize 6 -      Equalize 5 -
        Contrast 6 7      Sharpness 6 5
        Color 7 7         TranslateX 5 8
        Equalize 3 -      AutoContrast 4 -
        TranslateY 4 3    Sharpness 2 6
        Brightness 9 6    Color 2 8
        Solarize 5 2      Invert 0 -
        Equalize 2 -      AutoContrast 6 -
        Equalize 2 -      Equalize 6 -
        Color 9 9         Equalize 6 -
        AutoContrast 8 -  Solarize 2 8
        Brightness 1 3    Color 7 0
        Solarize 4 5      AutoContrast 9 -
        TranslateY 9 9    TranslateY 7 9
        AutoContrast 9 -  Solarize 8 3
        Equalize 8 -      Invert 1 -
        TranslateY 7 9    AutoContrast 9 -
    """,
    "svhn": """
        ShearX 9 4        Invert 2 -
        ShearY 9 8        Invert 7 -
        Equalize 6 -      Solarize 6 6
        Invert 9 -        Equalize 6 -
        Equalize 6 -      Rotate 9 3
        ShearX 9 4        AutoContrast 8 -
        ShearY 9 8        Invert 4 -
        ShearY 9 5        Solarize 2 6
        Invert 9 -        AutoContrast 8 -
        Equalize 6 -      Rotate 9 3
        ShearX 9 4        Solarize 3 3
        ShearY 8 8        Invert 7 -
        Equalize 9 -      TranslateY 6 6
        Invert 9 -        Equalize 6 -
        Contrast 3 3      Rotate 8 4
        Invert 8 -        TranslateY 0 2
        ShearY 7 6        Solarize 4 8
        Invert 6 -        Rotate 8 4
        ShearY 3 7        TranslateX 9 3
        ShearX 1 6        Invert 6 -
        Solarize 7 2      TranslateY 6 7
        ShearY 8 4        Invert 8 -
        ShearX 7 9        TranslateY 8 3
        ShearY 8 5        AutoContrast 7 -
        ShearX 7 2        Invert 1 -
    """,
}
LEVELS = 10


def space(bins: int, size: tuple[int, int]) -> dict[str, tuple[list[float], bool]]:
    """The magnitudes of each operation, and whether it goes either way; RandAugment's too.

    Args:
        bins: how many magnitudes.
        size: height and width of the images.
    """
    return {
        "ShearX": (steps(0, 0.3, bins), True),
        "ShearY": (steps(0, 0.3, bins), True),
        "TranslateX": (steps(0, 150 / 331 * size[1], bins), True),
        "TranslateY": (steps(0, 150 / 331 * size[0], bins), True),
        "Rotate": (steps(0, 30, bins), True),
        **colours(0.9, bins),
        "Posterize": (bits(8, 4, bins), False),
        "Solarize": (steps(255, 0, bins), False),
        "AutoContrast": ([0.0] * bins, False),
        "Equalize": ([0.0] * bins, False),
        "Invert": ([0.0] * bins, False),
    }


Step = tuple[str, float, int]


def sub_policies(policy: str) -> list[tuple[Step, Step]]:
    """The pairs of (operation, probability, level) of a policy; level 0 where it has none."""
    said = [line.split() for line in POLICIES[policy].strip().splitlines()]
    step = lambda name, tenths, level: (name, int(tenths) / 10, int(level.replace("-", "0")))
    return [(step(*words[:3]), step(*words[3:])) for words in said]


@register("augmentations", pixels="uint8")
def auto_augment(
    key: Array,
    batch: Batch,
    /,
    *,
    policy: Literal["imagenet", "cifar10", "svhn"] = "imagenet",
    interpolation: Interpolation = "nearest",
    fill: Byte = 128,
) -> Batch:
    """A published policy: one of 25 pairs of operations for each image, each done with its chance.

    Args:
        policy: the data set that it was found on.
        interpolation: of the warps.
        fill: grey that warps show outside of the image.
    """
    pairs = sub_policies(policy)
    height, width = batch["image"].shape[1:3]
    known = space(LEVELS, (height, width))
    found = []
    for name, _, level in (step for pair in pairs for step in pair):
        magnitudes, signed = known[name]
        magnitude = float(magnitudes[level])
        for sign in (1, -1 if signed else 1):
            found.append(row(name, sign * magnitude, (height, width)))
    table = stacked([*found, Row()])
    chance = jnp.array([[p for _, p, _ in pair] for pair in pairs], jnp.float32)

    b = batch["image"].shape[0]
    which, whether, sign = jax.random.split(key, 3)
    pair = jax.random.randint(which, (b,), 0, len(pairs))
    done = jax.random.uniform(whether, (2, b)) < chance[pair].T
    flipped = jax.random.randint(sign, (2, b), 0, 2)
    rows = (pair[None] * 2 + jnp.arange(2)[:, None]) * 2 + flipped
    rows = jnp.where(done, rows, len(found))
    return applied(batch, table, rows, name="auto_augment", interpolation=interpolation, fill=fill)
