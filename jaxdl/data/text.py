"""Text as tokens: the bytes of a text in windows.

A byte is a token, so that the vocabulary is the same for every text in every language: nothing is
unknown, and bits a token are bits a byte.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxdl.config import Count
from jaxdl.data.arrays import check_room, from_arrays
from jaxdl.data.source import Source
from jaxdl.data.split_spec import names, resolve
from jaxdl.data.tfds_source import prepared
from jaxdl.data.tokenizers import Tokenize, byte_tokenizer, learnt
from jaxdl.errors import UserError, choices
from jaxdl.registry import register
from jaxdl.types import PADDING

# Of tiny_shakespeare in TFDS: https://www.tensorflow.org/datasets/catalog/tiny_shakespeare
_FRACTIONS = {"train": (0.0, 0.9), "validation": (0.9, 0.95), "test": (0.95, 1.0)}


@register("sources")
def characters(
    split: str,
    /,
    *,
    path: str | None = None,
    dataset: str | None = None,
    data_dir: str | None = None,
    length: Count = 128,
    tokenizer: Tokenize = byte_tokenizer,
) -> Source:
    """A text in windows, as bytes; by default what Python's `help()` says of its language.

    That is 370 kB of English that come with CPython itself: nothing to download, but another text
    in another version of Python. Records have `tokens` (length + 1,): a byte's value + 1, and 0
    behind the end. Windows share one token, so that each but the first is predicted once.

    Args:
        split: of train, validation and test, a slice counts windows. A file's first 90%, next 5%
            and last 5% of bytes; the splits of a data set.
        path: a text file.
        dataset: or a data set of TFDS with a feature `text`, such as 'tiny_shakespeare'.
        data_dir: where data sets lie; by default $TFDS_DATA_DIR, else ~/tensorflow_datasets.
        length: tokens predicted in a window.
        tokenizer: of the text; what it learns, it learns from the training split.
    """
    if path and dataset:
        raise UserError("source 'characters' reads a path or a dataset, not both")
    texts = _of_dataset(dataset, data_dir, split) if dataset else _cut(_file(path))
    made = learnt(tokenizer, _TrainingText(path, dataset, data_dir))
    windows = {
        name: _windows(made.encode(_as_text(texts[name])), length)
        for name in names(split)
        if name in texts
    }
    terms = resolve(split, {name: len(windows.get(name, ())) for name in texts})
    tokens = np.concatenate([windows[name][start:stop] for name, start, stop in terms])
    return from_arrays({"tokens": tokens}, tokenizer=made)


class _TrainingText(NamedTuple):
    """Gives the text of the training split; equal ones are one to a cache."""

    path: str | None
    dataset: str | None
    data_dir: str | None

    def __call__(self) -> list[str]:
        of_dataset = self.dataset and _of_dataset(self.dataset, self.data_dir, "train")
        return [_as_text((of_dataset or _cut(_file(self.path)))["train"])]


def _as_text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _windows(text: np.ndarray, length: int) -> np.ndarray:
    """(n, length + 1) int32; window i begins with token i * length."""
    check_room("source 'characters'", length, 16)
    n = -(-(len(text) - 1) // length) if len(text) > 1 else 0
    tokens = np.full(n * length + 1, PADDING, np.int32)
    tokens[: len(text)] = text[: len(tokens)]
    return tokens[np.arange(n)[:, None] * length + np.arange(length + 1)]


def _cut(text: bytes) -> dict[str, bytes]:
    n = len(text)
    return {name: text[round(i * n) : round(j * n)] for name, (i, j) in _FRACTIONS.items()}


def _file(path: str | None) -> bytes:
    if path is None:
        return _help()
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the text {path}: {error.strerror}") from error


def _help() -> bytes:
    """The topics of `help()` in the order of their names, no paragraph twice.

    Some topics repeat parts of others: left in, a fifth of the test's lines would stand in the
    training text.
    """
    from pydoc_data.topics import topics  # half a megabyte that other sources need not read

    paragraphs = (p for name in sorted(topics) for p in topics[name].split("\n\n"))
    return "\n\n".join(dict.fromkeys(paragraphs)).encode()


def _of_dataset(dataset: str, data_dir: str | None, split: str) -> dict[str, bytes]:
    """Each split's records as one text, those that `split` does not name left empty."""
    builder = prepared(dataset, data_dir)
    if "text" not in builder.info.features:
        hint = choices("text", builder.info.features)
        raise UserError(f"data set '{dataset}' has no feature 'text': {hint}")
    return {
        name: b"\n".join(record["text"] for record in builder.as_data_source(split=name))
        if name in names(split)
        else b""
        for name in builder.info.splits
    }
