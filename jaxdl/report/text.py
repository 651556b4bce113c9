"""Numbers as people read them."""

import datetime
import math
import re
from typing import Any


def number(value: Any) -> str:
    """Thousands separated, floats to four significant digits; anything but a number as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if math.isnan(value):
        return "NaN"
    if isinstance(value, int) or (value.is_integer() and 1e4 <= abs(value) < 1e15):
        return f"{int(value):,}"
    return f"{value:,.1f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"


def is_fraction(metric: str) -> bool:
    """True for a metric in [0, 1] that is read as a percentage."""
    return any(name.endswith(("accuracy", "iou")) for name in re.findall(r"\w+", metric))


def measure(metric: str, value: float) -> str:
    """A metric's value: a percentage to two decimals where that is how it is read."""
    return f"{100 * value:.2f}%" if is_fraction(metric) and math.isfinite(value) else number(value)


def words(name: str) -> str:
    """`cross_entropy` as 'cross entropy'."""
    return name.replace("_", " ").replace("/", " ")


def seconds(value: Any) -> str:
    """A stretch of time in its two largest units."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return str(value)
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min"


def moment(value: Any) -> str:
    """An ISO time to the minute, with its time zone; anything else as it is."""
    try:
        time = datetime.datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return str(value)
    zone = "" if time.tzinfo is None else f" {time.tzinfo}"
    return time.strftime("%Y-%m-%d %H:%M") + zone
