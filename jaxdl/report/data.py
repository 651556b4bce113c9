"""The page of a data check: findings, counts, and examples before and after augmentation."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxdl.report import text
from jaxdl.report.page import render
from jaxdl.report.samples import SMALL_SIDE, png_uri

MOST_LINES, MOST_CLASSES = 100, 200
"""Of a kind of finding, and of a table"""


def data_page(
    source: str,
    splits: Mapping[str, Mapping[str, Any]],
    findings: Mapping[str, Sequence[str]],
    notes: Sequence[str],
    samples: Sequence[tuple[str, str, np.ndarray, Sequence[tuple[np.ndarray, str]]]],
    pairs: Sequence[tuple[tuple[str, str], tuple[np.ndarray, np.ndarray]]],
    augment: Sequence[str],
) -> str:
    """The page, which needs nothing else.

    Args:
        source: of the data, in words.
        splits: role to the facts of the split, as `check_data.facts` gives them.
        findings: lines by kind.
        notes: lines.
        samples: name, label, image (h, w, c) uint8, its augmentations with what they mix.
        pairs: names and images of examples that are one.
        augment: names of the augmentations.
    """
    content = {
        "title": "Data check",
        "source": source,
        "count": text.number(sum(map(len, findings.values()))),
        "findings": [
            (
                kind,
                lines[:MOST_LINES],
                text.number(len(lines) - MOST_LINES) if lines[MOST_LINES:] else "",
            )
            for kind, lines in findings.items()
        ],
        "notes": notes,
        "splits": [_row(role, split) for role, split in splits.items()],
        "classes": _classes(splits),
        "samples": [
            {
                "name": name,
                "label": label,
                "image": png_uri(image),
                "small": max(image.shape[:2]) < SMALL_SIDE,
                "augmented": [(png_uri(picture), mixture) for picture, mixture in changed],
            }
            for name, label, image, changed in samples
        ],
        "augmentations": len(samples[0][3]) if samples else 0,
        "augment": ", ".join(augment),
        "pairs": [
            {
                "names": names,
                "images": [png_uri(image) for image in images],
                "small": max(images[0].shape[:2]) < SMALL_SIDE,
            }
            for names, images in pairs
        ],
    }
    return render(content, "data.html.jinja")


def _row(role: str, split: Mapping[str, Any]) -> dict[str, str]:
    arrays = [
        f"{key} {', '.join(shapes) if len(shapes) < 4 else f'of {len(shapes)} shapes'}"
        for key, shapes in split["elements"].items()
    ]
    return {
        "role": role,
        "split": split["split"],
        "examples": text.number(split["examples"]),
        "readable": text.number(split["readable"]),
        "arrays": "; ".join(arrays),
    }


def _classes(splits: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A table for each target of classes: a row a class, a column a split."""
    keys = list(dict.fromkeys(key for split in splits.values() for key in split["classes"]))
    tables = []
    for key in keys:
        counts = {role: s["classes"].get(key, {}) for role, s in splits.items()}
        names = list(dict.fromkeys(name for one in counts.values() for name in one))
        shown = names[:MOST_CLASSES]
        tables.append(
            {
                "title": "Classes" if key == "label" else f"Classes of {key}",
                "roles": list(counts),
                "rows": [
                    (name, [text.number(one.get(name, 0)) for one in counts.values()])
                    for name in shown
                ],
                "more": text.number(len(names) - len(shown)) if len(names) > len(shown) else "",
            }
        )
    return tables
