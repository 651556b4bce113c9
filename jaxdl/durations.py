"""Durations in steps, epochs, examples or percent, converted in one place."""

import math
import re

from jaxdl.corrections import word
from jaxdl.errors import UserError, nearest

_DURATION = re.compile(
    r"\s*\+?([0-9]+(?:\.[0-9]*)?(?:e[+-]?[0-9]+)?|\.[0-9]+(?:e[+-]?[0-9]+)?)\s*"
    r"(%|percent|steps?|epochs?|examples?)?\s*$"
)


def to_steps(
    duration: int | str, *, examples: int, batch_size: int, total: int | None = None
) -> int:
    """A duration in optimizer steps, rounded up and at least 0.

    Args:
        duration: steps, or '500 steps', '3 epochs', '1e6 examples', '5%'.
        examples: size of the training split, which is one epoch.
        batch_size: examples per step.
        total: steps of the whole run; needed for a percentage.
    """
    match = _DURATION.match(str(duration))
    if not match:
        raise UserError(
            f"'{duration}' is not a duration: write '500 steps', '3 epochs', '1e6 examples' or "
            "'5%'",
            word(str(duration), _meant(str(duration))),
        )
    amount, unit = float(match[1]), (match[2] or "steps").rstrip("s")
    if unit in ("%", "percent"):
        if total is None:
            message = f"'{duration}': the length of a run cannot be a percentage"
            raise UserError(message, word(str(duration), "10 epochs"))
        steps = amount * total / 100
    elif unit == "step":
        steps = amount
    else:
        steps = amount * (examples if unit == "epoch" else 1) / batch_size
    if not math.isfinite(steps):
        raise UserError(f"'{duration}' is too long")
    # 1e-9 absorbs the rounding of fractions: 0.7 epochs of 1000 examples are 70 steps of 10.
    return max(0, math.ceil(steps - 1e-9))


def _meant(text: str) -> str:
    """A duration that a text which is none may stand for."""
    number, unit = re.search(r"[1-9][0-9]*", text), re.search(r"[a-z]+", text.lower())
    units = nearest(unit[0], ("steps", "epochs", "examples", "percent")) if unit else []
    return f"{number[0] if number else 3} {units[0] if units else 'epochs'}"
