"""PyTorch's files of weights, read without PyTorch and without running anything in them.

Format: https://docs.pytorch.org/docs/stable/notes/serialization.html and `torch/serialization.py`.
Since version 1.6 a zip archive: `data.pkl` and a member for each storage; before that, pickles
followed by the storages. The pickle describes tensors as views of storages. It is read first, and
no array is made before its numbers agree with the bytes that are there.
"""

import dataclasses
import io
import math
import struct
import zipfile
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from jax import numpy as jnp

from jaxdl.errors import UserError, choices
from jaxdl.hub import pickled
from jaxdl.hub.archive import read_member

LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # 0x1950a86a20f9469cfc6c, pickled
LEGACY_PROTOCOL = 1001

WRAPPERS = (
    *("state_dict", "model", "model_state_dict"),
    *("state_dict_ema", "model_ema", "model_ema_state_dict", "ema_state_dict", "ema"),
)
"""Under which key a checkpoint has its tensors, if not at the top; the first with any counts. The
second row is of averaged weights, which a training keeps beside its own."""

_DEPTH = 3  # a checkpoint in a checkpoint: {'model': {'state_dict': {...}}}
_MAX_AXES = 32
_MAX_COPIES = 4  # views of one storage are tied weights; more bytes of views are an attack

_STORAGES = {
    f"torch.{name}Storage": np.dtype(dtype)
    for name, dtype in {
        "Double": np.float64,
        "Float": np.float32,
        "Half": np.float16,
        "BFloat16": jnp.bfloat16,
        "Long": np.int64,
        "Int": np.int32,
        "Short": np.int16,
        "Char": np.int8,
        "Byte": np.uint8,
        "Bool": np.bool_,
    }.items()
}


class Weights(NamedTuple):
    """Arrays of a file, and where in a checkpoint they stand."""

    tensors: dict[str, np.ndarray]
    key: str = ""
    """under which the checkpoint has them; empty at its top, and in files that have no keys"""
    others: tuple[str, ...] = ()
    """keys of `WRAPPERS` that hold weights too"""


@dataclasses.dataclass(frozen=True, slots=True)
class Storage:
    """A one-dimensional array in the file, under the name that its pickle gives it."""

    key: str
    dtype: np.dtype
    numel: int


@dataclasses.dataclass(frozen=True, slots=True)
class Tensor:
    """A view of a storage; offset and strides count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_zip(archive: zipfile.ZipFile, key: str = "") -> Weights:
    """The tensors of a file that PyTorch 1.6 or later wrote.

    Args:
        archive: one that passed `check_archive`, with a member `data.pkl` in a folder.
        key: of the checkpoint, under which the tensors are.

    Returns:
        Name to array, each in its own dtype: the tensors under the key; without one, those under
        the first of `WRAPPERS` that has any, or at the top.

    Raises:
        UserError: it holds, or asks for, anything but tensors, numbers and strings in plain
            containers; or its numbers do not agree.
    """
    members = set(archive.namelist())
    root, *others = [m.removesuffix("data.pkl") for m in members if m.endswith("/data.pkl")]
    if others:
        raise UserError("holds more than one data.pkl")
    described = _describe(io.BytesIO(read_member(archive, f"{root}data.pkl")), key)
    order = f"{root}byteorder"
    order = read_member(archive, order) if order in members else b"little"
    if order not in (b"little", b"big"):
        raise UserError(f"has the byte order {order!r}, neither little nor big")

    raw = {}
    for storage in {t.storage for t in described.tensors.values()}:
        member = f"{root}data/{storage.key}"
        if member not in members:
            raise UserError(f"lacks the member {member}, where its pickle has a tensor")
        data = read_member(archive, member)
        _check_size(storage, len(data))
        if order == b"big":
            data = np.frombuffer(data, f"u{storage.dtype.itemsize}").byteswap().tobytes()
        raw[storage] = data
    return Weights(_arrays(described.tensors, raw), described.key, described.others)


def read_legacy(data: bytes, key: str = "") -> Weights:
    """The tensors of a file that PyTorch before 1.6 wrote; like `read_zip`.

    Args:
        data: the whole file, from `LEGACY_MAGIC` on. Its numbers are little-endian, whatever
            machine wrote it.
        key: of the checkpoint, under which the tensors are.
    """
    stream = io.BytesIO(data)
    stream.seek(len(LEGACY_MAGIC))
    if pickled.load(stream, {}) != LEGACY_PROTOCOL:
        raise UserError("is of an unknown version of PyTorch's legacy format")
    pickled.load(stream, {})  # the sizes of C's types where it was written
    described = _describe(stream, key)
    storages = described.storages
    keys = pickled.load(stream, {})
    if not isinstance(keys, list) or not all(isinstance(k, str) for k in keys):
        raise UserError("has no list of its storages")
    if set(keys) != set(storages):
        raise UserError("its list of storages is not that of its tensors")

    raw = {}
    start = stream.tell()
    for name in keys:
        storage = storages[name]
        (numel,) = struct.unpack_from("<q", data, start)
        start += 8
        if numel != storage.numel:
            raise UserError(f"gives two sizes for its storage {name}")
        stop = start + numel * storage.dtype.itemsize
        raw[storage] = memoryview(data)[start:stop]
        _check_size(storage, len(raw[storage]))
        start = stop
    return Weights(_arrays(described.tensors, raw), described.key, described.others)


class _Described(NamedTuple):
    """A pickle's tensors, as in `Weights`, and all storages that it mentions."""

    tensors: dict[str, Tensor]
    key: str
    others: tuple[str, ...]
    storages: dict[str, Storage]


def _describe(stream: BinaryIO, key: str) -> _Described:
    storages: dict[str, Storage] = {}

    def storage(persistent_id: Any) -> Storage:
        made = _storage(persistent_id)
        if storages.setdefault(made.key, made) != made:
            raise UserError(f"describes its storage {made.key} in two ways")
        return made

    value = pickled.load(stream, _NAMES, storage)
    checkpoint = value if isinstance(value, dict) else {}
    names = filter(None, (*WRAPPERS, key))
    below = {name: _unwrap(checkpoint.get(name), _DEPTH - 1) for name in names}
    held = [name for name, tensors in below.items() if tensors]
    if key and key not in held:
        raise UserError(f"has no weights under '{key}': {choices(key, held)}")
    key = key or next(iter(held), "")
    tensors = below.get(key) or _unwrap(checkpoint, 1)
    if not tensors:
        keys = [str(key) for key in checkpoint][:12]
        found = f"a dict of {', '.join(keys)}" if keys else f"a {type(value).__name__}"
        raise UserError(
            f"has no tensors at its top or under {', '.join(WRAPPERS)}: it holds {found}"
        )
    others = tuple(name for name in held if name != key)
    return _Described(tensors, key, others, storages)


def _unwrap(value: Any, depth: int) -> dict[str, Tensor]:
    if not isinstance(value, dict) or not depth:
        return {}
    for key in WRAPPERS:
        if found := _unwrap(value.get(key), depth - 1):
            return found
    return {k: v for k, v in value.items() if isinstance(k, str) and isinstance(v, Tensor)}


def _arrays(
    tensors: Mapping[str, Tensor], raw: Mapping[Storage, bytes | memoryview]
) -> dict[str, np.ndarray]:
    views = set(tensors.values())
    wanted = sum(math.prod(v.shape) * v.storage.dtype.itemsize for v in views)
    if wanted > _MAX_COPIES * sum(map(len, raw.values())):
        raise UserError("its tensors overlap: together they are many times as large as the file")
    made = {view: _view(view, raw[view.storage]) for view in views}
    return {name: made[tensor] for name, tensor in tensors.items()}


def _view(tensor: Tensor, raw: bytes | memoryview) -> np.ndarray:
    flat = np.frombuffer(raw, tensor.storage.dtype)[tensor.offset :]
    strides = [stride * flat.itemsize for stride in tensor.strides]
    view = np.lib.stride_tricks.as_strided(flat, tensor.shape, strides, writeable=False)
    return view.copy()


def _check_size(storage: Storage, found: int) -> None:
    expected = storage.numel * storage.dtype.itemsize
    if found != expected:
        raise UserError(f"its storage {storage.key} has {found} bytes, not {expected}")


def _storage(persistent_id: Any) -> Storage:
    # Legacy files have a sixth, which would make it a view of another storage.
    if isinstance(persistent_id, tuple) and len(persistent_id) == 6 and persistent_id[5] is None:
        persistent_id = persistent_id[:5]
    match persistent_id:
        case ("storage", pickled.Name(kind), str(key), _, int(numel)) if (
            kind in _STORAGES and 0 <= numel < 2**63
        ):
            return Storage(key, _STORAGES[kind], numel)
    raise UserError("its pickle names a storage in an unknown way")


def _tensor(arguments: tuple) -> Tensor:
    match arguments:
        case (Storage() as storage, int(offset), tuple(shape), tuple(strides), *_):
            tensor = Tensor(storage, offset, shape, strides)
        case _:
            raise UserError("describes a tensor in an unknown way")
    _check_bounds(tensor)
    return tensor


def _check_bounds(tensor: Tensor) -> None:
    axes = len(tensor.shape)
    if axes > _MAX_AXES or axes != len(tensor.strides):
        raise UserError(f"has a tensor of {axes} axes with {len(tensor.strides)} strides")
    numbers = (tensor.offset, *tensor.shape, *tensor.strides)
    if not all(isinstance(n, int) and 0 <= n < 2**63 for n in numbers):
        raise UserError("has a tensor with a negative or absurd offset, shape or stride")
    size = math.prod(tensor.shape)
    if not size:
        return
    steps = zip(tensor.shape, tensor.strides, strict=True)
    last = tensor.offset + sum((n - 1) * stride for n, stride in steps)
    # An expanded tensor stays inside its storage, yet is larger: a few bytes would fill memory.
    if last >= tensor.storage.numel or size > tensor.storage.numel:
        raise UserError("has a tensor that is larger than its storage, or reaches beyond it")


def _parameter(arguments: tuple) -> Tensor:
    match arguments:
        case (Tensor() as data, *_):
            return data
    raise UserError("describes a parameter in an unknown way")


def _ordered_dict(arguments: tuple) -> dict:
    match arguments:
        case ():
            return {}
        case (list() as items,) if all(isinstance(i, list) and len(i) == 2 for i in items):
            # Python 2 wrote the items as an argument. Each list of them serves once: to call with
            # one list again costs a few bytes, and would copy it again.
            made = pickled.dictionary(items)
            items.clear()
            return made
    raise UserError("describes a dict in an unknown way")


def _size(arguments: tuple) -> tuple:
    match arguments:
        case (tuple(shape),):
            return shape
    raise UserError("describes a shape in an unknown way")


def _opaque(arguments: tuple) -> pickled.Opaque:
    return pickled.Opaque()


# Of checkpoints with the options and scores of their training beside the weights.
_BESIDE = (
    *("argparse.Namespace", "numpy.dtype", "_codecs.encode", "pathlib.PosixPath"),
    *(
        f"numpy.{core}.multiarray.{made}"
        for core in ("core", "_core")
        for made in ("scalar", "_reconstruct")
    ),
)

_NAMES: pickled.Names = {
    **dict.fromkeys(_BESIDE, _opaque),
    "numpy.ndarray": None,
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.Size": _size,
    "torch.device": lambda _: None,
    **dict.fromkeys(_STORAGES),
    **dict.fromkeys(f"torch.{dtype.name}" for dtype in _STORAGES.values()),
}
