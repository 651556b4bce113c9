"""The order of examples: batch `t` is a pure function of (seed, t).

The place in the data is therefore the step: a resumed run needs no iterator state, and may resume
on another number of hosts. A sampler that declares `labels` is given the class of every example.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Annotated

import msgspec
import numpy as np

from jaxdl.config import Count, NonNegative
from jaxdl.errors import UserError
from jaxdl.registry import register

Order = Callable[[int], np.ndarray]
"""t -> which examples make up training batch t, (batch_size,) int64 in [0, n)."""
Sampler = Callable[[int, int, int], Order]
"""(examples, batch size, seed) -> order."""

_WEIGHTED, _CLASSES, _EXAMPLES = range(1, 4)  # of what a seed's third word draws; see `permutation`


def words(n: int, *seed: int) -> np.ndarray:
    """n random words, (n,) uint64, the same on every machine.

    The raw output of Philox (https://doi.org/10.1145/2063384.2063405), whose stream NumPy keeps
    for ever; what `Generator` makes of it may change with NumPy's version.
    """
    return np.random.Philox(np.random.SeedSequence(seed)).random_raw(n)


def permutation(n: int, *seed: int) -> np.ndarray:
    """A permutation of n numbers, (n,) int64, the same on every machine: the order of `words`."""
    return np.argsort(words(n, *seed), kind="stable")


def stream_seed(seed: int, name: str) -> int:
    """The seed of the order of a stream, of 64 bits: that of the run for the main one, ''."""
    if not name:
        return seed
    return int(words(1, seed, *name.encode())[0])


@functools.lru_cache(maxsize=4)
def _epoch(seed: int, epoch: int, n: int) -> np.ndarray:
    order = permutation(n, seed, epoch)
    order.setflags(write=False)
    return order


def train_indices(seed: int, t: int, *, n: int, batch_size: int) -> np.ndarray:
    """Indices of the examples of training batch `t` of the sampler `shuffle`.

    The stream is one permutation after another, and batches are cut from it without regard to
    where an epoch ends: every example comes once an epoch, none is dropped, all batches are full.

    Args:
        seed: of the order.
        t: number of the batch, from 0.
        n: number of examples; may be smaller than the batch.
        batch_size: examples in a batch, over all processes.

    Returns:
        (batch_size,) int64 in [0, n).
    """
    return _cut(t, n, batch_size, functools.partial(_epoch, seed, n=n))


def _cut(t: int, n: int, batch_size: int, epoch: Callable[[int], np.ndarray]) -> np.ndarray:
    # batch t = stream[t B : (t + 1) B],  stream[e n + i] = permutation_e[i]
    epochs, within = np.divmod(np.arange(t * batch_size, (t + 1) * batch_size), n)
    parts = [epoch(int(e))[within[epochs == e]] for e in np.unique(epochs)]
    return np.concatenate(parts)


@register("samplers")
def shuffle(n: int, batch_size: int, seed: int, /) -> Order:
    """Every example once an epoch, in an order that is new each time; see `train_indices`."""

    # Of its own: several streams in turn would push each other's permutations out of one cache.
    @functools.lru_cache(maxsize=3)
    def epoch(e: int) -> np.ndarray:
        return permutation(n, seed, e)

    return lambda t: _cut(t, n, batch_size, epoch)


@register("samplers")
def balanced(n: int, batch_size: int, seed: int, labels: np.ndarray, /) -> Order:
    """Every class equally often, however many examples it has.

    In each round every class that has examples comes once, the classes in an order that is new
    each time. Of a class, every example comes once before any comes again.
    """
    members = list(_members(labels).values())
    k = len(members)

    @functools.lru_cache(maxsize=4)
    def classes(r: int) -> np.ndarray:
        return permutation(k, seed, r, _CLASSES)

    @functools.lru_cache(maxsize=2 * k)
    def pass_of(c: int, e: int) -> np.ndarray:
        return members[c][permutation(len(members[c]), seed, e, _EXAMPLES, c)]

    def example(slot: int) -> int:
        r, i = divmod(slot, k)
        c = int(classes(r)[i])
        e, j = divmod(r, len(members[c]))
        return pass_of(c, e)[j]

    return lambda t: np.array([example(s) for s in range(t * batch_size, (t + 1) * batch_size)])


@register("samplers")
def weighted(
    n: int, batch_size: int, seed: int, labels: np.ndarray, /, *, weights: tuple[NonNegative, ...]
) -> Order:
    """Examples drawn with replacement, in proportion to the weight of their class.

    Args:
        n: examples.
        batch_size: examples in a batch.
        seed: of what is drawn.
        labels: class of every example.
        weights: of an example of each class, in the order of classes. With one over the number of
            its examples for each class, all classes come equally often in expectation.
    """
    if len(weights) <= labels.max():
        raise UserError(
            f"sampler 'weighted' has {len(weights)} weights, and there are classes up to "
            f"{labels.max()}: one for each"
        )
    upper = np.cumsum(np.asarray(weights, np.float64)[labels])
    if not 0 < upper[-1] < np.inf:
        raise UserError("sampler 'weighted' needs a weight above 0 for a class that has examples")

    def batch(t: int) -> np.ndarray:
        # the first 53 bits of a word, a float64 in [0, 1)
        u = (words(batch_size, seed, t, _WEIGHTED) >> np.uint64(11)) / 2.0**53
        return np.searchsorted(upper, u * upper[-1], side="right")

    return batch


@register("samplers")
def classes_by_examples(
    n: int, batch_size: int, seed: int, labels: np.ndarray, /, *, classes: Count, examples: Count
) -> Order:
    """P x K: some classes, and as many examples of each, for losses that compare examples.

    In Defense of the Triplet Loss for Person Re-Identification. Hermans, Beyer, Leibe 2017.
    https://arxiv.org/abs/1703.07737 (section 2). Rows lie class by class.

    Args:
        n: examples.
        batch_size: the product of the two below.
        seed: of what is drawn.
        labels: class of every example.
        classes: P, different ones in each batch.
        examples: K of each, different ones where the class has as many, else as even as may be.
    """
    members = _members(labels)
    _product("classes_by_examples", batch_size, (classes, examples))
    _enough("classes_by_examples", "classes", classes, members)

    def batch(t: int) -> np.ndarray:
        rows = []
        for c in _chosen(members, classes, seed, t, _CLASSES):
            mine = members[c]
            order = permutation(len(mine), seed, t, _EXAMPLES, c)
            rows.append(mine[order[np.arange(examples) % len(mine)]])
        return np.concatenate(rows)

    return batch


@register("samplers")
def episodes(
    n: int,
    batch_size: int,
    seed: int,
    labels: np.ndarray,
    /,
    *,
    ways: Annotated[int, msgspec.Meta(ge=2, lt=2**31)],
    shots: Count,
    queries: Count,
    episodes: Count = 1,
) -> Order:
    """Tasks of few examples: N-way K-shot episodes, for metric-based and meta-learning.

    Matching Networks for One Shot Learning. Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra
    2016. https://arxiv.org/abs/1606.04080. Rows lie as (episode, way, shots + queries): a reshape
    to these four numbers finds them again. No example comes twice in an episode.

    Args:
        n: examples.
        batch_size: the product of `episodes`, `ways` and `shots` + `queries`.
        seed: of what is drawn.
        labels: class of every example.
        ways: classes of an episode, different ones.
        shots: examples of each class to learn from.
        queries: examples of each class to be judged by.
        episodes: in a batch, drawn independently of each other.
    """
    members, each = _members(labels), shots + queries
    _product("episodes", batch_size, (episodes, ways, each))
    _enough("episodes", "ways", ways, members)
    fewest = min(members, key=lambda c: len(members[c]))
    if len(members[fewest]) < each:
        raise UserError(
            f"sampler 'episodes' takes {each} examples of a class, and class {fewest} has "
            f"{len(members[fewest])}: fewer shots or queries, or a subset without that class"
        )

    def batch(t: int) -> np.ndarray:
        rows = []
        for e in range(t * episodes, (t + 1) * episodes):
            for c in _chosen(members, ways, seed, e, _CLASSES):
                order = permutation(len(members[c]), seed, e, _EXAMPLES, c)
                rows.append(members[c][order[:each]])
        return np.concatenate(rows)

    return batch


def _members(labels: np.ndarray) -> dict[int, np.ndarray]:
    """Examples of each class that has any, in order."""
    order = np.argsort(labels, kind="stable")
    values, starts = np.unique(labels[order], return_index=True)
    return dict(zip(values.tolist(), np.split(order, starts[1:]), strict=True))


def _chosen(members: Mapping[int, np.ndarray], k: int, *seed: int) -> list[int]:
    """k different classes."""
    classes = list(members)
    return [classes[i] for i in permutation(len(classes), *seed)[:k]]


def _product(name: str, batch_size: int, sizes: tuple[int, ...]) -> None:
    product = int(np.prod([int(s) for s in sizes], dtype=object))
    if batch_size != product:
        said = " x ".join(map(str, sizes))
        raise UserError(
            f"sampler '{name}' makes batches of {said} = {product} examples, not of {batch_size}: "
            f"set batch_size={product}"
        )


def _enough(name: str, argument: str, asked: int, members: Mapping[int, np.ndarray]) -> None:
    if asked > len(members):
        raise UserError(
            f"sampler '{name}', argument '{argument}': {asked} different classes in a batch, and "
            f"{len(members)} have examples"
        )
