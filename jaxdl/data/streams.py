"""Streams: the sources that training examples come from, each in its own order.

The main one, under the name '', is what `data.source` and its neighbours in a config describe.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxdl.data.sampler import Order, Sampler, stream_seed
from jaxdl.data.split import Split
from jaxdl.registry import name_of, supplied, supply

MAIN = ""
"""The name of the stream whose batch is the batch, and whose length is an epoch."""


class TrainStream(NamedTuple):
    """Examples to train on, and their order."""

    split: Split
    sampler: Sampler
    batch_size: int
    is_fixed: bool = False
    """The batch keeps its size where other sizes of the main one are tried."""

    def order(self, seed: int, name: str = MAIN) -> Order:
        """t -> rows of the split that are batch t, for the seed of a run.

        Args:
            seed: of the run.
            name: of the stream: each has an order of its own.
        """
        return self.sampler(len(self.split), self.batch_size, stream_seed(seed, name))


def joined(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """One batch of those of all streams: the main one's arrays, the others in dicts by name."""
    return {**parts[MAIN], **{name: part for name, part in parts.items() if name != MAIN}}


def sampler_of(build: Callable[..., Order], split: Split) -> Sampler:
    """A sampler that has the labels of a split where it declares them.

    Args:
        build: a bound builder of the kind `samplers`.
        split: the examples.
    """
    reads = "labels" in supplied(build)
    labels = split.labels(f"sampler '{name_of(build)}'") if reads else None
    return functools.partial(_order, build, labels)


def _order(
    build: Callable[..., Order], labels: np.ndarray | None, n: int, batch_size: int, seed: int
) -> Order:
    return supply(build, n=n, batch_size=batch_size, seed=seed, labels=labels)
