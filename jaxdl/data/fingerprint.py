"""Digest of the examples of a split, the same whatever batches and processes they are read in."""

import hashlib
from collections.abc import Mapping

import numpy as np

_BYTES = 16


class Fingerprint:
    """A sum, modulo 2^128, of a hash of each example with its number.

    A sum has no order, so that threads, batches and processes may each add their part of it; one
    changed bit of an example, or two exchanged examples, change it.
    """

    def __init__(self) -> None:
        self._sum = 0

    def add(self, index: np.ndarray, examples: Mapping[str, np.ndarray]) -> None:
        """Take in examples that were not seen before.

        Args:
            index: (n,) their numbers in the split.
            examples: name to array (n, ...), as they are stored.
        """
        columns = [(name, np.ascontiguousarray(examples[name])) for name in sorted(examples)]
        kinds = " ".join(f"{name}:{x.dtype.str}{x.shape[1:]}" for name, x in columns)
        for row, number in enumerate(np.asarray(index).tolist()):
            one = hashlib.blake2b(f"{number} {kinds}".encode(), digest_size=_BYTES)
            for _, column in columns:
                one.update(column[row].reshape(-1).view(np.uint8))
            self._sum += int.from_bytes(one.digest(), "little")

    @property
    def text(self) -> str:
        """The sum so far, 32 hexadecimal digits."""
        return f"{self._sum % 2 ** (8 * _BYTES):032x}"


def digest(array: np.ndarray) -> str:
    """Digest of one array with its type and shape, 32 hexadecimal digits."""
    whole = hashlib.blake2b(f"{array.dtype.str}{array.shape}".encode(), digest_size=_BYTES)
    whole.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return whole.hexdigest()


def merged(texts: list[str]) -> str:
    """The digest of a split, of those of its parts."""
    return f"{sum(int(text, 16) for text in texts) % 2 ** (8 * _BYTES):032x}"
