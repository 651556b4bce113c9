"""Two results of `jaxdl bench`: how the times compare, and whether that is more than noise.

An interval is had by drawing rounds anew, with replacement, from those of both runs (Efron 1979,
https://doi.org/10.1214/aos/1176344552). A round is the unit because calls of one round share what
else the machine did just then. What differs from one process to the next, such as where memory
lies, no single run shows: two runs of the same code may differ by more than their rounds do.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxdl.errors import UserError
from jaxdl.research.table import aligned

KEY = ("model", "mode", "image", "batch_size", "dtype", "devices")
"""What two results must agree in to be compared."""
SAMPLES = 2000


class Comparison(NamedTuple):
    """One program in both runs: time of the second over that of the first."""

    name: str
    seconds: tuple[float, float]
    """medians of the rounds"""
    ratio: float
    low: float
    high: float
    """ends of the 95 % interval"""

    @property
    def is_noise(self) -> bool:
        """Whether the interval includes 1."""
        return self.low <= 1 <= self.high


def load(file: Path) -> dict[str, Any]:
    """What `jaxdl bench --json` wrote."""
    try:
        found = json.loads(file.read_text())
        if not all(len(r["rounds"]) and {*KEY} <= {*r} for r in found["results"]):
            raise KeyError
    except OSError as error:
        raise UserError(f"cannot read '{file}': {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"'{file}' is nothing that `jaxdl bench --json` wrote") from error
    return found


def compare(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Comparison]:
    """The programs that both runs have, in the order of the first.

    Args:
        first: from `load`.
        second: likewise.

    Raises:
        UserError: they have none in common, or were measured by different clocks.
    """
    if first["clock"] != second["clock"]:
        raise UserError(f"one is of {first['clock']} time and the other of {second['clock']} time")
    key = lambda r: json.dumps([r[k] for k in KEY])
    others = {key(r): r for r in second["results"]}
    pairs = [(r, others[key(r)]) for r in first["results"] if key(r) in others]
    if not pairs:
        raise UserError("the two have no program in common")
    return [_compared(_name(a), a["rounds"], b["rounds"]) for a, b in pairs]


def _compared(name: str, first: Sequence[float], second: Sequence[float]) -> Comparison:
    low, high = ratio_interval(first, second)
    medians = float(np.median(first)), float(np.median(second))
    return Comparison(name, medians, medians[1] / medians[0], low, high)


def ratio_interval(
    first: Sequence[float], second: Sequence[float], confidence: float = 0.95
) -> tuple[float, float]:
    """Bootstrap interval of median(second) / median(first), drawn from a fixed seed.

    Args:
        first: independent measurements.
        second: likewise; they need not be as many.
        confidence: of the interval, in (0, 1).
    """
    if len(first) < 2 or len(second) < 2:
        return 0.0, float("inf")  # a single measurement says nothing of its noise
    draws = np.random.default_rng(0)
    median = lambda x: np.median(draws.choice(x, (SAMPLES, len(x))), axis=1)
    # r = median(b) / median(a)
    ratios = median(np.asarray(second)) / median(np.asarray(first))
    low, high = np.quantile(ratios, (0.5 - confidence / 2, 0.5 + confidence / 2))
    return float(low), float(high)


def _name(record: Mapping[str, Any]) -> str:
    size = "x".join(map(str, record["image"]))
    return f"{record['model']} {record['mode']} {size} b{record['batch_size']} {record['dtype']}"


def text(found: Sequence[Comparison]) -> str:
    """A line a program: both times, their ratio, what it means."""
    rows = [("program", "first ms", "second ms", "ratio", "95 % interval", "")]
    for c in found:
        said = "no difference beyond the noise"
        if not c.is_noise:
            said = f"{abs(1 - c.ratio):.1%} {'less' if c.ratio < 1 else 'more'} time"
        rows.append(
            (
                c.name,
                *(f"{1e3 * s:.4g}" for s in c.seconds),
                f"{c.ratio:.3f}",
                f"{c.low:.3f} to {c.high:.3f}",
                said,
            )
        )
    return "\n".join(aligned(rows, "<>>>><"))
