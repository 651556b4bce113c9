"""A file of weights becomes arrays by name: safetensors, PyTorch, or npz, told apart by content.

Nothing in a file runs, and no array is made of a number that the file's bytes do not bear out.
safetensors: https://github.com/huggingface/safetensors (its own library reads and writes it).
npz: `numpy.lib.format`, never with pickled objects. PyTorch: `torch_file.py`.
"""

import io
import math
import tokenize
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from jaxdl.errors import UserError, choices
from jaxdl.hub import torch_file
from jaxdl.hub.archive import check_archive, read_member
from jaxdl.hub.torch_file import Weights
from jaxdl.untrusted import BROKEN_ARRAY

_BROKEN = (*BROKEN_ARRAY, SafetensorError)
_SAFETENSORS = {
    *("BOOL", "U8", "U16", "U32", "U64", "I8", "I16", "I32", "I64"),
    *("F16", "BF16", "F32", "F64"),
}
PREFIXES = ("module.", "_orig_mod.", "model.")
"""Beginnings of all names by DataParallel, torch.compile and Lightning."""
_HEAD = 512
_LONGEST = 400  # characters of a message


class Format(NamedTuple):
    """One kind of file, known by the bytes `magic` at an `offset` below 512.

    The suffixes only serve to say what a file should have been.
    """

    title: str
    suffixes: tuple[str, ...]
    offset: int
    magic: bytes
    read: Callable[[Path, str], Weights]
    """of the file, and a key of the checkpoint in it or none"""


def read(path: str | Path, key: str = "") -> dict[str, np.ndarray]:
    """Read a file of weights.

    Args:
        path: a safetensors file; a PyTorch file, old or new; or an npz file. The content decides,
            not the suffix.
        key: of a PyTorch checkpoint with several networks or weights, such as 'model_ema'.

    Returns:
        Name to array, contiguous, each in the dtype of the file (bfloat16 as `jax.numpy.bfloat16`).
        Of a PyTorch checkpoint without a key these are the tensors under the first of
        `torch_file.WRAPPERS` that has any, or else at its top; entries that are not tensors are
        left out. Prefixes that all names have are gone, if they are of `PREFIXES`.

    Raises:
        UserError: in one line the file and what is wrong with it. A file that asks for more than
            tensors, such as a function to call, is refused by that name.
    """
    return read_weights(path, key).tensors


def read_weights(path: str | Path, key: str = "") -> Weights:
    """As `read`, and where in a checkpoint the tensors stand, and which others it has."""
    path = Path(path)
    if not path.is_file():
        near = [p.name for p in path.parent.glob("*") if p.is_file()]
        raise UserError(_line(path, f"no such file of weights; {choices(path.name, near)}"))
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
        weights = _format(head, path.suffix.lower()).read(path, key)
    except UserError as error:
        raise UserError(_line(path, str(error))) from error
    except _BROKEN as error:
        why = str(error) or type(error).__name__
        raise UserError(_line(path, f"cannot be read: {why}")) from error
    tensors = _without_prefixes(weights.tensors)
    for name in tensors:
        if not name.isprintable():
            raise UserError(_line(path, f"has a tensor with an unprintable name, {name!r}"))
    return weights._replace(tensors=tensors)


def _without_prefixes(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    if any(name.startswith("module.") for name in tensors):
        # torch.optim.swa_utils.AveragedModel counts its updates beside its network, 'module'.
        tensors = {name: tensor for name, tensor in tensors.items() if name != "n_averaged"}
    for _ in PREFIXES:  # a compiled network in a wrapper, or the other way round
        prefix = next((p for p in PREFIXES if all(name.startswith(p) for name in tensors)), "")
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def write_safetensors(path: str | Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write arrays of any strides and byte order, by name; `UserError` where that is impossible."""
    path = Path(path)
    # save_file takes the bytes as they lie, in whatever order of axes.
    arrays = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    try:
        save_file(arrays, path)
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(_line(path, f"cannot be written: {error}")) from error


def _format(head: bytes, suffix: str) -> Format:
    for known in FORMATS:
        if head.startswith(known.magic, known.offset):
            return known
    expected = [f.title for f in FORMATS if suffix in f.suffixes] or ["safetensors, PyTorch or npz"]
    raise UserError(f"is not a {expected[0]} file: it begins with {head[:24]!r}")


def _read_safetensors(path: Path, key: str) -> Weights:
    _check_no_key(key)
    with safe_open(path, framework="numpy") as file:
        names = sorted(file.keys())
        for name in names:
            kind = file.get_slice(name).get_dtype()
            if kind not in _SAFETENSORS:
                raise UserError(f"has the tensor {name} of the unusual dtype {kind}")
        return Weights({name: file.get_tensor(name) for name in names})


def _check_no_key(key: str) -> None:
    if key:
        raise UserError(f"has no weights under '{key}': only PyTorch's checkpoints have keys")


def _read_zip(path: Path, key: str) -> Weights:
    with zipfile.ZipFile(path) as archive:
        check_archive(archive, path.stat().st_size)
        names = archive.namelist()
        if any(name.endswith("/data.pkl") for name in names):
            return torch_file.read_zip(archive, key)
        if names and all(name.endswith(".npy") for name in names):
            _check_no_key(key)
            arrays = {n.removesuffix(".npy"): _array(read_member(archive, n), n) for n in names}
            return Weights(arrays)
    raise UserError(
        "is a zip archive, but neither of PyTorch (it has no data.pkl) nor of .npy arrays"
    )


def _array(data: bytes, name: str) -> np.ndarray:
    stream = io.BytesIO(data)
    shape, fortran, dtype = _npy_header(stream, name)
    if dtype.kind not in "biuf":
        raise UserError(f"its array {name} is of dtype {dtype}, not of numbers: refused")
    body = memoryview(data)[stream.tell() :]
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(body):
        raise UserError(f"its array {name} is of shape {shape}, but has {len(body)} bytes")
    array = np.frombuffer(body, dtype).reshape(shape, order="F" if fortran else "C")
    return np.array(array, dtype.newbyteorder("="), order="C")


def _npy_header(stream: BinaryIO, name: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # numpy mends a broken header, and says so
            version = np.lib.format.read_magic(stream)
            if version == (1, 0):
                return np.lib.format.read_array_header_1_0(stream)
            return np.lib.format.read_array_header_2_0(stream)
    except (SyntaxError, TypeError, ValueError, Warning, tokenize.TokenError) as error:
        raise UserError(f"its array {name} has a broken header: {error}") from error


def _refuse(message: str) -> Callable[[Path, str], Weights]:
    def read_nothing(path: Path, key: str) -> Weights:
        raise UserError(message)

    return read_nothing


def _line(path: Path, message: str) -> str:
    # What a file says of itself may hold line feeds, and escapes that a terminal obeys.
    text = "".join(c if c.isprintable() else "?" for c in " ".join(message.split()))
    return f"'{path}': {text[:_LONGEST]}"


def _read_legacy(path: Path, key: str) -> Weights:
    return torch_file.read_legacy(path.read_bytes(), key)


FORMATS = (
    Format("npz", (".npz",), 0, b"PK\x03\x04", _read_zip),  # PyTorch's too
    Format("PyTorch", (".pth", ".pt", ".th", ".tar"), 0, torch_file.LEGACY_MAGIC, _read_legacy),
    Format("safetensors", (".safetensors",), 8, b"{", _read_safetensors),
    Format(
        "tar",
        (),
        257,
        b"ustar",
        _refuse("is a tar archive, as of PyTorch 0.1: load and save it again with a later one"),
    ),
    Format("pickle", (), 0, b"\x80", _refuse("is a pickle, but not one of PyTorch: refused")),
    Format("HDF5", (), 0, b"\x89HDF", _refuse("is an HDF5 file: save the weights as npz")),
    Format("npy", (), 0, b"\x93NUMPY", _refuse("is one array without a name: save an npz")),
)
