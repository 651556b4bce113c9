"""The run directory: config, manifest of versions and hardware, predictions.

`config.json`, `manifest.json`, `metrics.jsonl`, `tensorboard/`, `checkpoints/`, `outputs/`,
`predictions.npz`, `report.html`. Everything that looks at a run later reads this directory and
nothing else.
"""

import contextlib
import importlib.metadata
import json
import os
import platform
import shlex
import sys
import warnings
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxdl
from jaxdl.cluster.signals import Interrupted, Stopping
from jaxdl.config import Config
from jaxdl.config_file import from_json, to_dict, to_json
from jaxdl.corrections import arguments, either
from jaxdl.errors import UserError
from jaxdl.rundir.read import kept_steps

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")

# What may change between two starts in one directory: it moves neither parameters nor data.
FREE = (
    "duration", "evaluation", "early_stopping", "checkpoint", "mesh", "log", "watchdog_seconds",
    "steps_per_execution", "data.memory", "data.device_memory", "data.threads", "data.prefetch",
    "data.evaluation_batch_size",
)  # fmt: skip


def claim(workdir: Path, config: Config, steps: int | None = None) -> list[str]:
    """Claim the directory for a config, or check that it is claimed by this one.

    A directory in which not one step was logged or saved is claimed anew.

    Args:
        workdir: the run directory.
        config: of the run.
        steps: that the run is to have at its end.

    Returns:
        What has changed since the directory was last used, one line each.

    Raises:
        UserError: it cannot be written, holds a run of another config, or more than `steps` steps.
    """
    saved = kept_steps(workdir / "checkpoints")
    if steps is not None and max(saved, default=0) > steps:
        raise UserError(
            f"{workdir} holds {max(saved):,} steps, config.duration={config.duration} is "
            f"{steps:,}: choose another --workdir, or a longer duration"
        )
    file = workdir / "config.json"
    changes: dict[str, tuple[Any, Any]] = {}
    with writing(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        if file.exists():
            old = _flat(to_dict(from_json(file.read_text(), where=str(file))))
            new = _flat(to_dict(config))
            changes = {k: (old.get(k), new.get(k)) for k in old | new if old.get(k) != new.get(k)}
        shown = [f"{k}: {a!r} -> {b!r}" for k, (a, b) in changes.items()]
        bound = [s for s, k in zip(shown, changes, strict=True) if not k.startswith(FREE)]
        if bound and (saved or _is_logged(workdir)):
            raise UserError(
                f"{workdir} holds a run of another config ({'; '.join(bound[:3])}): "
                "choose another --workdir"
            )
        if jax.process_index() == 0:
            replace(file, to_json(config))
    return shown


def _is_logged(workdir: Path) -> bool:
    metrics = workdir / "metrics.jsonl"
    return metrics.is_file() and metrics.stat().st_size > 0


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}.{key}" if prefix else key)
    return flat


def replace(file: Path, text: str) -> None:
    """Write a file atomically."""
    fresh = file.with_name(file.name + ".tmp")
    try:
        fresh.write_text(text, newline="")
        fresh.replace(file)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def writing(workdir: Path) -> Iterator[None]:
    """Turn a failure to write an essential file into a `UserError`."""
    try:
        yield
    except OSError as error:
        # Without the option a run has a new directory, in runs/.
        path = str(workdir)
        elsewhere = either(arguments(["--workdir", path], []), arguments([f"--workdir={path}"], []))
        message = f"cannot write to workdir {workdir}: {error.strerror}"
        raise UserError(message, elsewhere) from error


@contextlib.contextmanager
def drawing(what: str) -> Iterator[None]:
    """Turn a failure to draw something into a line: a finished training ends as finished."""
    try:
        yield
    except (UserError, OSError, Stopping, Interrupted):
        raise
    except Exception as error:  # of a picture that nobody has thought of
        first = (str(error).splitlines() or [""])[0]
        print(f"warning: no {what}: {type(error).__name__}: {first}", file=sys.stderr)


class Manifest:
    """`manifest.json`: versions, commit, hardware, and entries of `update`; written atomically."""

    def __init__(self, workdir: Path, **known: Any):
        self._file = workdir / "manifest.json"
        self._values = environment() | known
        self.update(status="running")

    def update(self, **values: Any) -> None:
        """Add or replace entries and write the file; after a failure the next call writes them."""
        self._values |= values
        if jax.process_index() != 0:
            return
        try:
            replace(self._file, json.dumps(self._values, indent=2) + "\n")
        except OSError as error:
            warnings.warn(f"{self._file} cannot be written: {error.strerror}", stacklevel=2)


def environment() -> dict[str, Any]:
    """Versions, commit and hardware of this process."""
    return {
        "jaxdl": jaxdl.__version__,
        "versions": {p: _version(p) for p in PACKAGES},
        "python": platform.python_version(),
        # platform.platform() would start a process, to ask for the kind of processor
        "platform": f"{platform.system()}-{platform.release()}-{platform.machine()}",
        "git": {"commit": commit(Path.cwd())},
        "hardware": {
            "backend": jax.default_backend(),
            "devices": jax.device_count(),
            "device_kind": jax.devices()[0].device_kind,
            "processes": jax.process_count(),
            "cpu_count": os.cpu_count(),
        },
        "command": shlex.join(["jaxdl", *sys.argv[1:]]),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit(folder: Path) -> str | None:
    """The commit checked out in the git repository around `folder`, read without running git."""
    for parent in (folder, *folder.parents):
        git = parent / ".git"
        if not (git / "HEAD").is_file():
            continue
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        name = head.removeprefix("ref: ")
        if (git / name).is_file():
            return (git / name).read_text().strip()
        packed = git / "packed-refs"
        refs = packed.read_text().splitlines() if packed.is_file() else []
        return next((line.split()[0] for line in refs if line.endswith(f" {name}")), None)
    return None


def save_predictions(
    workdir: Path, split: Any, name: str, predictions: Mapping[str, np.ndarray], shown: int = 12
) -> None:
    """Write `predictions.npz`: every prediction, the confusion matrix, and images if there are any.

    Args:
        workdir: the run directory.
        split: what was predicted, with `examples(indices)` and `num_classes`.
        name: of the split.
        predictions: `label`, `prediction` and `confidence`, each (n,).
        shown: images of right and as many of wrong predictions: the most confident mistakes,
            and right ones spread evenly over the split.
    """
    label, prediction = predictions["label"], predictions["prediction"]
    wrong = np.flatnonzero(label != prediction)
    wrong = wrong[np.argsort(-predictions["confidence"][wrong], kind="stable")][:shown]
    right = np.flatnonzero(label == prediction)
    right = right[np.linspace(0, len(right) - 1, min(shown, len(right))).astype(int)]
    index = np.concatenate([wrong, right])
    confusion = np.zeros((split.num_classes,) * 2, np.int64)
    np.add.at(confusion, (label, prediction), 1)
    arrays: dict[str, Any] = {**predictions, "confusion": confusion}
    if "image" in split.element_spec:
        image = split.examples(index)["image"]
        if image.dtype != np.uint8:
            image = image.astype(np.float64)
            low, high = image.min(), image.max()
            image = np.uint8(255 * (image - low) / max(high - low, 1e-9))
        arrays |= {"image": image, "index": index}
    with writing(workdir):
        np.savez_compressed(workdir / "predictions.npz", **arrays, split=name)
