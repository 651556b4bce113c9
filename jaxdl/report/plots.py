"""Curves as inline SVG, drawn by matplotlib's object API: no window system, no pyplot state.

The text stays text, and colours become CSS variables, so that the page's fonts and its light or
dark theme hold inside the figures too.
"""

import io
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Matplotlib knows no CSS: these stand in for the variables until the SVG is written.
_VARIABLES = {
    "#010101": "var(--ink)",
    "#010102": "var(--muted)",
    "#010103": "var(--rule)",
    "#010110": "var(--curve-1)",
    "#010111": "var(--curve-2)",
    "#010112": "var(--curve-3)",
    "#010113": "var(--curve-4)",
    "#010114": "var(--curve-5)",
    "#010115": "var(--curve-6)",
    "#010116": "var(--curve-7)",
    "#010117": "var(--curve-8)",
}
_INK, _MUTED, _RULE, *_CURVES = _VARIABLES
COLORS = len(_CURVES)
_FEW, _FEW_EVALUATED = 10, 40  # up to here, each value gets a dot
_DENSE = 400  # from here on, a line is drawn thin

_STYLE = {
    "svg.fonttype": "none",
    "font.size": 11,
    "text.color": _MUTED,
    "axes.edgecolor": _RULE,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.color": _RULE,
    "grid.linewidth": 0.7,
    "xtick.color": _RULE,
    "ytick.color": _RULE,
    "xtick.labelcolor": _MUTED,
    "ytick.labelcolor": _MUTED,
    "ytick.major.size": 0,
}


class Curve(NamedTuple):
    """One line of a panel."""

    label: str
    steps: np.ndarray
    """(t,) int"""
    values: np.ndarray
    """(t,) float; what is not finite is a gap"""
    color: int
    """0 to 7: a place in the page's palette"""
    evaluated: bool
    """whether it comes from evaluations now and then, not from the steps themselves"""
    thin: bool = False
    """whether it is one of many"""
    ends: bool = False
    """whether it ended before the others, which a cross marks"""

    @property
    def dotted(self) -> bool:
        """True if each value is marked by a dot."""
        return not self.thin and len(self.values) <= (_FEW_EVALUATED if self.evaluated else _FEW)


def is_wide(curves: Sequence[Curve]) -> bool:
    """True if the values span so many magnitudes that only a logarithmic axis shows them."""
    values = np.concatenate([c.values[np.isfinite(c.values)] for c in curves])
    return bool(len(values) and values.min() > 0 and values.max() > 100 * values.min())


def curves_svg(
    curves: Sequence[Curve],
    name: str,
    *,
    height: float = 2.7,
    log: bool = False,
    percent: bool = False,
    ring: tuple[int, float] | None = None,
) -> str:
    """An SVG element, 5 inches wide and scaled by the page.

    Args:
        curves: drawn in order, the last on top.
        name: unique on the page: element ids derive from it.
        height: in inches.
        log: a logarithmic axis; every finite value must be positive.
        percent: values in [0, 1] that are read as percentages.
        ring: a (step, value) to encircle.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(5, height), layout="constrained")
        axes = figure.add_subplot()
        for curve in curves:
            _draw(axes, curve)
        if ring:
            axes.plot(*ring, "o", ms=11, mfc="none", mec=_INK, mew=1.2, clip_on=False)
        _scale(axes, log=log, percent=percent)
        return _element(figure)


def _draw(axes, curve: Curve) -> None:
    finite = np.isfinite(curve.values)
    beside = np.pad(finite, 1)
    # A value between two gaps has no line on either side and would not be seen.
    alone = finite & ~beside[:-2] & ~beside[2:]
    marked = np.full_like(finite, curve.dotted) | alone
    axes.plot(
        curve.steps,
        np.where(finite, curve.values, np.nan),
        color=_CURVES[curve.color],
        linewidth=_width(curve),
        marker="o",
        markersize=3.5,
        markevery=np.flatnonzero(marked).tolist(),
        clip_on=False,
    )
    if curve.ends:
        at = np.flatnonzero(finite)[-1]
        axes.plot(curve.steps[at], curve.values[at], "x", ms=6, mew=1.4, color=_CURVES[curve.color])


def _width(curve: Curve) -> float:
    if curve.thin or not curve.evaluated:
        return 1.2 if len(curve.values) < _DENSE else 0.7
    return 1.8


def _scale(axes, *, log: bool, percent: bool) -> None:
    from matplotlib import ticker

    axes.set_xlabel("step", color=_MUTED)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(5, steps=[1, 2, 5, 10], integer=True))
    axes.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))
    if log:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(ticker.LogLocator(numticks=6))
        axes.yaxis.set_minor_locator(ticker.NullLocator())
        axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        axes.yaxis.set_major_locator(ticker.MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        plain = ticker.ScalarFormatter(useOffset=False)
        plain.set_scientific(False)
        axes.yaxis.set_major_formatter(ticker.PercentFormatter(1.0) if percent else plain)
    if percent:
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, 0), min(high, 1.0) if low < 1 else high)


def _element(figure) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # Groups are numbered anew in every figure, and ids must be unique on the page.
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r"<svg \1>", svg, count=1)
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, variable)
    return svg
