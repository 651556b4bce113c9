"""The operations of the augmentation policies as rows of numbers, and a layer that applies them.

AutoAugment and its successors pick one of about fourteen operations, at one of a few magnitudes,
for each image. All of these together are one static table, and applying a layer is picking a row
for each example and doing three things to the whole batch: a warp by the row's matrix, a look-up
in the row's table of grey levels, a blend with a degenerate image by the row's factor. An
operation uses one of the three; the other two leave its pixels as they are.

Every operation equals Pillow's: `Image.transform` and `rotate`, `ImageOps`, `ImageEnhance`.
https://github.com/python-pillow/Pillow
"""

import itertools
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.augment import intensity
from jaxdl.augment.batch import Interpolation, image_bytes, sides
from jaxdl.augment.colour import blend, grey, mean_grey, smooth
from jaxdl.augment.warp import IDENTITY, affine, to_fixed, warped
from jaxdl.types import Array, Batch

PLAIN, CONTRAST, AUTOCONTRAST, EQUALIZE, COLOUR, SHARPNESS = range(6)


class Row(NamedTuple):
    """One operation at one magnitude."""

    matrix: np.ndarray = IDENTITY
    """(6,) int32: where its pixels come from, as `warp.to_fixed` says it."""
    table: np.ndarray = intensity.LEVELS
    """(256,): what becomes of a grey level, where that does not depend on the image."""
    kind: int = PLAIN
    """Operations besides."""
    factor: float = 1.0
    """Of a blend."""


def row(name: str, magnitude: float, size: tuple[int, int]) -> Row:
    """An operation by its name in the papers.

    Args:
        name: ShearX, ShearY (slope), TranslateX, TranslateY (pixels), Rotate (degrees), Brightness,
            Color, Contrast, Sharpness (factor less one), Posterize (bits), Solarize (threshold),
            SolarizeAdd (addition), AutoContrast, Equalize, Invert, Identity (no magnitude).
        magnitude: in the unit above.
        size: height and width of the images.
    """
    shift = lambda *coefficients: Row(matrix=to_fixed(np.array(coefficients, np.float64)))
    match name:
        case "Identity":
            return Row()
        case "ShearX":
            return shift(1, magnitude, 0, 0, 1, 0)
        case "ShearY":
            return shift(1, 0, 0, magnitude, 1, 0)
        case "TranslateX":
            return shift(1, 0, -int(magnitude), 0, 1, 0)
        case "TranslateY":
            return shift(1, 0, 0, 0, 1, -int(magnitude))
        case "Rotate":
            return Row(matrix=to_fixed(affine(magnitude, (0, 0), 1, (0, 0), size)))
        case "Brightness":
            return Row(table=_darkened(1 + magnitude))
        case "Contrast":
            return Row(kind=CONTRAST, factor=1 + magnitude)
        case "Color":
            return Row(kind=COLOUR, factor=1 + magnitude)
        case "Sharpness":
            return Row(kind=SHARPNESS, factor=1 + magnitude)
        case "Posterize":
            return Row(table=intensity.posterized(int(magnitude)))
        case "Solarize":
            return Row(table=intensity.solarized(magnitude))
        case "SolarizeAdd":
            return Row(table=intensity.solarized_sum(int(magnitude)))
        case "Invert":
            return Row(table=intensity.inverted())
        case "AutoContrast":
            return Row(kind=AUTOCONTRAST)
        case "Equalize":
            return Row(kind=EQUALIZE)
    raise ValueError(f"no operation '{name}'")


def _darkened(factor: float) -> np.ndarray:
    return np.clip(np.float32(factor) * intensity.LEVELS.astype(np.float32), 0, 255).astype(int)


def rows(
    space: Mapping[str, tuple[Iterable[float], bool]], size: tuple[int, int]
) -> tuple[Row, np.ndarray]:
    """All operations of a space at all magnitudes, with both signs, as one table.

    Args:
        space: name -> (its magnitudes, as many for each, and whether a sign is drawn).
        size: height and width of the images.

    Returns:
        a Row of stacked arrays (n, ...), and the index (operations, magnitudes, 2) into it; an
        operation without a sign has the same row twice.
    """
    found: list[Row] = []
    index = []
    for name, (magnitudes, signed) in space.items():
        for magnitude in magnitudes:
            index.append(len(found))
            found.append(row(name, float(magnitude), size))
            if signed:
                found.append(row(name, -float(magnitude), size))
            index.append(len(found) - 1)
    return stacked(found), np.array(index, np.int32).reshape(len(space), -1, 2)


def stacked(found: Iterable[Row]) -> Row:
    """Rows as one Row of arrays (n, ...)."""
    matrix, table, kind, factor = zip(*found, strict=True)
    return Row(
        np.stack(matrix),
        np.stack(table).astype(np.uint8),
        np.array(kind, np.int32),
        np.array(factor, np.float32),
    )


def applied(
    batch: Batch,
    table: Row,
    layers: Array,
    *,
    name: str,
    interpolation: Interpolation = "nearest",
    fill: float = 0,
) -> Batch:
    """The batch after one operation an example and layer.

    Args:
        batch: `image` (b, h, w, c) uint8; a segmentation mask moves with it.
        table: what there is to choose from, stacked.
        layers: (layers, b) rows of the table, applied one after the other.
        name: of the augmentation, for errors.
        interpolation: of the warps.
        fill: what warps show outside of the image.
    """
    image_bytes(batch, name)
    if layers.shape[0] == 1:
        return _layer(batch, table, layers[0], interpolation, fill)
    moving = {k: batch[k] for k in ("image", "label") if k in batch}
    step = lambda x, chosen: (_layer(x, table, chosen, interpolation, fill), None)
    return {**batch, **jax.lax.scan(step, moving, layers)[0]}


def _layer(
    batch: Batch, table: Row, chosen: Array, interpolation: Interpolation, fill: float
) -> Batch:
    matrix, levels, kind, factor = (jnp.asarray(field)[chosen] for field in table)
    there = lambda *kinds: bool(np.isin(table.kind, kinds).any())
    if np.any(table.matrix != IDENTITY):
        batch = warped(batch, matrix, interpolation, fill)
    image = batch["image"]
    if there(CONTRAST, AUTOCONTRAST, EQUALIZE) or np.any(table.table != intensity.LEVELS):
        levels = jnp.broadcast_to(levels[:, None], (len(chosen), image.shape[-1], 256))
        ramp = jnp.broadcast_to(jnp.arange(256), (len(chosen), 1, 256))
        drawn_up = {
            CONTRAST: lambda: blend(sides(mean_grey(image), ramp), ramp, factor),
            AUTOCONTRAST: lambda: intensity.autocontrast_table(image),
            EQUALIZE: lambda: intensity.equalize_table(image),
        }
        for which, build in drawn_up.items():
            if there(which):
                levels = intensity.where_chosen(kind == which, build, levels)
        image = intensity.look_up(image, levels)
    if there(COLOUR, SHARPNESS):

        def blended(image: Array) -> Array:
            degenerate = jnp.where(sides(kind == SHARPNESS, image), smooth(image), grey(image))
            out = blend(degenerate, image, factor)
            return jnp.where(sides(kind >= COLOUR, image), out, image)

        image = jax.lax.cond(jnp.any(kind >= COLOUR), blended, lambda image: image, image)
    return {**batch, "image": image}


def drawn(key: Array, index: np.ndarray, levels: Array | int, shape: tuple[int, ...]) -> Array:
    """Rows (shape) for an even draw of operation and sign, at magnitudes given or (shape) drawn."""
    which, sign = jax.random.split(key)
    operation = jax.random.randint(which, shape, 0, index.shape[0])
    flipped = jax.random.randint(sign, shape, 0, 2)
    return jnp.asarray(index)[operation, levels, flipped]


def steps(first: float, last: float, bins: int) -> list[float]:
    """Evenly spaced magnitudes."""
    return list(np.linspace(first, last, bins))


def bits(first: float, fewer: float, bins: int) -> list[float]:
    """Bits for Posterize, from `first` down by `fewer`, rounded half to even."""
    return list(first - np.round(np.arange(bins) / ((bins - 1) / fewer)))


def colours(most: float, bins: int) -> dict[str, tuple[list[float], bool]]:
    """Brightness, Color, Contrast and Sharpness up to `most` either way."""
    names = ("Brightness", "Color", "Contrast", "Sharpness")
    return dict(zip(names, itertools.repeat((steps(0, most, bins), True)), strict=False))
