"""Comparison of two results of `jaxdl bench`: ratios of times, with confidence intervals.

Intervals are from a hierarchical bootstrap over processes, then rounds of each (Efron 1979,
https://doi.org/10.1214/aos/1176344552). A round is the unit because its calls share the load of the
machine at that moment. Differences between processes, such as memory layout, need several
processes for each side, run alternately.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxdl.errors import UserError
from jaxdl.perf.table import aligned

KEY = ("model", "mode", "image", "batch_size", "dtype", "devices")
"""Entries in which two results must agree to be compared."""
SAMPLES = 2000


class Comparison(NamedTuple):
    """One program on both sides: time of the second over that of the first."""

    name: str
    seconds: tuple[float, float]
    """medians of the rounds"""
    ratio: float
    low: float
    high: float
    """ends of the 95 % interval"""

    @property
    def is_noise(self) -> bool:
        """True if the interval includes 1."""
        return self.low <= 1 <= self.high


def load(file: Path) -> dict[str, Any]:
    """Read the file that `jaxdl bench --json` wrote."""
    try:
        found = json.loads(file.read_text())
        if not all(len(r["rounds"]) and {*KEY} <= {*r} for r in found["results"]):
            raise KeyError
    except OSError as error:
        raise UserError(f"cannot read '{file}': {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"'{file}' is nothing that `jaxdl bench --json` wrote") from error
    return found


def compare(
    first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]
) -> list[Comparison]:
    """The programs that all runs have, in the order of the first one.

    Args:
        first: runs of one side, from `load`.
        second: of the other.

    Raises:
        UserError: they have none in common, or were measured by different clocks.
    """
    clocks = sorted({run["clock"] for run in [*first, *second]})
    if len(clocks) > 1:
        raise UserError(f"some are of {clocks[0]} time and others of {clocks[1]} time")
    key = lambda r: json.dumps([r[k] for k in KEY])
    a, b = ([{key(r): r for r in run["results"]} for run in side] for side in (first, second))
    shared = [name for name in a[0] if all(name in run for run in [*a, *b])]
    if not shared:
        raise UserError("they have no program in common")
    rounds = lambda side, name: [run[name]["rounds"] for run in side]
    return [_compared(_name(a[0][k]), rounds(a, k), rounds(b, k)) for k in shared]


Rounds = Sequence[Sequence[float]]
"""Seconds of the rounds of each process."""


def _compared(name: str, first: Rounds, second: Rounds) -> Comparison:
    low, high = ratio_interval(first, second)
    medians = tuple(float(np.median(np.concatenate(side))) for side in (first, second))
    return Comparison(name, medians, medians[1] / medians[0], low, high)


def ratio_interval(first: Rounds, second: Rounds, confidence: float = 0.95) -> tuple[float, float]:
    """Bootstrap interval of median(second) / median(first), drawn from a fixed seed.

    Args:
        first: of one side.
        second: of the other; neither processes nor rounds need be as many.
        confidence: of the interval, in (0, 1).
    """
    if min(sum(map(len, side)) for side in (first, second)) < 2:
        return 0.0, float("inf")  # a single measurement says nothing of its noise
    draws = np.random.default_rng(0)
    # r = median(b) / median(a)
    ratios = _drawn_medians(second, draws) / _drawn_medians(first, draws)
    low, high = np.quantile(ratios, (0.5 - confidence / 2, 0.5 + confidence / 2))
    return float(low), float(high)


def _drawn_medians(side: Rounds, draws: np.random.Generator) -> np.ndarray:
    # A process with fewer rounds than another would weigh less: all have the fewest.
    rounds = np.array([process[: min(map(len, side))] for process in side])
    processes, each = rounds.shape
    process = draws.integers(processes, size=(SAMPLES, processes, 1))
    which = draws.integers(each, size=(SAMPLES, processes, each))
    return np.median(rounds[process, which].reshape(SAMPLES, -1), axis=1)


def _name(record: Mapping[str, Any]) -> str:
    size = "x".join(map(str, record["image"]))
    return f"{record['model']} {record['mode']} {size} b{record['batch_size']} {record['dtype']}"


def text(comparisons: Sequence[Comparison], processes: int = 1) -> str:
    """A line a program: both times, their ratio, what it means.

    Args:
        comparisons: from `compare`.
        processes: of each side.
    """
    rows = [("program", "first ms", "second ms", "ratio", "95 % interval", "")]
    for c in comparisons:
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
    lines = aligned(rows, "<>>>><")
    if processes == 1:
        lines.append(
            "noise within one process of each: two of the same code differ by some percent more, "
            "so compare A1 B1 A2 B2 ..., run in turn"
        )
    return "\n".join(lines)
