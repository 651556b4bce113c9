"""Pairs of sequences for a model that reads one and writes the other.

`source` is words and an end; `tokens` a start, words and an end. Both are of one vocabulary, as the
models have one table of embeddings, and are padded to one length.
"""

import collections
import functools
import re
from collections.abc import Iterable, Sequence

import numpy as np

from jaxdl.config import Count, Seed
from jaxdl.data.arrays import check_room, from_arrays
from jaxdl.data.source import Source
from jaxdl.data.split_spec import names, resolve, select
from jaxdl.data.tfds_source import prepared
from jaxdl.errors import UserError, choices
from jaxdl.registry import register
from jaxdl.types import END, PADDING

SPECIAL = ("<padding>", "<unknown>", "<start>", "<end>")
UNKNOWN, START = 1, 2
_WORD = re.compile(r"\w+|[^\w\s]")
_SPLITS = ("train", "validation", "test")


@register("sources")
def reversal(
    split: str,
    /,
    *,
    length: Count = 16,
    symbols: Count = 20,
    examples: Count = 4000,
    seed: Seed = 0,
) -> Source:
    """Random sequences and the same sequences backwards: an artificial task, solved or not.

    What to write is far from where it is read, at a distance that changes from place to place: a
    model must learn to attend by position. Records have `source` and `tokens`, (length + 2,) each.

    Args:
        split: of train, validation and test.
        length: the most symbols in a sequence; it has at least half as many.
        symbols: there are, each as likely as another.
        examples: in the training split; the others have a tenth.
        seed: of everything drawn.
    """
    check_room("source 'reversal'", examples, length + 2, 16)
    check_room("source 'reversal'", symbols, 64)
    sizes = (examples, -(-examples // 10), -(-examples // 10))
    ends = np.cumsum(sizes)
    places = {n: np.arange(e - s, e) for n, e, s in zip(_SPLITS, ends, sizes, strict=True)}
    sequences = []
    for i in select(split, places):
        random = np.random.default_rng((seed, int(i)))
        n = random.integers(-(-length // 2), length + 1)
        sequences.append(len(SPECIAL) + random.integers(0, symbols, n))
    pairs = [(s, s[::-1]) for s in sequences]
    vocabulary = (*SPECIAL, *(str(i) for i in range(symbols)))
    return from_arrays(_arrays(pairs, length), vocabulary)


@register("sources")
def translation(
    split: str,
    /,
    *,
    dataset: str,
    source: str,
    target: str,
    data_dir: str | None = None,
    length: Count = 32,
    vocabulary: Count = 8000,
) -> Source:
    """Sentences in two languages, a data set of TFDS, as lower-case words and punctuation marks.

    The vocabulary is the most frequent words of both languages in the split `train`. Records have
    `source` and `tokens`, (length + 2,) each.

    Args:
        split: of the data set's; a slice counts pairs.
        dataset: name of a data set whose features are languages, such as 'multi30k_de_en'.
        source: the feature that is read: 'de'.
        target: the feature that is written: 'en'.
        data_dir: where data sets lie; by default $TFDS_DATA_DIR, else ~/tensorflow_datasets.
        length: words of a sentence, beyond which it is cut off.
        vocabulary: entries, those for padding, unknown words, start and end included.
    """
    known = _vocabulary(dataset, data_dir, source, target, vocabulary)
    number = {word: i for i, word in enumerate(known)}
    texts = {name: _texts(dataset, data_dir, source, target, name) for name in names(split)}
    sizes = {name: s.num_examples for name, s in prepared(dataset, data_dir).info.splits.items()}
    numbered = lambda words: [number.get(word, UNKNOWN) for word in words]
    pairs = [
        (numbered(read), numbered(written))
        for name, start, stop in resolve(split, sizes)
        for read, written in texts[name][start:stop]
    ]
    return from_arrays(_arrays(pairs, length), known)


def words(text: str) -> list[str]:
    """'Ein Hund, der läuft.' as 'ein', 'hund', ',', 'der', 'läuft', '.'."""
    return _WORD.findall(text.lower())


def most_frequent(sentences: Iterable[Sequence[str]], size: int) -> tuple[str, ...]:
    """`SPECIAL` and the most frequent words, `size` in all; of equally frequent ones the first."""
    counts = collections.Counter(word for sentence in sentences for word in sentence)
    order = sorted(counts, key=lambda word: (-counts[word], word))
    return (*SPECIAL, *order[: max(0, size - len(SPECIAL))])


@functools.lru_cache(maxsize=2)
def _vocabulary(
    dataset: str, data_dir: str | None, source: str, target: str, size: int
) -> tuple[str, ...]:
    pairs = _texts(dataset, data_dir, source, target, "train")
    return most_frequent((sentence for pair in pairs for sentence in pair), size)


@functools.lru_cache(maxsize=3)
def _texts(
    dataset: str, data_dir: str | None, source: str, target: str, split: str
) -> list[tuple[list[str], list[str]]]:
    """(words read, words written) of every pair in one whole split."""
    builder = prepared(dataset, data_dir)
    for language in (source, target):
        if language not in builder.info.features:
            hint = choices(language, builder.info.features)
            raise UserError(f"data set '{dataset}' has no language '{language}': {hint}")
    if split not in builder.info.splits:
        hint = choices(split, builder.info.splits)
        raise UserError(f"unknown split '{split}' of data set '{dataset}': {hint}")
    return [
        (words(record[source].decode()), words(record[target].decode()))
        for record in builder.as_data_source(split=split)
    ]


def _arrays(
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]], length: int
) -> dict[str, np.ndarray]:
    """`source` and `tokens`, (n, length + 2) int32."""
    read = np.full((len(pairs), length + 2), PADDING, np.int32)
    written = read.copy()
    for row, (before, after) in enumerate(pairs):
        before, after = [*before[:length], END], [START, *after[:length], END]
        read[row, : len(before)] = before
        written[row, : len(after)] = after
    return {"source": read, "tokens": written}
