"""Archives, npz and safetensors that are hostile, and good files that are damaged."""

import io
import json
import random
import struct
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest
from conftest import ROOT
from hostile import DATA, attempt, dict_of, refused, tensor, zipped

from jaxdl.hub.read import write_safetensors

FILES = ROOT / "tests" / "references" / "torch_files"


def archive_of(*members, before_directory=lambda archive: None, **options):
    """A zip archive of (name or ZipInfo, data), around which its writer may lie."""
    stream = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "w", **options) as archive:
        warnings.simplefilter("ignore")  # of duplicate names
        for member, data in members:
            archive.writestr(member, data)
        before_directory(archive)
    return stream.getvalue()


def lie(index, **fields):
    def change(archive):
        for field, value in fields.items():
            setattr(archive.filelist[index], field, value)

    return change


GOOD = dict_of(w=tensor())
PKL = ("w/data.pkl", b"\x80\x02" + GOOD + b".")
STORED = ("w/data/0", DATA)
LINK = zipfile.ZipInfo("w/data/0")
LINK.external_attr = 0o120777 << 16
ZIP = {
    "no data.pkl": (archive_of(STORED), "neither of PyTorch"),
    "two data.pkl": (archive_of(PKL, ("v/data.pkl", b"")), "more than one data.pkl"),
    "no storage": (archive_of(PKL), "lacks the member w/data/0"),
    "two of one name": (archive_of(PKL, STORED, STORED), "two members named w/data/0"),
    "traversal": (archive_of(PKL, STORED, ("w/../../x", b"")), "outside the archive"),
    "absolute": (archive_of(PKL, STORED, ("/etc/cron.d/x", b"")), "outside the archive"),
    "backslash": (archive_of(PKL, STORED, ("..\\x", b"")), "outside the archive"),
    "link": (archive_of(PKL, (LINK, "/etc/passwd")), "has 11 bytes, not 16"),
    "zip in zip": (archive_of(("w/data.pkl", archive_of(PKL, STORED))), "its pickle"),
    "bzip2": (archive_of(PKL, STORED, compression=zipfile.ZIP_BZIP2), "an unusual way"),
    "bomb": (archive_of(PKL, STORED, ("w/data/1", bytes(2**25)), compression=8), "expand more"),
    "hidden bomb": (
        archive_of(
            PKL, ("w/data/0", bytes(2**25)), compression=8, before_directory=lie(1, file_size=16)
        ),
        "Bad CRC-32",
    ),
    "overlap": (
        archive_of(PKL, STORED, before_directory=lie(1, header_offset=0)),
        "overlaps another",
    ),
    "overlap with the directory": (
        archive_of(PKL, STORED, before_directory=lie(1, compress_size=99, file_size=99)),
        "overlaps the directory",
    ),
    "size": (archive_of(PKL, STORED, before_directory=lie(0, file_size=2**40)), "expand more"),
    "other name": (archive_of(PKL, STORED, before_directory=lie(1, filename="w/data/1")), "differ"),
    "encrypted": (archive_of(PKL, STORED, before_directory=lie(1, flag_bits=1)), "encrypted"),
    "byte order": (zipped(GOOD, byteorder=b"middle"), "byte order"),
    "Keras": (archive_of(("model.weights.h5", b""), ("config.json", b"")), "neither of PyTorch"),
    "nothing": (archive_of(("x/", b"")), "neither of PyTorch"),
}


@pytest.mark.parametrize("case", ZIP)
def test_a_hostile_archive_is_refused(case, tmp_path):
    tracemalloc.start()
    refused(tmp_path / "w.pth", *ZIP[case])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**21


def npz(**arrays):
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def npy(header, body=b"", version=b"\x01\x00"):
    header = header.encode()
    return archive_of(
        ("w.npy", b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header + body)
    )


def npy_of(shape="(4,)", descr="'<f4'", rest=""):
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}{rest}}}\n"
    return npy(text, DATA)


NPZ = {
    "objects": (npz(w=np.array([print, None])), "dtype object"),
    "records": (npz(w=np.zeros(2, [("a", "f4"), ("b", "i4")])), "not of numbers"),
    "strings": (npz(w=np.array(["a"])), "not of numbers"),
    "times": (npz(w=np.zeros(2, "M8[s]")), "not of numbers"),
    "raw bytes": (npz(w=np.zeros(2, "V2")), "not of numbers"),
    "absurd shape": (npy_of("(10**12,)".replace("10**12", "1" + "0" * 12)), "but has 16 bytes"),
    "smaller shape": (npy_of("(3,)"), "but has 16 bytes"),
    "negative shape": (npy_of("(-2, -2)"), "but has 16 bytes"),
    "shape of text": (npy_of("'x'"), "broken header"),
    "code": (npy_of("__import__('os').system('touch canary')"), "broken header"),
    "bad type": (npy_of(descr="'no such type'"), "broken header"),
    "unhashable": (npy_of(rest=", []: 1"), "broken header"),
    "odd escape": (npy_of(rest=r", '\d': 1"), "broken header"),
    "deep": (npy("(" * 9000), "broken header"),
    "of Python 2": (npy_of("(4L,)"), "broken header"),
    "long": (npy(" " * 60_000), "broken header"),
    "version": (npy("", version=b"\x09\x00"), "broken header"),
    "no array": (archive_of(("w.npy", b"text")), "broken header"),
    "short": (archive_of(("w.npy", b"\x93NUMPY\x01\x00\xff\xff")), "broken header"),
    "other member": (archive_of(("w.npy", b""), ("readme.txt", b"")), "nor of .npy arrays"),
}


@pytest.mark.filterwarnings("default")  # numpy would mend some headers with a warning
@pytest.mark.parametrize("case", NPZ)
def test_a_hostile_npz_is_refused(case, tmp_path):
    refused(tmp_path / "w.npz", *NPZ[case])


def safetensors(header, body=DATA, size=None):
    data = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(data) if size is None else size) + data + body


def entry(dtype="F32", shape=(4,), offsets=(0, 16)):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


BROKEN = "cannot be read: Error while deserializing header"
SAFETENSORS = {
    "size of 2^63": (safetensors({"w": entry()}, size=2**63), BROKEN),
    "size of 2^40": (safetensors({"w": entry()}, size=2**40), BROKEN),
    "smaller size": (safetensors({"w": entry()}, size=30), BROKEN),
    "size of 0": (safetensors({"w": entry()}, size=0), BROKEN),
    "overlap": (safetensors({"v": entry(), "w": entry()}), BROKEN),
    "hole": (safetensors({"w": entry(shape=(2,), offsets=(8, 16))}), BROKEN),
    "bytes left": (safetensors({"w": entry(shape=(2,), offsets=(0, 8))}), BROKEN),
    "beyond": (safetensors({"w": entry(shape=(5,), offsets=(0, 20))}), BROKEN),
    "backwards": (safetensors({"w": entry(offsets=(16, 0))}), BROKEN),
    "negative offset": (safetensors({"w": entry(offsets=(-16, 0))}), BROKEN),
    "negative shape": (safetensors({"w": entry(shape=(-4,))}), BROKEN),
    "absurd shape": (safetensors({"w": entry(shape=(10**12,))}), BROKEN),
    "overflow": (safetensors({"w": entry(shape=(2**63, 2**63))}), BROKEN),
    "empty, yet absurd": (
        safetensors({"w": entry(shape=(0, 2**63), offsets=(0, 0))}, b""),
        "cannot",
    ),
    "other dtype": (safetensors({"w": entry("F64")}), BROKEN),
    "unknown dtype": (safetensors({"w": entry("O")}), BROKEN),
    "unusual dtype": (safetensors({"w": entry("F8_E4M3", (16,))}), "unusual dtype F8_E4M3"),
    "no dtype": (safetensors({"w": {"shape": [4]}}), BROKEN),
    "deep": (safetensors(b'{"w":' * 5000 + b"}" * 5000), BROKEN),
    "no JSON": (safetensors(b"{" * 100), BROKEN),
    "no text": (safetensors(b'{"\xff\xfe":1}'), BROKEN),
    "unprintable name": (safetensors({"w\x1b[2J": entry()}), "unprintable name"),
    "truncated": (safetensors({"w": entry()}, DATA[:-1]), BROKEN),
}


@pytest.mark.parametrize("case", SAFETENSORS)
def test_a_hostile_safetensors_file_is_refused(case, tmp_path):
    refused(tmp_path / "w.safetensors", *SAFETENSORS[case])


# --- Good files, damaged --------------------------------------------------------------------------

ARRAYS = {"a": np.arange(6.0), "b": np.ones((2, 3), np.float16), "e": np.zeros((0, 3))}
SEEDS = ["npz", "safetensors", *sorted(p.name for p in FILES.glob("*.pt*"))]


def original(seed, tmp_path):
    path = tmp_path / "original"
    if seed == "npz":
        return npz(**ARRAYS)
    if seed == "safetensors":
        write_safetensors(path, ARRAYS)
        return path.read_bytes()
    return (FILES / seed).read_bytes()


def flipped(data, rng, where):
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 3))):
        data[rng.choice(where)] ^= 1 << rng.randrange(8)
    return bytes(data)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_damaged_file_is_refused_or_right(seed, tmp_path):
    data = original(seed, tmp_path)
    path = tmp_path / "damaged.pth"
    path.write_bytes(data)
    arrays = attempt(path)
    rng = random.Random(seed)
    checksums = data.startswith(b"PK")
    for _ in range(12):
        path.write_bytes(data[: rng.randrange(len(data))])
        assert isinstance(attempt(path), str)
    for _ in range(36):
        path.write_bytes(flipped(data, rng, range(len(data))))
        found = attempt(path)
        if isinstance(found, str):
            continue
        # Without checksums a flip in a header may give another name, or a smaller shape.
        assert sum(a.nbytes for a in found.values()) <= 4 * len(data)
        if checksums:
            assert list(found) == list(arrays)
            for key, array in arrays.items():
                assert found[key].tobytes() == array.tobytes()


@pytest.mark.parametrize("seed", [s for s in SEEDS if "legacy" in s or s == "safetensors"])
def test_damage_to_numbers_keeps_names_and_shapes(seed, tmp_path):
    data = original(seed, tmp_path)
    path = tmp_path / "damaged.pth"
    path.write_bytes(data)
    arrays = attempt(path)
    rng = random.Random(seed)
    for _ in range(20):
        path.write_bytes(flipped(data, rng, [len(data) - 1 - i for i in range(4)]))
        found = attempt(path)
        assert {k: (v.shape, v.dtype) for k, v in found.items()} == {
            k: (v.shape, v.dtype) for k, v in arrays.items()
        }
