"""Splits that a run wrote down: what their examples are like, without the examples.

A finished run is assembled from its manifest by them, on machines that do not have its data.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.data.source import Source
from jaxdl.data.split import Split
from jaxdl.data.target import Target, targets_of
from jaxdl.data.tokenizers import Tokenizer
from jaxdl.errors import UserError


class _Absent:
    """Records that cannot be read, only counted."""

    readable = False

    def __init__(self, split: str, length: int):
        self._split, self._length = split, length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        raise UserError(f"the examples of split '{self._split}' have not been opened")


def record(split: Split) -> dict[str, dict[str, Any]]:
    """The arrays of one example of a split, as JSON: name to shape and type."""
    return {
        name: {"shape": list(spec.shape), "dtype": str(spec.dtype)}
        for name, spec in split.element_spec.items()
    }


def recorded(
    name: str,
    length: int,
    elements: Mapping[str, Mapping[str, Any]],
    class_names: Sequence[str],
    num_classes: int | None,
    tokenizer: Tokenizer | None = None,
    vocabulary: int | None = None,
    targets: Mapping[str, Mapping[str, Any]] | None = None,
) -> Split:
    """A split without its examples.

    Args:
        name: as it was asked for, such as 'train[:80%]'.
        length: examples in it.
        elements: of one example, as `record` gives them.
        class_names: of the classes, or nothing.
        num_classes: where there are any.
        tokenizer: of tokens, where they are of a text.
        vocabulary: of tokens.
        targets: of the split, by key, as dicts of their fields; an older run wrote none.
    """
    spec = {
        key: jax.ShapeDtypeStruct(tuple(one["shape"]), jnp.dtype(one["dtype"]))
        for key, one in elements.items()
    }
    about = {"tokenizer": tokenizer, "vocabulary": vocabulary}
    source = Source(_Absent(name, length), tuple(class_names), num_classes, **about)
    split = Split(name, source, None, spec, tuple(class_names), num_classes)
    if targets is not None:
        known = {k: Target(t["kind"], t["size"], tuple(t["names"])) for k, t in targets.items()}
    else:
        zeros = {key: np.zeros((1, *one.shape), one.dtype) for key, one in spec.items()}
        sizes = (num_classes, split.vocabulary, tuple(class_names))
        known = targets_of(zeros, False, {}, *sizes)
    return dataclasses.replace(split, targets=known)
