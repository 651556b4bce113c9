"""Predictions of a run: confusions, and examples it got right and wrong."""

import base64
import colorsys
import io
from typing import Any

import numpy as np

from jaxdl.report import text
from jaxdl.rundir.read import Maps, Predictions

MOST_NUMBERED = 20  # classes whose confusions can be read as numbers
MOST_MAPPED = 100  # classes whose confusions can be seen as a map
SHOWN = 24  # examples of each kind on the page
SMALL_SIDE = 160  # pixels: what a larger image is reduced to
_RIGHT, _WRONG = (37, 99, 235), (217, 119, 6)


def class_names(names: Any, count: int) -> list[str]:
    """`count` names, numbers standing in for those that are missing."""
    names = [str(n) for n in names] if isinstance(names, list | tuple) else []
    return names[:count] + [str(i) for i in range(len(names), count)]


def confusion(matrix: np.ndarray, names: list[str]) -> dict[str, Any]:
    """Layout of a confusion matrix: numbers up to 20 classes, a map up to 100, and pairs.

    Args:
        matrix: (k, k) counts, rows are the truth.
        names: k class names.
    """
    k = len(matrix)
    totals = matrix.sum(axis=1)
    fractions = matrix / np.maximum(totals, 1)[:, None]
    # The root, because a class that is mistaken one time in a hundred ought still to be seen.
    tints = np.sqrt(fractions).round(3)
    tall = any(len(name) > 3 for name in names)
    shown: dict[str, Any] = {"names": names, "tall": tall, "rows": [], "map": None, "pairs": []}
    if k <= MOST_NUMBERED:
        for i, name in enumerate(names):
            counts = [f"{int(n):,}" if n else "" for n in matrix[i]]
            cells = list(zip(counts, tints[i].tolist(), strict=True))
            found = text.measure("accuracy", float(fractions[i, i])) if totals[i] else ""
            shown["rows"].append((name, cells, found))
        return shown
    if k <= MOST_MAPPED:
        shown["map"] = png_uri(heat_map(tints))
    shown["pairs"] = most_confused(matrix, names)
    return shown


def matrix(values: np.ndarray, names: list[str]) -> dict[str, Any]:
    """Table of a matrix (k, k) of any numbers up to 20 classes, a map beyond.

    Of an array of another shape only the shape is said.
    """
    shown: dict[str, Any] = {"names": names, "rows": [], "map": None, "shape": None}
    if values.ndim != 2 or values.shape[0] != values.shape[1]:
        return shown | {"shape": " x ".join(map(str, values.shape))}
    if len(values) > MOST_NUMBERED:
        sizes = np.abs(np.nan_to_num(values, posinf=0, neginf=0)).astype(float)
        return shown | {"map": png_uri(heat_map(np.sqrt(sizes / max(sizes.max(), 1e-300))))}
    rows = [[text.number(x) for x in row] for row in values.tolist()]
    return shown | {"rows": list(zip(names, rows, strict=True))}


def heat_map(tints: np.ndarray) -> np.ndarray:
    """Opacities (k, k) in [0, 1] as pixels (k, k, 4) uint8, right in blue and wrong in orange."""
    right = np.eye(len(tints), dtype=bool)[..., None]
    color = np.where(right, np.array(_RIGHT), np.array(_WRONG))
    return np.concatenate([color, np.round(255 * tints)[..., None]], axis=-1).astype(np.uint8)


def most_confused(
    matrix: np.ndarray, names: list[str], limit: int = 15
) -> list[tuple[str, str, str, str]]:
    """(true class, predicted class, times, fraction of the true class), the most frequent first."""
    wrong = matrix * (1 - np.eye(len(matrix), dtype=matrix.dtype))
    order = np.argsort(-wrong, axis=None, kind="stable")[:limit]
    pairs = []
    for i, j in zip(*np.unravel_index(order, wrong.shape), strict=True):
        if wrong[i, j] > 0:
            fraction = f"{100 * wrong[i, j] / matrix[i].sum():.1f}%"
            pairs.append((names[i], names[j], f"{int(wrong[i, j]):,}", fraction))
    return pairs


def examples(predictions: Predictions, names: list[str]) -> dict[str, list[dict[str, Any]]]:
    """'wrong' and 'right' examples to show, the most confident of the wrong ones first."""
    chosen: dict[str, list[dict[str, Any]]] = {"wrong": [], "right": []}
    if predictions.image is None:
        return chosen
    confidence = np.nan_to_num(predictions.confidence[predictions.index].astype(float), nan=-1.0)
    for place in np.argsort(-confidence, kind="stable"):
        i = int(predictions.index[place])
        truth, said = int(predictions.label[i]), int(predictions.prediction[i])
        kind = chosen["right" if truth == said else "wrong"]
        if len(kind) < SHOWN:
            kind.append(
                {
                    "source": png_uri(predictions.image[place]),
                    "small": max(predictions.image.shape[1:3]) < SMALL_SIDE,
                    "truth": names[truth] if 0 <= truth < len(names) else str(truth),
                    "said": names[said] if 0 <= said < len(names) else str(said),
                    "confidence": f"{100 * predictions.confidence[i]:.0f}%"
                    if np.isfinite(predictions.confidence[i])
                    else "NaN",
                    "number": i,
                }
            )
    return chosen


def segmented(found: Maps, names: list[str]) -> dict[str, Any]:
    """Image, truth and prediction side by side, and the colour of each class.

    Args:
        found: m examples.
        names: of the k classes; a pixel of any other number is black.
    """
    palette = colors(len(names))
    rows = [
        {
            "sources": [png_uri(picture) for picture in (image, *maps)],
            "small": max(image.shape[:2]) < SMALL_SIDE,
            "number": int(number),
        }
        for image, *maps, number in zip(
            _bytes(found.image),
            painted(found.label, palette),
            painted(found.prediction, palette),
            found.index,
            strict=True,
        )
    ]
    legend = [
        (f"rgb{tuple(color)}", name) for color, name in zip(palette.tolist(), names, strict=True)
    ]
    return {"rows": rows, "legend": legend}


def colors(k: int) -> np.ndarray:
    """k colours to tell apart, (k, 3) uint8: hues by the golden ratio, in two brightnesses."""
    hue = np.arange(k) * (5**0.5 - 1) / 2 % 1.0
    return np.array(
        [
            [round(255 * c) for c in colorsys.hsv_to_rgb(h, 0.75, 0.95 if i % 2 == 0 else 0.6)]
            for i, h in enumerate(hue)
        ],
        np.uint8,
    ).reshape(k, 3)


def painted(label: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """A map of class numbers (..., h, w) in the colours of a palette (k, 3); black outside it."""
    known = (label >= 0) & (label < len(palette))
    black = np.zeros((1, 3), np.uint8)
    return np.concatenate([palette, black])[np.where(known, label, len(palette))]


def _bytes(image: np.ndarray) -> np.ndarray:
    """Images of any numbers as uint8, the lowest black and the highest white."""
    if image.dtype == np.uint8:
        return image
    low, high = image.min(), image.max()
    return np.uint8(255 * (image - low) / max(high - low, 1e-9))


def png_uri(image: np.ndarray) -> str:
    """A data URI of an (h, w, c) uint8 image; of its first channel where c is not 1, 3 or 4."""
    from PIL import Image

    picture = Image.fromarray(image if image.shape[-1] in (3, 4) else image[..., 0])
    picture.thumbnail((SMALL_SIDE, SMALL_SIDE))
    file = io.BytesIO()
    picture.save(file, format="png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
