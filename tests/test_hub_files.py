"""Weight files that are good: PyTorch's, safetensors and npz give the arrays that went in."""

import hashlib
import json
import os
import struct
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT

from jaxdl.errors import UserError
from jaxdl.hub.read import read, write_safetensors

FILES = ROOT / "tests" / "references" / "torch_files"
TORCH = sorted(p.name for p in FILES.iterdir() if p.name != "expected.npz")


def same(found, expected):
    """Equal in bits, but not in the order of axes in memory."""
    assert list(found) == list(expected)
    for name, array in expected.items():
        got = found[name]
        assert (got.dtype, got.shape) == (array.dtype, array.shape), name
        assert got.tobytes() == array.tobytes(), name
        assert got.flags.c_contiguous


@pytest.mark.parametrize("file", TORCH)
def test_what_pytorch_saved(file):
    case = file.removesuffix(".tar").partition(".")[0].partition("_")[0]
    expected = {}
    with np.load(FILES / "expected.npz") as arrays:
        for key in arrays.files:
            of, name, dtype = key.split(":")
            if of == case:
                expected[name] = arrays[key].astype(jnp.dtype(dtype))
    assert expected
    same(read(FILES / file), expected)


def test_what_the_files_cover():
    both = [read(FILES / "types.pth"), read(FILES / "types_legacy.pth")]
    for types in both:
        names = {a.dtype.name for a in types.values()}
        floats = {"float64", "float32", "float16", "bfloat16"}
        assert names == floats | {"int64", "int32", "int16", "int8", "uint8", "bool"}
        assert types["scalar"].shape == () and types["empty"].shape == (0, 3)
        odd = types["odd"]
        assert np.isnan(odd[0]) and odd[1] == np.inf and np.signbit(odd[3])
    views = read(FILES / "views.pth")
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    np.testing.assert_array_equal(views["transposed"], base.T)
    np.testing.assert_array_equal(views["steps"], base[::2, 1::3])
    np.testing.assert_array_equal(views["column"], base[1:, 2])
    assert views["base"] is views["tied"]  # tied weights are one array


def test_arrays_own_their_memory():
    for array in read(FILES / "views_legacy.pth").values():
        assert array.flags.writeable and array.flags.owndata


def test_the_content_decides_not_the_name(tmp_path):
    for name in ("types.pth", "types_legacy.pth"):
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes((FILES / name).read_bytes())
        same(read(path), read(FILES / name))


ARRAYS = {
    "bf16": np.array([1.5, -2, np.inf], jnp.bfloat16),
    "bool": np.array([True, False]),
    "empty": np.zeros((0, 3), np.int64),
    "f16": np.array([[1, 2]], np.float16),
    "f32": np.arange(6, dtype=np.float32).reshape(2, 3),
    "i8": np.array([-1, 2], np.int8),
    "scalar": np.array(3.5),
    "transposed": np.arange(6.0).reshape(2, 3).T,
}


def test_safetensors_come_back(tmp_path):
    write_safetensors(tmp_path / "w.safetensors", ARRAYS)
    same(read(tmp_path / "w.safetensors"), ARRAYS)


def test_safetensors_are_as_their_specification_says(tmp_path):
    path = tmp_path / "w.safetensors"
    swapped = np.arange(3, dtype=">f4")
    write_safetensors(path, {"t": ARRAYS["transposed"], "s": swapped, "j": jnp.ones(2)})
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]

    def stored(name, dtype):
        start, stop = header[name]["data_offsets"]
        return np.frombuffer(body[start:stop], dtype).reshape(header[name]["shape"]).tolist()

    assert header["t"]["dtype"] == "F64" and stored("t", "<f8") == [[0, 3], [1, 4], [2, 5]]
    assert header["s"]["dtype"] == "F32" and stored("s", "<f4") == [0, 1, 2]
    assert stored("j", "<f4") == [1, 1]


def test_safetensors_that_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match=r"q\.safetensors': cannot be written.*complex128"):
        write_safetensors(tmp_path / "q.safetensors", {"c": np.ones(2, complex)})
    with pytest.raises(UserError, match="cannot be written"):
        write_safetensors(tmp_path / "no" / "such" / "q.safetensors", ARRAYS)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(save, tmp_path):
    arrays = {
        "dense/kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "zeros": np.zeros(10_000, np.float16),
        "scalar": np.array(7, np.uint16),
        "empty": np.zeros((2, 0), bool),
    }
    save(tmp_path / "w.npz", big=np.arange(3, dtype=">i4"), **arrays)
    same(read(tmp_path / "w.npz"), {"big": np.arange(3, dtype=np.int32), **arrays})


def test_a_missing_file_names_its_neighbours(tmp_path):
    (tmp_path / "resnet20.pth").write_bytes(b"")
    (tmp_path / "resnet").mkdir()
    for name in ("resnet21.pth", "resnet"):
        with pytest.raises(UserError, match=rf"{name}': no such file.*resnet20\.pth") as error:
            read(tmp_path / name)
        assert "'resnet'?" not in str(error.value)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (b"", "begins with b''"),
        (b"version https://git-lfs.github.com/spec/v1\n", "begins with b'version https://git"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x93NUMPY\x01\x00", "one array without a name"),
        (b"\x80\x04}.", "not one of PyTorch"),
        (b"\0" * 257 + b"ustar\0", "tar archive"),
    ],
)
def test_what_else_a_file_may_be(head, message, tmp_path):
    path = tmp_path / "w.pth"
    path.write_bytes(head)
    with pytest.raises(UserError, match=message):
        read(path)


def weights(name):
    return Path(os.environ["TFDS_DATA_DIR"]).parent / "weights" / name


# Of names, shapes and bytes, in order, as PyTorch's own torch.load gives them.
DIGESTS = {
    "resnet20-12fca82f.th": (97, "79aa20dbdcbc4ca0"),
    "resnet32-d509ac18.th": (157, "c56d6985b7911523"),
}


@pytest.mark.data
@pytest.mark.parametrize("name", DIGESTS)
def test_published_pytorch_weights(name):
    tensors = read(weights(name))
    digest = hashlib.sha256()
    for key, array in tensors.items():
        digest.update(f"{key} {array.shape} ".encode() + array.tobytes())
    assert (len(tensors), digest.hexdigest()[:16]) == DIGESTS[name]


@pytest.mark.data
def test_published_keras_weights():
    path = weights("mobilenet_v1_0.25_224.npz")
    with np.load(path) as arrays:
        same(read(path), {name: arrays[name] for name in arrays.files})
