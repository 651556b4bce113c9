"""Drawn shapes under noise, each pixel labelled: segmentation that needs no download.

Colours are drawn anew, dark ones for the ground and light ones for each shape, so that only its
outline tells what a shape is; one may hide a part of another.
"""

import numpy as np

from jaxdl.config import Count, NonNegative, Seed
from jaxdl.data.arrays import check_room, from_arrays
from jaxdl.data.images import Side
from jaxdl.data.source import Source
from jaxdl.data.split_spec import select
from jaxdl.registry import register

CLASSES = ("ground", "disc", "square", "triangle")
_FRACTIONS = {"train": (0.0, 0.8), "validation": (0.8, 0.9), "test": (0.9, 1.0)}


@register("sources")
def shapes(
    split: str,
    /,
    *,
    size: Side = 48,
    shapes: Count = 4,
    noise: NonNegative = 24.0,
    examples: Count = 1000,
    seed: Seed = 0,
) -> Source:
    """Discs, squares and triangles on a ground: drawn, deterministic; nothing to download.

    Records have `image` (size, size, 3) uint8 and `label` (size, size), a number of `CLASSES`.

    Args:
        split: of train, validation and test, which are 80%, 10% and 10% of all.
        size: side of an image in pixels.
        shapes: drawn on an image, one after the other.
        noise: standard deviation of each channel's noise, of 255.
        examples: in all splits together.
        seed: of everything drawn.
    """
    check_room(f"source 'shapes' of size {size}", examples, size, size, 4)
    cuts = {name: (round(i * examples), round(j * examples)) for name, (i, j) in _FRACTIONS.items()}
    places = {name: np.arange(i, j) for name, (i, j) in cuts.items()}
    drawn = [_draw((seed, int(i)), size, shapes, noise) for i in select(split, places)]
    columns = {"image": [image for image, _ in drawn], "label": [label for _, label in drawn]}
    return from_arrays(columns, CLASSES)


def _draw(
    seed: tuple[int, int], size: int, shapes: int, noise: float
) -> tuple[np.ndarray, np.ndarray]:
    """(image, label) of one example."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] + 0.5
    image = np.broadcast_to(random.uniform(0, 100, 3), (size, size, 3))
    label = np.zeros((size, size), np.uint8)
    for _ in range(shapes):
        kind = int(random.integers(1, len(CLASSES)))
        row, column = random.uniform(0.1, 0.9, 2) * size
        radius = random.uniform(0.1, 0.25) * size
        inside = _inside(kind, y - row, x - column, radius, random.uniform(0, 2 * np.pi))
        image = np.where(inside[..., None], random.uniform(120, 255, 3), image)
        label = np.where(inside, np.uint8(kind), label)
    image = image + random.normal(0, noise, image.shape)
    return np.clip(image, 0, 255).round().astype(np.uint8), label


def _inside(kind: int, y: np.ndarray, x: np.ndarray, radius: float, angle: float) -> np.ndarray:
    """True where points lie inside a shape about the origin that a circle of `radius` encloses."""
    if CLASSES[kind] == "disc":
        return np.hypot(y, x) <= radius
    # A regular polygon of n sides: the n half-planes  u_i . (x, y) <= r cos(pi / n)
    n = {"square": 4, "triangle": 3}[CLASSES[kind]]
    turns = angle + 2 * np.pi * np.arange(n)[:, None, None] / n
    return np.all(np.cos(turns) * x + np.sin(turns) * y <= radius * np.cos(np.pi / n), axis=0)
