"""Pairs of sequences for a model that reads one and writes the other.

`source` is words and an end; `tokens` a start, words and an end. Both are of one vocabulary, as the
models have one table of embeddings, and are padded to one length.
"""

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from jaxdl.config import Count, Seed
from jaxdl.data.arrays import check_room, from_arrays
from jaxdl.data.source import Source
from jaxdl.data.split_spec import names, resolve, select
from jaxdl.data.tfds_source import prepared
from jaxdl.data.tokenizers import SPECIAL, START, Tokenize, learnt, word_tokenizer
from jaxdl.errors import SplitError, UserError, choices
from jaxdl.registry import register
from jaxdl.types import END, PADDING

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
    """Random sequences and their reversals: an artificial task with a known solution.

    The distance between a symbol and its copy differs from position to position, so a model must
    learn to attend by position. Records have `source` and `tokens`, (length + 2,) each.

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
    made = word_tokenizer(None, vocabulary=tuple(str(i) for i in range(symbols)))
    return from_arrays(_arrays(pairs, length), tokenizer=made)


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
    tokenizer: Tokenize = word_tokenizer,
) -> Source:
    """Sentences in two languages, a data set of TFDS, as lower-case words and punctuation marks.

    The tokenizer learns from both languages in the split `train`. Records have
    `source` and `tokens`, (length + 2,) each.

    Args:
        split: of the data set's; a slice counts pairs.
        dataset: name of a data set whose features are languages, such as 'multi30k_de_en'.
        source: the feature that is read: 'de'.
        target: the feature that is written: 'en'.
        data_dir: where data sets lie; by default $TFDS_DATA_DIR, else ~/tensorflow_datasets.
        length: tokens of a sentence, beyond which it is cut off.
        tokenizer: of both languages; one whose texts have a start and an end.
    """
    languages = (dataset, data_dir, source, target)
    made = learnt(tokenizer, _TrainingTexts(*languages))
    if not made.start or made.end is None:
        raise UserError(
            f"source 'translation' writes a start and an end, which tokenizer '{made.part.name}' "
            "does not have"
        )
    texts = {name: _texts(dataset, data_dir, source, target, name) for name in names(split)}
    sizes = {name: s.num_examples for name, s in prepared(dataset, data_dir).info.splits.items()}
    pairs = [
        (made.encode(read), made.encode(written))
        for name, start, stop in resolve(split, sizes)
        for read, written in texts[name][start:stop]
    ]
    return from_arrays(_arrays(pairs, length), tokenizer=made)


@functools.lru_cache(maxsize=3)
def _texts(
    dataset: str, data_dir: str | None, source: str, target: str, split: str
) -> list[tuple[str, str]]:
    """(text read, text written) of every pair in one whole split."""
    builder = prepared(dataset, data_dir)
    for language in (source, target):
        if language not in builder.info.features:
            hint = choices(language, builder.info.features)
            raise UserError(f"data set '{dataset}' has no language '{language}': {hint}")
    if split not in builder.info.splits:
        hint = choices(split, builder.info.splits)
        raise SplitError(f"unknown split '{split}' of data set '{dataset}': {hint}")
    return [
        (record[source].decode(), record[target].decode())
        for record in builder.as_data_source(split=split)
    ]


class _TrainingTexts(NamedTuple):
    """Gives the sentences in both languages; equal ones are one to a cache."""

    dataset: str
    data_dir: str | None
    source: str
    target: str

    def __call__(self) -> Iterator[str]:
        return itertools.chain.from_iterable(_texts(*self, "train"))


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
