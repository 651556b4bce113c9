"""Reader of the `.npz` and `.npy` files of a run directory; a damaged file is named."""

from pathlib import Path

import numpy as np

from jaxdl.errors import UserError
from jaxdl.untrusted import BROKEN_ARRAY


def read_npz(file: Path) -> dict[str, np.ndarray]:
    """Read all arrays of an `.npz` file, by name; `UserError` where it is damaged."""
    try:
        with file.open("rb") as handle, np.load(handle, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except BROKEN_ARRAY as error:
        raise UserError(f"{file}: not a readable .npz file: {_line(error)}") from error


def read_npy(file: Path) -> np.ndarray:
    """Read the array of an `.npy` file; `UserError` where it is damaged."""
    try:
        with file.open("rb") as handle:
            return np.lib.format.read_array(handle, allow_pickle=False)
    except BROKEN_ARRAY as error:
        raise UserError(f"{file}: not a readable .npy file: {_line(error)}") from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
