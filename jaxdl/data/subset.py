"""Subsets: which examples of a split a run has, fixed by its seed.

A pure function of (labels, seed, arguments), the same on every machine: two runs with one seed and
one subset have the same examples. A subset that declares `labels` is given the class of every
example, or None where a split has no classes or its labels are not to be seen.
"""

import typing
from collections.abc import Callable
from typing import Annotated

import msgspec
import numpy as np

from jaxdl.config import Fraction
from jaxdl.data.sampler import words
from jaxdl.data.split import Split
from jaxdl.errors import UserError, choices
from jaxdl.registry import name_of, register, supplied, supply

# Of what a seed's third word draws: none of an order of examples, see `sampler.permutation`.
_FRACTION, _BOOTSTRAP, _FOLD = range(101, 104)


@register("subsets")
def fraction(n: int, seed: int, labels: np.ndarray | None, /, *, part: Fraction) -> np.ndarray:
    """A part of the examples, the same part of every class, and at least one of each.

    Nested: with one seed, a smaller part lies within a larger one.

    Args:
        n: examples of the split.
        seed: of what is drawn.
        labels: class of every example; without, the part is of all examples together.
        part: 0.05 is one in twenty.
    """
    taken = []
    for mine in _by_class(n, labels, seed, _FRACTION):
        taken.append(mine[: max(1, round(part * len(mine)))])
    return np.sort(np.concatenate(taken))


@register("subsets")
def bootstrap(
    n: int, seed: int, /, *, member: Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
) -> np.ndarray:
    """As many examples as there are, drawn with replacement: 63.2% of them, some several times.

    Bagging Predictors. Breiman 1996. https://doi.org/10.1007/BF00058655

    Args:
        n: examples of the split.
        seed: of what is drawn.
        member: number of the draw: each member of an ensemble has its own.
    """
    return np.sort((words(n, seed, member, _BOOTSTRAP) % np.uint64(n)).astype(np.int64))


@register("subsets")
def fold(
    n: int,
    seed: int,
    labels: np.ndarray | None,
    /,
    *,
    index: Annotated[int, msgspec.Meta(ge=0)],
    of: Annotated[int, msgspec.Meta(ge=2, lt=2**31)],
    complement: bool = False,
) -> np.ndarray:
    """One of several equal parts that together are all examples, each with its part of every class.

    A Study of Cross-Validation and Bootstrap for Accuracy Estimation and Model Selection. Kohavi
    1995. https://www.ijcai.org/Proceedings/95-2/Papers/016.pdf. For cross-validation train on the
    complement of the fold that is measured.

    Args:
        n: examples of the split.
        seed: of how they are dealt out.
        labels: class of every example; without, examples are dealt out regardless of class.
        index: number of the fold, from 0.
        of: how many folds there are.
        complement: all folds but this one.
    """
    if index >= of:
        raise UserError(f"subset 'fold', argument 'index': {index} of {of} folds, 0 to {of - 1}")
    # Dealt out like cards, class after class: sizes differ by one at most, of each class too.
    dealt = np.concatenate(_by_class(n, labels, seed, _FOLD))
    is_in = np.arange(n) % of == index
    return np.sort(dealt[is_in != complement])


@register("subsets")
def classes(
    n: int,
    labels: np.ndarray,
    class_names: tuple[str, ...],
    num_classes: int,
    /,
    *,
    keep: tuple[int | str, ...],
) -> np.ndarray:
    """Examples of some classes alone; classes keep their numbers, and the model its outputs.

    Args:
        n: examples of the split.
        labels: class of every example.
        class_names: of all classes, or nothing.
        num_classes: how many there are.
        keep: numbers of classes, or their names.
    """
    numbers = [_number(c, class_names, num_classes) for c in keep]
    for number, name in zip(numbers, keep, strict=True):
        if not (labels == number).any():
            raise UserError(f"subset 'classes': class {name!r} has no examples in the split")
    return np.flatnonzero(np.isin(labels, numbers))


def _number(name: int | str, class_names: tuple[str, ...], num_classes: int) -> int:
    if isinstance(name, str) and name in class_names:
        return class_names.index(name)
    if isinstance(name, int) and 0 <= name < num_classes:
        return name
    known = class_names if isinstance(name, str) else ()
    hint = choices(str(name), known) if known else f"they are numbered 0 to {num_classes - 1}"
    raise UserError(f"subset 'classes': unknown class {name!r}: {hint}")


def _by_class(n: int, labels: np.ndarray | None, seed: int, drawn: int) -> list[np.ndarray]:
    """Examples of each class in a random order that is fixed by the seed, class after class."""
    labels = np.zeros(n, np.int32) if labels is None else labels
    order = np.lexsort((words(n, seed, 0, drawn), labels))
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)


def subset_of(build: Callable[..., np.ndarray], seed: int) -> Callable[[Split], np.ndarray]:
    """A function that gives the rows of a split that a subset takes, for `open_split`.

    Args:
        build: a bound builder of the kind `subsets`.
        seed: of the run.

    Raises:
        UserError: by the function, of a subset that takes all or none, or cannot have labels.
    """

    def rows_of(split: Split) -> np.ndarray:
        rows = supply(
            build,
            n=len(split),
            seed=seed,
            labels=_labels(build, split),
            class_names=split.class_names,
            num_classes=split.num_classes,
        )
        if len(rows) == 0:
            raise UserError(f"subset '{name_of(build)}' leaves nothing of split '{split.name}'")
        if np.array_equal(rows, np.arange(len(split))):
            raise UserError(
                f"subset '{name_of(build)}' leaves all {len(split)} examples of split "
                f"'{split.name}' as they are: leave it out"
            )
        return rows

    return rows_of


def _labels(build: Callable[..., np.ndarray], split: Split) -> np.ndarray | None:
    """Labels for a subset that declares them; None where it can do without them."""
    declared = supplied(build).get("labels")
    if declared is None:
        return None
    is_needed = type(None) not in typing.get_args(declared.annotation)
    if not is_needed and not split.has_classes:
        return None
    return split.labels(f"subset '{name_of(build)}'")


def reads_seed(build: Callable[..., np.ndarray]) -> bool:
    """True where a bound subset is another one with another seed."""
    return "seed" in supplied(build)
