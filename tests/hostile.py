"""What tests of hostile weight files share: a watch, and an assembler of PyTorch's files.

The pickles are put together from opcodes, named as in `pickletools`.
"""

import contextlib
import encodings.cp437  # noqa: F401, of names in zip archives: its first import is code that runs
import gc
import io
import os
import pickle
import struct
import sys
import time
import zipfile

import numpy as np

from jaxdl.errors import UserError
from jaxdl.hub.read import read
from jaxdl.hub.torch_file import LEGACY_MAGIC

_EVENTS = (
    *("os.system", "os.exec", "os.posix_spawn", "os.fork", "os.remove", "os.rename", "os.mkdir"),
    *("subprocess.", "socket.", "shutil.", "ctypes.", "pickle.", "urllib.", "webbrowser.", "exec"),
)
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC
_seen: list[str] | None = None


def _audit(event, args):
    if _seen is None:
        return
    if event.startswith(_EVENTS) or (event == "open" and (args[2] or 0) & _WRITES):
        _seen.append(f"{event} {args!r}"[:200])


sys.addaudithook(_audit)  # there is no way to take it back


@contextlib.contextmanager
def watched():
    """Lists processes, sockets, files opened for writing, code that runs, names pickle looks up."""
    global _seen
    _seen = found = []
    try:
        yield found
    finally:
        _seen = None


def attempt(path):
    """The arrays of a file, or the message of its refusal; either way nothing else happens."""
    before = sorted(path.parent.iterdir())
    gc.disable()  # other tests have left gigabytes to look through
    start = time.thread_time()
    with watched() as found:
        try:
            result = read(path)
        except UserError as error:
            result = str(error)
            assert result.startswith(f"'{path}': ")
            assert result.isprintable() and len(result) < 1000
        finally:
            gc.enable()
    assert time.thread_time() - start < 1
    assert found == [], found
    assert sorted(path.parent.iterdir()) == before
    return result


def refused(path, contents, message):
    """Writes a file, which is refused with these words."""
    path.write_bytes(contents)
    result = attempt(path)
    assert isinstance(result, str) and message in result, result


def name(dotted):
    """The opcode GLOBAL: the last part is the name, the others the module."""
    module, _, attribute = dotted.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def text(value):
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def integer(value):
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def tuple_of(*parts):
    return b"(" + b"".join(parts) + b"t"


def dict_of(**items):
    return b"}(" + b"".join(text(k) + v for k, v in items.items()) + b"u"


def call(dotted, *arguments):
    return name(dotted) + tuple_of(*arguments) + b"R"


def storage(key="0", numel=4, kind="FloatStorage"):
    parts = text("storage"), name(f"torch.{kind}"), text(key), text("cpu"), integer(numel)
    return tuple_of(*parts) + b"Q"


def tensor(shape=(4,), strides=(1,), offset=0, stored=None):
    axes = [tuple_of(*map(integer, axis)) for axis in (shape, strides)]
    hooks = call("collections.OrderedDict")
    parts = stored or storage(), integer(offset), *axes, b"\x89", hooks
    return call("torch._utils._rebuild_tensor_v2", *parts)


DATA = np.arange(4, dtype="<f4").tobytes()
LEGACY_DATA = struct.pack("<q", 4) + DATA


def zipped(value, **members):
    """A file of PyTorch 1.6 or later around the pickle of a value, with one storage, 0."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("w/data.pkl", b"\x80\x02" + value + b".")
        for member, data in ({"data/0": DATA} | members).items():
            archive.writestr(f"w/{member}", data)
    return stream.getvalue()


def legacy(value, keys=("0",), data=LEGACY_DATA, protocol=1001):
    """A file of PyTorch before 1.6 around the pickle of a value."""
    before = pickle.dumps(protocol, 2) + pickle.dumps({"little_endian": True}, 2)
    after = pickle.dumps(list(keys), 2) + data
    return LEGACY_MAGIC + before + b"\x80\x02" + value + b"." + after
