"""Early stopping, as a pure function of what was measured so far.

Early Stopping - But When? Prechelt 1998. https://doi.org/10.1007/3-540-49430-8_3
Nothing is kept between evaluations, so a resumed run decides as an uninterrupted one.
"""

import math
from collections.abc import Sequence


def best(history: Sequence[float], mode: str, min_delta: float = 0.0) -> int | None:
    """Position of the last value that beat the best before it by more than `min_delta`.

    Args:
        history: one value an evaluation, in order; NaN never is the best.
        mode: 'max' or 'min'.
        min_delta: gains of this or less do not count.
    """
    sign = 1.0 if mode == "max" else -1.0
    found = None
    for i, value in enumerate(history):
        if math.isnan(value):
            continue
        if found is None or sign * (value - history[found]) > min_delta:
            found = i
    return found


def should_stop(history: Sequence[float], *, patience: int, min_delta: float, mode: str) -> bool:
    """True once `patience` evaluations in a row brought no gain of more than `min_delta`."""
    position = best(history, mode, min_delta)
    return len(history) - 1 - (-1 if position is None else position) >= patience
