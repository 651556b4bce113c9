"""The order of examples: batch `t` is a pure function of (seed, t).

The place in the data is therefore the step: a resumed run needs no iterator state, and may resume
on another number of hosts.
"""

import functools

import numpy as np


def permutation(n: int, *seed: int) -> np.ndarray:
    """A permutation of n numbers, (n,) int64, the same on every machine.

    Sorts the raw words of Philox (https://doi.org/10.1145/2063384.2063405), whose stream NumPy
    keeps for ever; what `Generator.permutation` makes of it may change with NumPy's version.
    """
    words = np.random.Philox(np.random.SeedSequence(seed)).random_raw(n)
    return np.argsort(words, kind="stable")


@functools.lru_cache(maxsize=4)
def _epoch(seed: int, epoch: int, n: int) -> np.ndarray:
    order = permutation(n, seed, epoch)
    order.setflags(write=False)
    return order


def train_indices(seed: int, t: int, *, n: int, batch_size: int) -> np.ndarray:
    """Which examples make up training batch `t`.

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
    # batch t = stream[t B : (t + 1) B],  stream[e n + i] = permutation_e[i]
    epochs, within = np.divmod(np.arange(t * batch_size, (t + 1) * batch_size), n)
    parts = [_epoch(seed, int(e), n)[within[epochs == e]] for e in np.unique(epochs)]
    return np.concatenate(parts)
