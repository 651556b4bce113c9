"""`outputs/<split>.npz`: outputs of the final weights for every example of a split.

Arrays: `logits` (n, ..., k) float32, or `log_probabilities` float16 where logits are too many;
`label` (n, ...), `index` (n,), and `digest`, that of the examples. Runs whose digests are equal saw
the same examples under the same numbers, and only these are joined.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxdl.errors import UserError
from jaxdl.rundir.arrays import read_npz
from jaxdl.rundir.directory import writing

FOLDER = "outputs"
ARRAYS = ("logits", "log_probabilities", "label", "index")
NOTES = {
    "log_probabilities": "too many logits, kept as float16 log-probabilities ({limit})",
    "none": "too many logits, not kept ({limit})",
    "drawn": "not kept, as config.evaluation.splits.{split} has a sampler",
}


class Outputs(NamedTuple):
    """Outputs for the n examples of a split, ascending by number."""

    logits: np.ndarray
    """(n, ..., k) float32; up to a constant of each example where log-probabilities were kept"""
    label: np.ndarray
    """(n, ...) the truth; of a language model the tokens, each the truth of the place before"""
    index: np.ndarray  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    """(n,) int, the number of each example in its split"""
    digest: str
    """of the examples"""


def save_outputs(workdir: Path, split: str, rows: Mapping[str, np.ndarray], digest: str) -> str:
    """Write a split's outputs, unless no logits are among them; the form they were kept in."""
    form = next((name for name in ARRAYS[:2] if name in rows), "none")
    file = workdir / FOLDER / f"{split}.npz"
    with writing(workdir):
        if form == "none":
            file.unlink(missing_ok=True)
            return form
        order = np.argsort(rows["index"], kind="stable")
        arrays: dict[str, Any] = {name: rows[name][order] for name in ARRAYS if name in rows}
        file.parent.mkdir(exist_ok=True)
        fresh = file.with_suffix(".tmp")
        with fresh.open("wb") as handle:
            np.savez(handle, **arrays, digest=digest)
        fresh.replace(file)
    return form


def note(split: str, form: str, limit: float) -> str:
    """The line that says in which form outputs were kept; empty where they are as they were.

    Args:
        split: measured.
        form: from `save_outputs`, or 'drawn' where a sampler drew the examples.
        limit: MiB.
    """
    if form not in NOTES:
        return ""
    size = f"config.evaluation.outputs_limit is {limit:g} MiB"
    return f"outputs of {split}: " + NOTES[form].format(limit=size, split=split)


def read_outputs(workdir: Path, split: str = "test") -> Outputs:
    """Outputs of a run for a split.

    Raises:
        UserError: it kept nothing of this split, or the file is broken.
    """
    file = Path(workdir) / FOLDER / f"{split}.npz"
    if not file.is_file():
        there = sorted(f.stem for f in file.parent.glob("*.npz"))
        has = f"only of {', '.join(there)}" if there else "of no split"
        raise UserError(f"'{workdir}' has no outputs of '{split}', {has}")
    arrays = read_npz(file)
    form = "log_probabilities" if "log_probabilities" in arrays else "logits"
    for name in (form, "label", "index", "digest"):
        if name not in arrays:
            raise UserError(f"{file}: contains no array '{name}'")
    logits, label, index = arrays[form], arrays["label"], arrays["index"]
    if not logits.shape[:1] == label.shape[:1] == index.shape != ():
        raise UserError(f"{file}: logits, label and index differ in their number of examples")
    return Outputs(logits.astype(np.float32), label, index, str(arrays["digest"]))


def joined_outputs(workdirs: Sequence[Path], split: str = "test") -> list[Outputs]:
    """The outputs of several runs for the same examples, row by row.

    Raises:
        UserError: a run was evaluated on other examples; it is named.
    """
    found = [read_outputs(workdir, split) for workdir in workdirs]
    for workdir, one in zip(workdirs, found, strict=True):
        if one.digest != found[0].digest:
            raise UserError(
                f"'{workdir}' and '{workdirs[0]}' were evaluated on different examples of "
                f"'{split}': their outputs cannot be joined"
            )
    return found
