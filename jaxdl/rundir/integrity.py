"""What a checkpoint must hold, written beside it before it gets its name: `seal.json`.

A digest of every leaf, the files with their sizes, the monitored metric, what the program added,
and a digest of all this. Files are read back for it, but for the large shards: what these hold is
known by the leaves.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import tensorstore as ts

from jaxdl.errors import UserError

NAME = "seal.json"
READ_BELOW = 2**20  # bytes of a shard whose contents are recorded too


class Seal(NamedTuple):
    """`digests`: leaf name to digest. `files`: path in the folder to (bytes, digest or None)."""

    step: int
    metric: float | None
    digests: dict[str, str]
    extra: dict[str, Any]
    files: dict[str, tuple[int, str | None]]


def write(
    folder: Path, step: int, metric: float | None, digests: dict[str, str], extra: dict[str, Any]
) -> None:
    """Seal a folder whose files are complete."""
    files = {name: _known(folder / name) for name in _names(folder)}
    (folder / NAME).write_text(_text(Seal(step, metric, digests, extra, files)))


def measure(folder: Path, step: int, metric: float) -> None:
    """Put down a metric that was measured after the checkpoint was written.

    Raises:
        UserError: the checkpoint has no sound seal.
    """
    part = folder / f".{NAME}"
    part.write_text(_text(read(folder, step)._replace(metric=metric)))
    part.replace(folder / NAME)


def read(folder: Path, step: int) -> Seal:
    """The seal of a checkpoint.

    Raises:
        UserError: there is none, it is damaged, or it is of another step.
    """
    try:
        content = json.loads((folder / NAME).read_bytes())
        sound = content.pop("digest") == _digest(_canonical(content))
    except FileNotFoundError as error:
        raise UserError(f"checkpoint {folder} is damaged: {NAME} is missing") from error
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise UserError(f"checkpoint {folder} is damaged: {NAME} cannot be read") from error
    if not sound:
        raise UserError(f"checkpoint {folder} is damaged: {NAME} is not what was saved")
    if content["step"] != step:
        raise UserError(f"checkpoint {folder} is damaged: {NAME} is of step {content['step']}")
    return Seal(**content)


def harmed(folder: Path, seal: Seal) -> list[str]:
    """What is wrong with the files of a checkpoint, one entry a file that differs."""
    found = []
    for name, (size, digest) in seal.files.items():
        file = folder / name
        if not file.is_file():
            found.append(f"{name} is missing")
        elif file.stat().st_size != size:
            found.append(f"{name} has {file.stat().st_size:,} of {size:,} bytes")
        elif digest and _digest(file.read_bytes()) != digest:
            found.append(f"{name} is not what was saved")
    return found


def unread(seal: Seal) -> list[str]:
    """The files of which only the size is known."""
    return [name for name, (_, digest) in seal.files.items() if digest is None]


def holders(folder: Path, leaf: str) -> list[str]:
    """The files of a checkpoint that hold a leaf of its state, as OCDBT's index has it."""
    store = ts.KvStore.open(f"file://{folder}/state/").result()
    prefix = leaf.replace("/", ".").encode() + b"/"
    places = [at for key, at in _indirect(store, None) if key.startswith(prefix)]
    # kind:folder:file:offset:length
    return sorted({f"state/{at.split(':')[1]}{at.split(':')[2]}" for at in places})


def _indirect(store: ts.KvStore, node: str | None) -> Iterator[tuple[bytes, str]]:
    """(key, place) of each value below a node of the index that lies in a file of its own."""
    found = ts.ocdbt.dump(store, node).result()
    if node is None:
        yield from _indirect(store, found["versions"][-1]["root"]["location"])
        return
    for entry in found["entries"]:
        if "indirect_value" in entry:
            yield entry["key"], entry["indirect_value"]
        elif "location" in entry:
            yield from _indirect(store, entry["location"])


def _names(folder: Path) -> list[str]:
    # What lies beside the state is Orbax's mark of when it was finished, and is still to come.
    files = (folder / "state").rglob("*")
    return sorted(str(f.relative_to(folder)) for f in files if f.is_file())


def _known(file: Path) -> tuple[int, str | None]:
    size = file.stat().st_size
    is_large = file.parent.name == "d" and size >= READ_BELOW
    return size, None if is_large else _digest(file.read_bytes())


def _text(seal: Seal) -> str:
    content = seal._asdict()
    return json.dumps(content | {"digest": _digest(_canonical(content))})


def _canonical(content: dict[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True).encode()


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()
