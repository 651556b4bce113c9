"""Writes torch_files/: what PyTorch saves, and in expected.npz what it holds.

Run with a Python that has PyTorch: python tests/references/make_torch_files.py
Made with torch 2.13.0. The name of a file begins with its case; a key of expected.npz is
'case:tensor:dtype', and bfloat16, which npz does not know, stands there as float32.
"""

import io
import pickle
import pickletools
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch

DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)
FOLDER = Path(__file__).with_name("torch_files")


def of_all_types() -> dict[str, torch.Tensor]:
    wave = 100 * torch.sin(torch.arange(12.0).reshape(3, 4) ** 1.5)
    tensors = {str(dtype)[6:]: wave.abs().to(dtype) for dtype in DTYPES}
    tensors["odd"] = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0])
    return tensors | {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3)}


def views() -> dict[str, torch.Tensor]:
    base = torch.arange(24.0).reshape(4, 6)
    return {
        "base": base,
        "tied": base,
        "transposed": base.t(),
        "column": base[1:, 2],
        "steps": base[::2, 1::3],
        "last": base[3, 5],
        "nothing": base[:0],
        "inner": torch.arange(60.0).reshape(3, 4, 5).permute(2, 0, 1)[1:4],
    }


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3))


def checkpoint() -> tuple[dict, dict[str, torch.Tensor]]:
    model = torch.nn.DataParallel(network())
    optimizer = torch.optim.Adam(model.parameters())
    model.module(torch.ones(1, 2, 4, 4)).sum().backward()
    optimizer.step()
    saved = {
        "epoch": 3,
        "arch": "two layers",
        "best_prec1": 91.5,
        "dtype": torch.float32,
        "device": torch.device("cpu"),
        "shape": torch.Size([1, 2]),
        "model": {"not.this": torch.ones(1)},
        "state_dict": model.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    return saved, model.module.state_dict()


def parameters() -> tuple[dict, dict[str, torch.Tensor]]:
    inner = OrderedDict(w=torch.nn.Parameter(torch.arange(3.0)), b=torch.ones(2))
    return {"model": {"state_dict": inner}, "step": 10**12}, dict(inner)


def swapped(source: Path, target: Path) -> None:
    """The same file as a big-endian machine writes it; storage i is that of tensor i."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        tensors = torch.load(source, weights_only=True).values()
        sizes = [t.element_size() for t in tensors]
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("/byteorder"):
                data = b"big"
            elif "/data/" in name:
                size = sizes[int(name.rsplit("/", 1)[1])]
                data = np.frombuffer(data, f"u{size}").byteswap().tobytes()
            new.writestr(name, data)


class Python2(pickle.Pickler):
    """Gives an ordered dict its items as Python 2 did, in a list."""

    def reducer_override(self, value):
        if isinstance(value, OrderedDict):
            return OrderedDict, ([[k, v] for k, v in value.items()],)
        return NotImplemented


def of_python_2(saved: dict, target: Path) -> None:
    """A legacy file, with such dicts and with byte strings."""
    file = io.BytesIO()
    module = types.SimpleNamespace(__name__="pickle", Pickler=Python2, dump=pickle.dump)
    torch.save(saved, file, module, _use_new_zipfile_serialization=False)
    file.seek(0)
    made = b""
    for _ in range(5):
        opcodes = list(pickletools.genops(file))
        starts = [at for _, _, at in opcodes]
        stops = [*starts[1:], file.tell()]
        for (opcode, text, _), start, stop in zip(opcodes, starts, stops, strict=True):
            if opcode.name == "BINUNICODE":
                made += b"U" + bytes([len(text)]) + text.encode()
            else:
                made += file.getvalue()[start:stop]
    target.write_bytes(made + file.read())


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    cases = {
        "types": (of_all_types(), of_all_types()),
        "views": (views(), views()),
        "checkpoint": checkpoint(),
        "parameters": parameters(),
    }
    expected = {}
    for case, (saved, tensors) in cases.items():
        torch.save(saved, FOLDER / f"{case}.pth")
        torch.save(saved, FOLDER / f"{case}_legacy.pth", _use_new_zipfile_serialization=False)
        expected |= {f"{case}:{n}:{str(t.dtype)[6:]}": plain(t) for n, t in tensors.items()}
    np.savez_compressed(FOLDER / "expected.npz", **expected)

    saved, _ = cases["types"]
    torch.save(saved, FOLDER / "types_protocol_4.pt", pickle_protocol=4)
    swapped(FOLDER / "types.pth", FOLDER / "types_big_endian.pth")
    check(FOLDER / "types_big_endian.pth", saved)
    saved, _ = cases["checkpoint"]
    of_python_2(saved, FOLDER / "checkpoint_python_2.pth.tar")
    check(FOLDER / "checkpoint_python_2.pth.tar", saved)


def check(file: Path, saved: dict) -> None:
    """PyTorch itself reads what was made by hand."""
    read = torch.load(file, weights_only=False)
    saved, read = saved.get("state_dict", saved), read.get("state_dict", read)
    assert list(saved) == list(read)
    assert all(torch.equal(saved[n].nan_to_num(), read[n].nan_to_num()) for n in saved)


def plain(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.detach()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


if __name__ == "__main__":
    main()
