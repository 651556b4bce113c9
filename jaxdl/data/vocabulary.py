"""Text to tokens and back, by what a run wrote down of its vocabulary."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from jaxdl.data.pairs import SPECIAL, START, UNKNOWN, words
from jaxdl.data.text import VOCABULARY
from jaxdl.errors import UserError
from jaxdl.types import END, PADDING


class Vocabulary(NamedTuple):
    """The tokens of a text, and the text of tokens."""

    encode: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]
    start: tuple[int, ...]
    """tokens before the first of a text"""
    end: int | None
    """the token behind the last, where texts end"""


def vocabulary_of(names: Sequence[str], size: int) -> Vocabulary:
    """Bytes, or the words that the names of the tokens are.

    Args:
        names: of all tokens, or nothing.
        size: of the vocabulary.

    Raises:
        UserError: tokens of neither kind.
    """
    if tuple(names[: len(SPECIAL)]) == SPECIAL:
        number = {word: i for i, word in enumerate(names)}
        encode = lambda text: [number.get(word, UNKNOWN) for word in words(text)]
        decode = lambda tokens: " ".join(names[t] for t in tokens if t not in (PADDING, START, END))
        return Vocabulary(encode, decode, (START,), END)
    if not names and size == VOCABULARY:
        return Vocabulary(lambda text: [byte + 1 for byte in text.encode()], _text, (), None)
    raise UserError(f"the {size} tokens of this run are neither bytes nor words with names")


def _text(tokens: Sequence[int]) -> str:
    """Bytes as UTF-8, what is not as the replacement character."""
    return bytes(t - 1 for t in tokens if t != PADDING).decode("utf-8", errors="replace")
