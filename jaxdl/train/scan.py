"""Operands of a `lax.scan` equation, told from shapes: its parameters differ between versions."""

from typing import NamedTuple

from jax.extend.core import JaxprEqn


class Reads(NamedTuple):
    """Number of operands of each kind, in this order."""

    consts: int
    """the same in each turn"""
    carry: int
    """what a turn hands to the next"""
    rows: int
    """of which each turn reads a row"""


def reads(equation: JaxprEqn) -> Reads:
    """The operands of a scan by kind."""
    body = equation.params["jaxpr"].jaxpr

    def stacked(outer: list, inner: list) -> int:
        pairs = zip(outer, inner, strict=True)
        return sum(a.aval.ndim > b.aval.ndim for a, b in pairs)

    rows = stacked(equation.invars, body.invars)
    carry = len(body.outvars) - stacked(equation.outvars, body.outvars)
    return Reads(len(body.invars) - carry - rows, carry, rows)
