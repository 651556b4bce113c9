"""The glossary: one spelling for every axis and every key of a batch.

Axes: `b` batch, `h` `w` image height and width, `c` channels, `t` time, `d` features, `k` classes.

A batch is a dict of arrays that share their first axis:
    image   (b, h, w, c)  uint8 in [0, 255] as stored, or float
    label   (b,)          int32 in [0, k)
            (b, h, w)     the same for each pixel; `VOID` where a pixel has no class
    tokens  (b, t)        int32, 0 for padding
    source  (b, s)        int32, 0 for padding: what tokens translate
    mask    (b,)          float32, 1 for an example and 0 for padding; absent means all are examples
    index   (b,)          int32, the number of each example in its split, where outputs are kept
    progress (b,)         float32 in [0, 1), all alike: step / steps of the run, where an objective
                        asks for it; see `progress_of`
    mixed_label, lam (b,)  int32, float32 in [0, 1]: of a mixture of two examples, the other one's
                        label, and the weight of the first one's `label` in it
    index   (b,)          int32, the number of each example in its split, where it is asked for

A training batch may hold batches of further streams, dicts of the same kind, under their names, and
each of these its further views: batch["target"]["image"], batch["target"]["strong"]["image"]. A
stream may have another number of examples than the batch that it stands in.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

PADDING = 0
"""The token that fills sequences up to one length."""
END = 3
"""The token that ends a sequence, in sources whose sequences end."""
VOID = 255
"""The label of a pixel that has no class: what objectives and metrics ignore."""

Array = jax.Array
PyTree = Any
Batch = Mapping[str, Any]
"""Arrays by name; those of further streams in batches of their own."""
Metrics = dict[str, tuple[Array, Array]]
"""Name to (sum, count); merging two is addition, the value is sum / count."""


class MultiStepBatch(NamedTuple):
    """Batches of several steps, as one argument of one program."""

    steps: Array
    """() int32, how many"""
    index: Array  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    """(m, b) int32, rows of `arrays` that are the batch of each step; m >= steps"""
    arrays: Batch
    """all examples"""
    streams: Mapping[str, tuple[Array, Batch]] = {}
    """by name, index and arrays of each further stream"""

    def batch(self, i: Array) -> Batch:
        """The batch of step i."""
        further = {
            name: {key: array[index[i]] for key, array in arrays.items()}
            for name, (index, arrays) in self.streams.items()
        }
        return {name: array[self.index[i]] for name, array in self.arrays.items()} | further


EXTRA = "extra"
"""Entry of the variables that moves with training and is never averaged: centers, queues, a mean
teacher. A dict by name. Checkpoints hold it; evaluation reads it as it is."""
CONSTANT = "constant"
"""Entry of the variables that never moves, such as a frozen teacher. A dict by name. It is neither
averaged nor donated, and stored once a run instead of in every checkpoint."""


class Aux(NamedTuple):
    """Auxiliary outputs of a loss."""

    variables: PyTree
    """Carried from step to step, never differentiated: the collections of Linen modules, such as
    batch statistics, and beside them `EXTRA` and `CONSTANT`, which no module sees."""
    metrics: Metrics
    outputs: dict[str, Array]
    """Logits and features, so that a combinator never pays for a second forward pass."""
    terms: dict[str, Array] = {}
    """The scalars that the loss is the sum of, by name, where it has several."""


class Objective(NamedTuple):
    """An objective to minimise: a tuple of pure functions, composed by plain functions."""

    init: Callable[[Array, Batch], tuple[PyTree, PyTree]]
    """(key, batch) -> (params, variables)"""
    loss: Callable[[PyTree, PyTree, Batch, Array], tuple[Array, Aux]]
    """(params, variables, batch, key) -> (float32 scalar, Aux), in training mode"""
    predict: Callable[..., dict[str, Array]]
    """(params, variables, batch, key=None) -> outputs, in inference mode; with a key, what drops
    at random in training drops here too, while norms still read their running statistics"""


def progress_of(batch: Batch) -> Array:
    """The fraction of the run's steps that are done, () float32; 1 outside of training steps.

    It is in the batches of objectives and regularizers whose builders ask for `progress`.
    """
    if "progress" in batch:
        progress: Array = batch["progress"][0]
        return progress
    return jax.numpy.ones((), jax.numpy.float32)


def as_label(batch: Batch, target: str) -> Batch:
    """The batch with a target in the place of `label`, integers as int32.

    A batch that has it there already is left as it is, and so are tokens, which nothing reads as
    labels.
    """
    if target in ("label", "tokens") or target not in batch:
        return batch
    label = batch[target]
    if jax.numpy.issubdtype(label.dtype, jax.numpy.integer):
        label = label.astype(jax.numpy.int32)
    return {**{key: x for key, x in batch.items() if key != target}, "label": label}


def mask_of(batch: Batch) -> Array:
    """The batch's mask (b,), all ones where it has none."""
    if "mask" in batch:
        mask: Array = batch["mask"].astype(jax.numpy.float32)
        return mask
    first = next(x for x in batch.values() if not isinstance(x, Mapping))
    return jax.numpy.ones(first.shape[:1], jax.numpy.float32)
