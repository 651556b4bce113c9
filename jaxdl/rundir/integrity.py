"""Integrity manifest of a checkpoint, `integrity.json`, written before the checkpoint is committed.

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

from jaxdl.aliases import INTEGRITY
from jaxdl.errors import UserError

NAME = "integrity.json"
READ_BELOW = 2**20  # bytes of a shard whose contents are recorded too


class Manifest(NamedTuple):
    """`digests`: leaf name to digest. `files`: path in the folder to (bytes, digest or None)."""

    step: int
    metric: float | None
    digests: dict[str, str]
    extra: dict[str, Any]
    files: dict[str, tuple[int, str | None]]


def write(
    folder: Path, step: int, metric: float | None, digests: dict[str, str], extra: dict[str, Any]
) -> None:
    """Write the manifest of a folder whose files are complete."""
    files = {name: _known(folder / name) for name in _names(folder)}
    (folder / NAME).write_text(_text(Manifest(step, metric, digests, extra, files)))


def measure(folder: Path, step: int, metric: float) -> None:
    """Record a metric that was measured after the checkpoint was written.

    Raises:
        UserError: the checkpoint has no sound manifest.
    """
    part = folder / f".{NAME}"
    part.write_text(_text(read(folder, step)._replace(metric=metric)))
    part.replace(folder / name_in(folder))


def read(folder: Path, step: int) -> Manifest:
    """The manifest of a checkpoint.

    Raises:
        UserError: there is none, it is damaged, or it is of another step.
    """
    name = name_in(folder)
    try:
        content = json.loads((folder / name).read_bytes())
        sound = content.pop("digest") == _digest(_canonical(content))
    except FileNotFoundError as error:
        raise UserError(f"checkpoint {folder} is damaged: {name} is missing") from error
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise UserError(f"checkpoint {folder} is damaged: {name} cannot be read") from error
    if not sound:
        raise UserError(f"checkpoint {folder} is damaged: {name} is not what was saved")
    if content["step"] != step:
        raise UserError(f"checkpoint {folder} is damaged: {name} is of step {content['step']}")
    return Manifest(**content)


def name_in(folder: Path) -> str:
    """File name of a checkpoint's manifest: an older version had another one."""
    is_old = not (folder / NAME).is_file() and (folder / INTEGRITY).is_file()
    return INTEGRITY if is_old else NAME


def verify(folder: Path, manifest: Manifest) -> list[str]:
    """Verify the files of a checkpoint; one entry for each file that differs."""
    found = []
    for name, (size, digest) in manifest.files.items():
        file = folder / name
        if not file.is_file():
            found.append(f"{name} is missing")
        elif file.stat().st_size != size:
            found.append(f"{name} has {file.stat().st_size:,} of {size:,} bytes")
        elif digest and _digest(file.read_bytes()) != digest:
            found.append(f"{name} is not what was saved")
    return found


def unverified(manifest: Manifest) -> list[str]:
    """The files of which only the size is known."""
    return [name for name, (_, digest) in manifest.files.items() if digest is None]


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


def _text(manifest: Manifest) -> str:
    content = manifest._asdict()
    return json.dumps(content | {"digest": _digest(_canonical(content))})


def _canonical(content: dict[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True).encode()


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()
