"""The grammar of splits: `name`, `name[10%:80%]`, `name[:500]`, `name[-100:]`, joined by `+`.

It is that of TFDS, rounding included, so that a config means the same whichever source reads it.
https://www.tensorflow.org/datasets/splits
"""

import re
from collections.abc import Mapping

import numpy as np

from jaxdl.corrections import word
from jaxdl.errors import SplitError, choices, nearest

_BOUND = r"-?\d[\d_]*(?:\.\d+)?%?"
_SPLIT = re.compile(rf"([\w-]+)(?:\[({_BOUND})?:({_BOUND})?\])?")


def resolve(split: str, sizes: Mapping[str, int]) -> list[tuple[str, int, int]]:
    """The (name, start, stop) of every term of a split.

    Args:
        split: such as 'train[:80%]' or 'train+validation'.
        sizes: number of examples by name.

    Raises:
        SplitError: bad grammar, unknown name, or bounds outside the examples there are.
    """
    return [_term(term.strip(), sizes) for term in split.split("+")]


def names(split: str) -> list[str]:
    """The names alone, of every term of a split."""
    return [term.strip().partition("[")[0] for term in split.split("+")]


def select(split: str, indices: Mapping[str, np.ndarray]) -> np.ndarray:
    """The part of each name's indices that a split asks for, one after the other."""
    terms = resolve(split, {name: len(index) for name, index in indices.items()})
    return np.concatenate([indices[name][start:stop] for name, start, stop in terms])


def _term(term: str, sizes: Mapping[str, int]) -> tuple[str, int, int]:
    match = _SPLIT.fullmatch(term)
    if not match or "[:]" in term:
        closed = (f"{term}]", f"{term}:]", term.rstrip("]") + ":]")
        raise SplitError(
            f"'{term}' is not a split: write 'name', 'name[10%:80%]', 'name[:500]' or "
            "'name[-100:]'",
            word(term, next((t for t in closed if _SPLIT.fullmatch(t)), "train[:80%]")),
        )
    name, *bounds = match.groups()
    if name not in sizes:
        only_all = "all there is is 'all', to be sliced as in 'all[:80%]'"
        hint = only_all if list(sizes) == ["all"] else choices(name, sizes)
        near = ["all"] if list(sizes) == ["all"] else nearest(name, sizes)
        raise SplitError(f"unknown split '{name}': {hint}", word(name, near[0]) if near else None)
    n = sizes[name]
    start, stop = (_position(b, d, n, term) for b, d in zip(bounds, (0, n), strict=True))
    return name, start, stop


def _position(bound: str | None, default: int, n: int, term: str) -> int:
    if bound is None:
        return default
    if bound.endswith("%"):
        percent = float(bound[:-1])
        if abs(percent) > 100:
            raise SplitError(f"split '{term}': {bound} is more than there is")
        position = round(percent * n / 100.0)
    elif "." in bound:
        raise SplitError(f"split '{term}': {bound} is not a whole number of examples")
    else:
        position = int(bound)
    if abs(position) > n:
        raise SplitError(f"split '{term}': {bound} lies outside the {n} examples there are")
    return position + n if position < 0 else position
