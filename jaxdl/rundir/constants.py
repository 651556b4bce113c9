"""Constant weights, stored once in a run directory under a digest of their contents.

A checkpoint names the digest. `constant/DIGEST/` holds the arrays in `state/`, and then the
manifest of `integrity`: without one, they were never finished.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path

import jax
import orbax.checkpoint as ocp

from jaxdl.errors import UserError
from jaxdl.rundir import integrity
from jaxdl.rundir.digest import digests
from jaxdl.rundir.verified import restored
from jaxdl.types import PyTree


class Unusable(UserError):
    """The constants of a run cannot be read, or differ from those that it started with."""


class Constants:
    """Trees of arrays by digest; the last one used is cached.

    Args:
        folder: where they live; made when there is something to store.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._last: tuple[str, PyTree] | None = None

    def put(self, constant: PyTree) -> str:
        """Store a tree unless it is stored already; returns its digest."""
        if self._last and self._last[1] is constant:
            return self._last[0]
        leaves = digests(constant)
        digest = _digest(leaves)
        folder = self._folder / digest
        if not (folder / integrity.NAME).is_file():
            with ocp.StandardCheckpointer() as checkpointer:
                checkpointer.save(folder / "state", constant, force=True)
            if jax.process_index() == 0:
                integrity.write(folder, 0, None, leaves, {})
        self._last = digest, constant
        return digest

    def get(self, digest: str | None, like: PyTree) -> PyTree:
        """The tree with a digest, verified leaf by leaf.

        Args:
            digest: that a checkpoint names.
            like: shapes, types and shardings.

        Raises:
            Unusable: it is missing or damaged, or another one.
        """
        if self._last and self._last[0] == digest:
            return self._last[1]
        names = ", ".join(like)
        if digest is None:
            raise Unusable(f"the checkpoints in {self._folder.parent} were saved without {names}")
        folder = self._folder / digest
        if not folder.is_dir():
            raise Unusable(f"{names}: {folder} is missing, which the run began with")
        try:
            manifest = integrity.read(folder, 0)
            if _digest(manifest.digests) != digest:
                raise UserError(f"{folder} holds other weights than the run began with")
            with ocp.StandardCheckpointer() as checkpointer:
                read = lambda: checkpointer.restore(folder / "state", like)
                constant = restored(folder, manifest, read, "what never moves,")
        except UserError as error:
            raise Unusable(f"{names}: {error}") from error
        self._last = digest, constant
        return constant


def share(folder: Path, other: Path) -> None:
    """Link the constants of one directory into another, without copying files."""
    if not folder.is_dir() or other.exists():
        return
    part = other.with_name(f".{other.name}")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(folder, part, copy_function=_link)
    part.rename(other)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copy2(source, target)


def _digest(leaves: dict[str, str]) -> str:
    text = json.dumps(leaves, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
