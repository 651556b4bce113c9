"""Plain text tables, and large numbers as people read them."""

from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]], align: str) -> list[str]:
    """One line a row; `align` has '<' or '>' for each column."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            f"{cell:{side}{width}}" for cell, side, width in zip(row, align, widths, strict=True)
        ).rstrip()
        for row in rows
    ]


def amount(number: int, unit: str = "") -> str:
    """Four significant digits and a decimal prefix: 4089184256 is '4.089 G', of 'B' '4.089 GB'."""
    for power, prefix in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if number >= 10**power:
            return f"{number / 10**power:.4g} {prefix}{unit}"
    return f"{number} {unit}".rstrip()
