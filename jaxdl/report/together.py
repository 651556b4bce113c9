"""Curves of many runs in one figure."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxdl.report import text
from jaxdl.report.plots import Curve, curves_svg, is_wide


def panel(
    lines: Sequence[Curve], key: str, *, title: str, runs: str, others: str
) -> dict[str, Any]:
    """A figure of one measurement, a curve for each run, the best first and on top.

    Args:
        lines: at least one, each with a finite value.
        key: of the measurement.
        title: above the figure.
        runs: a word for the runs, such as 'members'.
        others: a legend for all curves of colour 0.
    """
    fraction = text.is_fraction(key)
    log = not fraction and is_wide(lines)
    svg = curves_svg(lines[::-1], key, height=3.2, log=log, percent=fraction)
    return {
        "title": title,
        "log": log,
        "curves": _keys(lines, others),
        "legend": True,
        "best": None,
        "ended": any(line.ends for line in lines),
        "alt": _spoken(lines, key, runs),
        "svg": markup(svg),
    }


def markup(svg: str) -> Any:
    """An SVG element that the template takes as it is."""
    from markupsafe import Markup

    return Markup(svg)


def _keys(lines: Sequence[Curve], others: str) -> list[Curve]:
    """One line of each colour, by the places in the palette, those in grey last and together."""
    by_color = {line.color: line for line in reversed(lines)}
    grey = by_color.pop(0, None)
    last = [] if grey is None else [grey._replace(label=others)]
    return [by_color[color] for color in sorted(by_color)] + last


def _spoken(lines: Sequence[Curve], key: str, runs: str) -> str:
    last = [float(line.values[np.isfinite(line.values)][-1]) for line in lines]
    steps = max(int(line.steps[-1]) for line in lines)
    return (
        f"{text.words(key)} of {len(lines)} {runs} over {text.number(steps)} steps; their last "
        f"values lie between {text.measure(key, min(last))} and {text.measure(key, max(last))}"
    )
