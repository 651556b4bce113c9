"""Reader of a run directory.

Everything that looks at a finished or interrupted run (report, comparison) uses it. A file
that is absent is an absence, except the config, without which a run means nothing to most readers;
a file that is broken is an error that names it.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxdl import config_file, judging
from jaxdl.aliases import current_metric, current_status
from jaxdl.config import Config
from jaxdl.corrections import run_like
from jaxdl.errors import UserError
from jaxdl.rundir.arrays import read_npz

FILES = ("config.json", "manifest.json", "metrics.jsonl")


class Predictions(NamedTuple):
    """Predictions of the best weights on one split of n examples in k classes."""

    label: np.ndarray
    """(n,) int, the truth"""
    prediction: np.ndarray
    """(n,) int"""
    confidence: np.ndarray
    """(n,) float in [0, 1], the probability given to `prediction`"""
    confusion: np.ndarray | None
    """(k, k) int, rows are the truth"""
    image: np.ndarray | None
    """(m, h, w, c) uint8, a selection"""
    index: np.ndarray  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    """(m,) int, where each image stands among the n examples"""
    split: str


class Maps(NamedTuple):
    """Predicted masks of the best weights for m examples."""

    image: np.ndarray
    """(m, h, w, c) as it was stored"""
    label: np.ndarray
    """(m, h, w) int, the truth; pixels without a class are void"""
    prediction: np.ndarray
    """(m, h', w') int"""
    index: np.ndarray  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    """(m,) int, where each stands in its split"""
    split: str


def check_run(workdir: Path) -> None:
    """Refuse a directory without any file of a run."""
    if not workdir.is_dir():
        raise UserError(f"no run directory '{workdir}'", run_like(workdir))
    if not any((workdir / name).is_file() for name in FILES):
        raise UserError(f"'{workdir}' is not a run directory: it has none of {', '.join(FILES)}")


def read_config(workdir: Path) -> Config:
    """The run's config; `UserError` where it is missing, unreadable or of another version."""
    file = workdir / "config.json"
    if not file.is_file():
        raise UserError(
            f"'{workdir}' has no config.json: is it a run directory?", run_like(workdir)
        )
    try:
        return config_file.from_json(_text(file), where=str(file))
    except UserError as error:
        if str(file) in str(error):
            raise
        raise UserError(f"{file}: {error}") from error


def kept_steps(folder: Path) -> list[int]:
    """Steps that have a finished checkpoint in a folder of them, ascending."""
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(int(f.name) for f in found if f.name.isdecimal() and f.is_dir())


def read_manifest(workdir: Path) -> dict[str, Any]:
    """The run's manifest, empty if there is none."""
    file = workdir / "manifest.json"
    if not file.is_file():
        return {}
    try:
        manifest = json.loads(_text(file))
    except json.JSONDecodeError as error:
        raise UserError(f"{file}, line {error.lineno}: not JSON: {error.msg}") from error
    if not isinstance(manifest, dict):
        raise UserError(f"{file}: expected an object, found {type(manifest).__name__}")
    if isinstance(status := manifest.get("status"), str):
        manifest["status"] = current_status(status)
    return manifest


def read_metrics(workdir: Path, last: int | None = None) -> list[dict[str, Any]]:
    """The logged lines in the order they were written, empty where nothing was logged.

    Each has an int `step` and any number of keys such as `train/loss`, in the names of today.
    A last line that does not parse was torn by the end of the run and is skipped; any other is an
    error.

    Args:
        workdir: the run directory.
        last: step beyond which lines are left out.
    """
    file = workdir / "metrics.jsonl"
    if not file.is_file():
        return []
    texts = [(n, t) for n, t in enumerate(file.read_bytes().split(b"\n"), start=1) if t.strip()]
    lines = []
    for number, text in texts:
        try:
            line = json.loads(text.decode())
        except ValueError as error:
            if number == texts[-1][0]:
                break
            raise UserError(f"{file}, line {number}: not JSON: {error}") from error
        if not isinstance(line, dict) or not isinstance(line.get("step"), int):
            raise UserError(f"{file}, line {number}: not an object with an integer 'step'")
        if last is None or line["step"] <= last:
            lines.append({current_metric(key): value for key, value in line.items()})
    return lines


def incomplete_line(workdir: Path) -> int | None:
    """The number of the last line of `metrics.jsonl` if it does not parse, else None."""
    file = workdir / "metrics.jsonl"
    if not file.is_file():
        return None
    texts = file.read_bytes().rstrip().split(b"\n")
    try:
        json.loads(texts[-1].decode() or "{}")
    except ValueError:
        return len(texts)
    return None


def series(lines: Sequence[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Values of one logged number over the run.

    A resumed run may have logged a step twice: the later line counts.

    Args:
        lines: as `read_metrics` gives them.
        key: `train/loss`, `validation/accuracy`, or a score over several; see `judging`.

    Returns:
        (steps, values): (t,) int64 in rising order and (t,) float64, NaN where the log says null.
        Both are empty for a key that was never logged.
    """
    keys = judging.score(key).keys
    kinds = int | float | None
    numbers = [
        {"step": line["step"]} | {k: line[k] for k in keys if isinstance(line.get(k, ""), kinds)}
        for line in lines
    ]
    found = {step: float(value) for step, value in judging.series(numbers, key)}
    steps = np.array(sorted(found), np.int64)
    return steps, np.array([found[s] for s in steps.tolist()], np.float64)


def read_predictions(workdir: Path) -> Predictions | Maps | None:
    """Predictions of the run on its last split, None if it saved none."""
    file = workdir / "predictions.npz"
    if not file.is_file():
        return None
    arrays: dict[str, Any] = dict(read_npz(file))
    try:
        if arrays["label"].ndim == 3:
            arrays["split"] = str(arrays["split"])
            return _checked(Maps(**{name: arrays[name] for name in Maps._fields}), file)
        predictions = Predictions(
            label=arrays["label"],
            prediction=arrays["prediction"],
            confidence=arrays["confidence"],
            confusion=arrays.get("confusion"),
            image=arrays.get("image"),
            index=arrays.get("index", np.zeros(0, np.int64)),
            split=str(arrays.get("split", "test")),
        )
    except KeyError as error:
        raise UserError(f"{file}: contains no array {error}") from error
    _check_shapes(predictions, file)
    return predictions


def _check_shapes(found: Predictions, file: Path) -> None:
    n, m = found.label.size, found.index.size
    if not found.label.shape == found.prediction.shape == found.confidence.shape == (n,):
        raise UserError(f"{file}: label, prediction and confidence are not three vectors alike")
    if found.confusion is not None and found.confusion.shape != found.confusion.shape[:1] * 2:
        raise UserError(f"{file}: confusion has shape {found.confusion.shape}, not (k, k)")
    if found.image is None:
        return
    if found.index.shape != (m,):
        raise UserError(f"{file}: index has shape {found.index.shape}, not ({m},)")
    if found.image.ndim != 4 or len(found.image) != m or found.image.dtype != np.uint8:
        raise UserError(f"{file}: image is not {m} uint8 images (h, w, c), one for each index")
    if m and (found.index.min() < 0 or found.index.max() >= n):
        raise UserError(f"{file}: index points outside the {n} examples")


def _checked(maps: Maps, file: Path) -> Maps:
    m = maps.index.size
    ranks = (maps.image.ndim, maps.label.ndim, maps.prediction.ndim, maps.index.ndim)
    if ranks != (4, 3, 3, 1) or {len(maps.image), len(maps.label), len(maps.prediction)} != {m}:
        raise UserError(f"{file}: image, label and prediction are not {m} maps alike")
    return maps


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read: {error}") from error
