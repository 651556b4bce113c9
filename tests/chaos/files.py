"""Files that were made to do harm, or were damaged: weights, images, archives of arrays.

A mutant is (name of the file, its bytes); what is no plain file is made in place.
"""

import io
import json
import os
import random
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile
import numpy as np
from PIL import Image

from jaxdl.hub.read import write_safetensors

TORCH_FILES = Path(__file__).parents[1] / "references" / "torch_files"
ABSURD = (0, -1, 1, 2**31, 2**53, 2**63 - 1, 2**64, 10**30)


def damaged(data: bytes, rng: random.Random, other: bytes = b"") -> bytes:
    """Some bytes changed, cut off, put in, taken from elsewhere."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        n = max(len(data), 1)
        at = rng.choice(
            (rng.randrange(n), rng.randrange(min(n, 200)), n - 1 - rng.randrange(min(n, 100)))
        )
        length = rng.choice((1, 2, 8, 100))
        match rng.randrange(7):
            case 0 | 1 if data:
                data[at] ^= 1 << rng.randrange(8)
            case 2:
                del data[at:]
            case 3:
                del data[at : at + length]
            case 4:
                data[at:at] = bytes(rng.randrange(256) for _ in range(length))
            case 5:
                data[at : at + length] = rng.choice((b"\0", b"\xff", b"\x7f")) * length
            case 6:
                begin = rng.randrange(max(len(other), 1))
                data[at : at + length] = other[begin : begin + length]
    return bytes(data)


# --- Weights --------------------------------------------------------------------------------------


def weight_files(tensors: dict[str, np.ndarray], folder: Path) -> list[bytes]:
    """Good files: of these tensors in every format, and what PyTorch itself wrote."""
    write_safetensors(folder / "good.safetensors", tensors)
    made = [(folder / "good.safetensors").read_bytes()] * 3
    made += [npz(**tensors)] * 2
    made += [_torch(tensors, zipped=True), _torch(tensors, zipped=False)] * 2
    return made + [file.read_bytes() for file in sorted(TORCH_FILES.glob("*.pt*"))]


def _torch(tensors: dict[str, np.ndarray], zipped: bool) -> bytes:
    """A file of PyTorch, old or new."""
    entries, members, stored = {}, {}, b""
    for i, (name, x) in enumerate(sorted(tensors.items())):
        x = np.ascontiguousarray(x, "<f4")
        strides = [s // 4 for s in x.strides]
        kept = hostile.storage(str(i), x.size)
        entries[name] = hostile.tensor(x.shape, strides, stored=kept)
        members[f"data/{i}"] = x.tobytes()
    value = hostile.dict_of(**entries)
    if zipped:
        return hostile.zipped(value, **members)
    keys = sorted(map(str, range(len(tensors))))
    for key in keys:
        data = members[f"data/{key}"]
        stored += struct.pack("<q", len(data) // 4) + data
    return hostile.legacy(value, keys, stored)


def weights(rng: random.Random, good: list[bytes]) -> bytes:
    """A file of weights that is damaged, or lies."""
    data = rng.choice(good)
    if rng.random() < 0.25 and data[8:9] == b"{":
        return _lying(data, rng)
    if rng.random() < 0.15:
        return (
            hostile.zipped(_opcodes(rng)) if rng.random() < 0.5 else hostile.legacy(_opcodes(rng))
        )
    if rng.random() < 0.05:
        return _zip_of_odd_names(rng)
    return damaged(data, rng, rng.choice(good))


def _lying(data: bytes, rng: random.Random) -> bytes:
    """A safetensors file whose header says something else than is there."""
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    name = rng.choice([k for k in header if k != "__metadata__"])
    entry: dict[str, Any] = header[name]
    match rng.randrange(6):
        case 0:
            entry["shape"] = [rng.choice(ABSURD) for _ in range(rng.choice((0, 1, 2, 40)))]
        case 1:
            entry["data_offsets"] = [rng.choice(ABSURD), rng.choice(ABSURD)]
        case 2:
            entry["dtype"] = rng.choice(["F64", "I8", "F8_E4M3", "object", "", None, 7])
        case 3:
            header[rng.choice([name + "x", "", "\x1b[2J", "a" * 5000, "../../x"])] = header.pop(
                name
            )
        case 4:
            del header[name]
        case 5:
            entry["shape"] = entry["shape"][::-1] or [1]
    text = json.dumps(header).encode()
    length = rng.choice((len(text),) * 8 + ABSURD[1:5])
    return struct.pack("<Q", length % 2**64) + text + data[8 + size :]


def _opcodes(rng: random.Random) -> bytes:
    """A pickle of opcodes at random, with names that do harm where they are called."""
    pieces = [
        hostile.name(rng.choice(["os.system", "builtins.eval", "posix.fork", "jaxdl.run.run"])),
        *(hostile.text(x) for x in ("touch x", "w", "a" * 1000)), hostile.integer(2**70),
        *(bytes([b]) for b in b"().]}tlsuaeRbQ0290N\x85\x86\x87\x88\x89\x94\x93"),
        b"q\x00", b"h\x00", b"r\xff\xff\xff\x7f", b"j\xff\xff\xff\x7f", b"\x8a\xff",
        hostile.tensor(), hostile.tensor((2**62, 4)), hostile.tensor((4,), (2**40,)),
        hostile.storage(numel=2**60),
    ]  # fmt: skip
    return b"".join(rng.choice(pieces) for _ in range(rng.choice((1, 3, 10, 60))))


def _zip_of_odd_names(rng: random.Random) -> bytes:
    names = ["../x", "/etc/x", "w/data.pkl", "w.npy", "a" * 70_000, "x\0y", "..\\x", "c:x", ""]
    stream = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "w", rng.choice((0, 8))) as archive:
        warnings.simplefilter("ignore")  # of names that are there twice
        for _ in range(rng.choice((1, 2, 5))):
            member = zipfile.ZipInfo(rng.choice(names)[:60_000])
            member.external_attr = rng.choice((0, 0o120777 << 16))
            archive.writestr(member, bytes(rng.choice((0, 10, 2**22))))
    return stream.getvalue()


# --- Images and arrays ----------------------------------------------------------------------------


def image(
    form: str, rng: random.Random, mode: str = "RGB", size: tuple[int, int] = (9, 8)
) -> bytes:
    """A good image file."""
    stream = io.BytesIO()
    pixels = bytes(rng.randrange(256) for _ in range(size[0] * size[1] * 4))
    picture = Image.frombytes("RGBA", size, pixels).convert("RGB").convert(mode)
    picture.save(stream, form)
    return stream.getvalue()


def png(width: int, height: int, rows: bytes, depth: int = 8, colour: int = 0) -> bytes:
    """A PNG that may say anything of itself, its checksums right."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    text = chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(2**24), 9)) if not rows else b""
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + text + chunk(b"IDAT", zlib.compress(rows, 9))
        + chunk(b"IEND", b"")
    )  # fmt: skip


_FORMS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
_TEXTS = {
    "svg": b'<svg width="9" height="9"><image href="file:///etc/passwd"/></svg>',
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 8\n(x) (w) file\n%%EOF\n",
    "html": b"<html><script>alert(1)</script></html>",
    "ppm": b"P6 100000 100000 255\n",
    "pgm": b"P2 3 3 255\n1 2 3 4 x",
    "nothing": b"",
    "xpm": b'/* XPM */\nstatic char *x[] = {"9 8 1 1", "a c #000000"};',
    "fits": b"SIMPLE  =                    T".ljust(2880),
    "gif": b"GIF89a\xff\xff\xff\xff\xf7\x00\x00" + bytes(768) + b",",
}


def image_trap(place: Path, rng: random.Random) -> str:
    """Put something at `place`, an image by its name; what it is."""
    kind = rng.choice(["damaged"] * 8 + [*_ODD])
    if kind != "damaged":
        _ODD[kind](place, rng)
        return kind
    form = rng.choice(_FORMS)
    mode = rng.choice(["RGB", "L"] + (["P", "CMYK", "1"] if form == "TIFF" else []))
    place.write_bytes(damaged(image(form, rng, mode), rng, image("PNG", rng)))
    return f"damaged {form}"


def _writes(make: Callable[[random.Random], bytes]) -> Callable[[Path, random.Random], None]:
    return lambda place, rng: place.write_bytes(make(rng)) and None


def _is_link(place: Path, rng: random.Random) -> None:
    place.symlink_to(
        rng.choice(["/etc/passwd", "/dev/zero", place.name, "nowhere", "/", "/proc/self/mem"])
    )


def _is_sparse(place: Path, rng: random.Random) -> None:
    place.write_bytes(rng.choice([b"", b"P6 20000 20000 255\n", b"BM"]))
    os.truncate(place, 2**33)


_ODD: dict[str, Callable[[Path, random.Random], None]] = {
    "text": _writes(lambda rng: rng.choice([*_TEXTS.values()])),
    "says it is huge": _writes(
        lambda rng: png(rng.choice((2**31 - 1, 10**5)), rng.choice((2**31 - 1, 10**5)), b"\0")
    ),
    "bomb": _writes(lambda rng: png(30_000, 30_000, bytes(30_000 * 3000), 1)),
    "large bomb": _writes(lambda rng: png(12_000, 12_000, bytes(1501 * 12_000), 1)),
    "bomb in a text": _writes(lambda rng: png(9, 8, b"")),
    "long and thin": _writes(lambda rng: png(1, 60_000, bytes(2 * 60_000))),
    "without extent": _writes(lambda rng: png(rng.choice((0, 9)), 0, b"\0")),
    "other depth": _writes(lambda rng: png(9, 8, bytes(19 * 8), 16)),
    "folder": lambda place, rng: place.mkdir(),
    "fifo": lambda place, rng: os.mkfifo(place),
    "link": _is_link,
    "sparse": _is_sparse,
}


def npz(**arrays: np.ndarray) -> bytes:
    """What `numpy.savez_compressed` makes of arrays."""
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def arrays_trap(rng: random.Random) -> bytes:
    """An .npz file that is damaged, or holds what no batch can."""
    good: dict[str, Any] = {
        "image": np.zeros((8, 9, 8, 1), np.uint8), "label": np.arange(8) % 2,
    }  # fmt: skip
    odd = [
        np.array([print, None] * 4), np.array(["a"] * 8), np.zeros(8, "M8[s]"), np.float32(3),
        np.zeros((8, 0)), np.zeros((0,)), np.arange(8) - 3, np.full(8, 2**40), np.full(8, np.nan),
        np.full(8, 2**31 - 1), np.zeros((8, 2), complex), np.zeros((3,)),
        np.zeros(8, [("a", "f4")]), np.zeros((8, 9, 8, 1), np.float16),
        np.zeros((8, 9, 8, 7), bool), np.zeros((8,) + (1,) * 30),
    ]  # fmt: skip
    key = rng.choice(["image", "label", "mask", "class_names", "", "a/b", "tokens", "x" * 300])
    match rng.randrange(4):
        case 0:
            return damaged(npz(**good), rng)
        case 1:
            return _npz_by_hand(rng)
        case 2:
            return npz(**{key: good["label"]})
        case _:
            return npz(**good | {key: rng.choice(odd)})


def _npz_by_hand(rng: random.Random) -> bytes:
    """Headers of arrays that lie."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", 8) as archive:
        for name in ("image", "label"):
            shape = tuple(rng.choice((8, *ABSURD)) for _ in range(rng.choice((1, 2, 4))))
            text = (
                f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode() + b"\n"
            )
            head = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text
            archive.writestr(f"{name}.npy", head + bytes(rng.choice((0, 100, 2**25))))
    return stream.getvalue()
