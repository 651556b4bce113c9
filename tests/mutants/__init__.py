"""Known faults, one line each, and the test that must find each of them."""

import tomllib
from pathlib import Path
from typing import NamedTuple

TABLE = Path(__file__).with_name("table.toml")


class Mutant(NamedTuple):
    """A fault in one line of the package.

    Attributes:
        name: what goes wrong, in words.
        file: the file, from the project's root.
        old: a piece of exactly one line of it.
        new: what stands there instead.
        test: the test that fails under it, as pytest names it.
    """

    name: str
    file: str
    old: str
    new: str
    test: str


def table() -> list[Mutant]:
    """All mutants, in the table's order."""
    return [Mutant(**entry) for entry in tomllib.loads(TABLE.read_text())["mutant"]]
