"""Trees of arrays, read and verified by a manifest: sizes, files, then leaf by leaf."""

from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from jaxdl.errors import UserError
from jaxdl.rundir import integrity
from jaxdl.rundir.digest import digests
from jaxdl.types import PyTree


def restored(
    folder: Path, manifest: integrity.Manifest, read: Callable[[], PyTree], what: str = "checkpoint"
) -> PyTree:
    """Read a tree from a folder and compare it with the digests in its manifest.

    Args:
        folder: holds `state` and the manifest.
        manifest: of the folder.
        read: restores the tree.
        what: the folder is, in messages.

    Raises:
        UserError: it cannot be read, or a leaf is not what was saved; names the file.
    """
    if damaged := integrity.verify(folder, manifest):
        raise UserError(f"{what} {folder} is damaged: {_listed(damaged)}")
    try:
        tree = read()
    except jax.errors.JaxRuntimeError:
        raise  # of the devices, not of the files
    except Exception as error:  # Orbax raises many kinds for damaged files
        unsure = integrity.unverified(manifest)
        where = f"; of {_listed(unsure)} only the size was checked" if unsure else ""
        raise UserError(f"{what} {folder} cannot be read: {reason(error)}{where}") from error
    found, saved = digests(tree), manifest.digests
    differing = [name for name, digest in found.items() if saved.get(name) != digest]
    if differing:
        raise UserError(
            f"{what} {folder} is damaged: {len(differing)} of {len(saved)} leaves differ "
            f"from what was saved, the first is {differing[0]}, "
            f"in {_listed(integrity.holders(folder, differing[0]))}"
        )
    return tree


def reason(error: Exception) -> str:
    """An error of Orbax or tensorstore in one line."""
    text = " ".join(str(error).split()).partition(" [source locations")[0]
    return f"{type(error).__name__}: {text[:200]}"


def _listed(items: Sequence[str]) -> str:
    return ", ".join(items[:3]) + (f" and {len(items) - 3} more" if len(items) > 3 else "")
