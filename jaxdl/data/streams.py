"""Streams: the sources that training examples come from, each in its own order.

The main one, under the name '', is what `data.source` and its neighbours in a config describe.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxdl.data.sampler import Order, Sampler, stream_seed
from jaxdl.data.split import Split
from jaxdl.errors import UserError
from jaxdl.registry import name_of, supplied, supply

MAIN = ""
"""The name of the stream whose batch is the batch, and whose length is an epoch."""


class TrainStream(NamedTuple):
    """Examples to train on, and their order."""

    split: Split
    sampler: Sampler
    batch_size: int

    def order(self, seed: int, name: str = MAIN) -> Order:
        """t -> rows of the split that are batch t, for the seed of a run.

        Args:
            seed: of the run.
            name: of the stream: each has an order of its own.
        """
        return self.sampler(len(self.split), self.batch_size, stream_seed(seed, name))


def sampler_of(build: Callable[..., Order], split: Split, labels: bool = True) -> Sampler:
    """A sampler that has the labels of a split where it declares them.

    Args:
        build: a bound builder of the kind `samplers`.
        split: the examples.
        labels: whether they may be seen.
    """
    name = name_of(build)

    reads = "labels" in supplied(build)
    if reads and not labels:
        raise UserError(f"sampler '{name}' reads labels, and labels is false")
    return functools.partial(_order, build, split.labels(f"sampler '{name}'") if reads else None)


def _order(
    build: Callable[..., Order], labels: np.ndarray | None, n: int, batch_size: int, seed: int
) -> Order:
    return supply(build, n=n, batch_size=batch_size, seed=seed, labels=labels)
