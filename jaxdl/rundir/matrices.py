"""Matrices that a run measured, such as a confusion matrix: `matrices/SPLIT/METRIC.npy`.

Each file holds the last evaluation's; curves of numbers are in `metrics.jsonl`.
"""

import io
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxdl.rundir.arrays import read_npy


def save_matrices(workdir: Path, split: str, matrices: Mapping[str, np.ndarray]) -> None:
    """Write the matrices of one split, by metric; a full disk is only a warning."""
    for metric, matrix in matrices.items():
        file = workdir / "matrices" / split / f"{metric}.npy"
        content = io.BytesIO()
        np.save(content, matrix, allow_pickle=False)
        fresh = file.with_suffix(".tmp")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            fresh.write_bytes(content.getvalue())
            fresh.replace(file)
        except OSError as error:
            warnings.warn(f"{file} cannot be written: {error.strerror}", stacklevel=2)


def read_matrices(workdir: Path) -> dict[str, np.ndarray]:
    """'split/metric' to matrix; `UserError` for a damaged file."""
    return {key: read_npy(file) for key, file in matrix_files(workdir).items()}


def matrix_files(workdir: Path) -> dict[str, Path]:
    """'split/metric' to the file of its matrix, sorted by path."""
    files = sorted((workdir / "matrices").glob("*/*.npy"))
    return {f"{file.parent.name}/{file.stem}": file for file in files}
