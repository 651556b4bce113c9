"""Schedules of a pipeline: tables of each stage's work at each tick.

A tick ends when every stage has handed on what it made, so it lasts as long as its busiest stage.
"""

from typing import NamedTuple

import numpy as np


class Schedule(NamedTuple):
    """Two tables (ticks, stages) of int32: the micro-batch whose pass a stage runs, -1 for none.

    What a forward pass makes at one tick is read by the next stage's at the next; what a backward
    pass makes, by the stage before. Of one tick, the forward pass comes first.
    """

    forward: np.ndarray
    backward: np.ndarray

    @property
    def slots(self) -> int:
        """The most micro-batches whose input any stage but the first must hold at once."""
        begun = np.cumsum(self.forward >= 0, axis=0)
        # One that a tick ends is still held in it.
        ended = np.cumsum(self.backward >= 0, axis=0) - (self.backward >= 0)
        return int((begun - ended)[:, 1:].max())


def _table(ticks: int, starts: np.ndarray, micro_batches: int) -> np.ndarray:
    """Micro-batches in order, one a tick, each stage from its own start on."""
    micro = np.arange(ticks, dtype=np.int32)[:, None] - starts.astype(np.int32)
    return np.where((micro >= 0) & (micro < micro_batches), micro, np.int32(-1))


def gpipe(stages: int, micro_batches: int) -> Schedule:
    """All forward passes, then all backward passes.

    GPipe: Efficient Training of Giant Neural Networks using Pipeline Parallelism. Huang et al.
    2019. https://arxiv.org/abs/1811.06965, figure 2c. Backward passes take micro-batches in the
    order of the forward ones, where the figure has them reversed.
    """
    s, half = np.arange(stages), micro_batches + stages - 1
    backward = _table(2 * half, half + stages - 1 - s, micro_batches)
    return Schedule(_table(2 * half, s, micro_batches), backward)


def one_f_one_b(stages: int, micro_batches: int) -> Schedule:
    """A backward pass as soon as there can be one: what is held does not grow with micro-batches.

    Memory-Efficient Pipeline-Parallel DNN Training. Narayanan, Phanishayee, Shi, Chen, Zaharia
    2020. https://arxiv.org/abs/2006.09503, PipeDream-Flush; figure 4 of
    https://arxiv.org/abs/2104.04473. There a stage s = 0 ... S - 1 has one pass at a time, and its
    neighbours one of the other kind meanwhile. Where all wait for the slowest at every tick, that
    wastes the difference of the two: with backward passes of 3 forward ones (one is the stage
    computed again), 4 stages and 8 micro-batches, 58 forward passes' time instead of 44. So here a
    stage has one of each in a tick, which takes as long as GPipe, and holds 2 (S - s) - 1
    micro-batches at most instead of S - s.
    """
    s, last = np.arange(stages), stages - 1
    ticks = micro_batches + 2 * last
    return Schedule(_table(ticks, s, micro_batches), _table(ticks, 2 * last - s, micro_batches))
