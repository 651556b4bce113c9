"""Tokenizers by name: a builder makes what turns a text into tokens and tokens into a text.

Token 0 is padding in all of them. A run writes its tokenizer down as a `Part` that makes it again
without the texts it was made from, so that a finished run reads and writes text by itself.
"""

import collections
import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any

import numpy as np

from jaxdl.config import Count, Of, Part
from jaxdl.errors import UserError
from jaxdl.registry import bind, register, supply
from jaxdl.types import END, PADDING

SPECIAL = ("<padding>", "<unknown>", "<start>", "<end>")
"""The first tokens of a vocabulary of words; the last is `END`."""
UNKNOWN, START = 1, 2
_WORD = re.compile(r"\w+|[^\w\s]")


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenizer:
    """Text to tokens and back.

    Attributes:
        encode: text -> (n,) int32 in [1, vocabulary), without start and end.
        decode: tokens -> text; padding, start and end are left out.
        vocabulary: tokens there are, padding included.
        part: its name and arguments, by which it is made again.
        start: tokens before the first of a text.
        end: the token behind the last of a text, where texts end.
    """

    encode: Callable[[str], np.ndarray]
    decode: Callable[[Sequence[int]], str]
    vocabulary: int
    part: Part
    start: tuple[int, ...] = ()
    end: int | None = None


Tokenize = Annotated[Callable[..., Tokenizer], Of("tokenizers")]
"""Builds a tokenizer; it may ask for `texts`, a function that gives those of the training split."""


@register("tokenizers", "bytes")
def byte_tokenizer() -> Tokenizer:
    """A token a byte of UTF-8: nothing is unknown, and bits a token are bits a byte."""
    return Tokenizer(_of_bytes, _text, 1 + 256, Part("bytes"))


def _of_bytes(text: str) -> np.ndarray:
    # A file that is not UTF-8 comes as surrogates, and goes as the bytes that it had.
    raw = np.frombuffer(text.encode("utf-8", "surrogateescape"), np.uint8)
    return raw.astype(np.int32) + 1


def _text(tokens: Sequence[int]) -> str:
    return bytes(int(t) - 1 for t in tokens if t != PADDING).decode("utf-8", errors="replace")


@register("tokenizers", "words")
def word_tokenizer(
    texts: Callable[[], Iterable[str]] | None,
    /,
    *,
    size: Count = 8000,
    vocabulary: tuple[str, ...] | None = None,
) -> Tokenizer:
    """A token a lower-case word or punctuation mark, of the most frequent ones in training.

    Args:
        texts: gives the texts of the training split.
        size: of the vocabulary, `SPECIAL` included.
        vocabulary: the words, most frequent first, in place of those of the texts.
    """
    if vocabulary is None:
        if texts is None:
            raise UserError("tokenizer 'words' needs a vocabulary where there are no texts")
        vocabulary = most_frequent(map(words, texts()), size)[len(SPECIAL) :]
    known = (*SPECIAL, *vocabulary)
    number = {word: i for i, word in enumerate(known)}
    silent = (PADDING, START, END)
    return Tokenizer(
        lambda text: np.array([number.get(word, UNKNOWN) for word in words(text)], np.int32),
        lambda tokens: " ".join(known[t] for t in tokens if t not in silent),
        len(known),
        Part("words", {"vocabulary": list(vocabulary)}),
        (START,),
        END,
    )


def words(text: str) -> list[str]:
    """'Ein Hund, der läuft.' as 'ein', 'hund', ',', 'der', 'läuft', '.'."""
    return _WORD.findall(text.lower())


def most_frequent(sentences: Iterable[Sequence[str]], size: int) -> tuple[str, ...]:
    """`SPECIAL` and the most frequent words, `size` in all; of equally frequent ones the first."""
    counts = collections.Counter(word for sentence in sentences for word in sentence)
    order = sorted(counts, key=lambda word: (-counts[word], word))
    return (*SPECIAL, *order[: max(0, size - len(SPECIAL))])


@functools.lru_cache(maxsize=2)
def learnt(build: Callable[..., Tokenizer], texts: Callable[[], Iterable[str]]) -> Tokenizer:
    """The tokenizer of some texts, made once for all splits of a source.

    Args:
        build: of the tokenizer.
        texts: gives the texts of the training split; calls with equal ones are one call.
    """
    return supply(build, texts=texts)


def recorded_tokenizer(data: Mapping[str, Any]) -> Tokenizer | None:
    """The tokenizer that a run wrote down; None where it has none.

    Args:
        data: the section `data` of the run's manifest. Older ones have the names of the tokens.
    """
    part, names = data.get("tokenizer"), tuple(data.get("class_names", ()))
    if part is None and names[: len(SPECIAL)] == SPECIAL:
        part = {"name": "words", "args": {"vocabulary": names[len(SPECIAL) :]}}
    if part is None and "tokens" in data.get("elements", {}) and data.get("num_classes") == 257:
        part = {"name": "bytes", "args": {}}
    return part and supply(bind("tokenizers", Part(**part)), texts=None)
