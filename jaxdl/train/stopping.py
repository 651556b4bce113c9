"""Early stopping, as a pure function of what was measured so far.

Early Stopping - But When? Prechelt 1998. https://doi.org/10.1007/3-540-49430-8_3
Nothing is kept between evaluations, so a resumed run decides as an uninterrupted one.
"""

from collections.abc import Sequence

from jaxdl.judging import best


def should_stop(history: Sequence[float], *, patience: int, min_delta: float, mode: str) -> bool:
    """True once `patience` evaluations in a row brought no gain of more than `min_delta`."""
    position = best(history, mode, min_delta)
    return len(history) - 1 - (-1 if position is None else position) >= patience
