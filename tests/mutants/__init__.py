"""Known faults, one line each, and the test that must find each of them."""

import fnmatch
import re
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


def is_quick(test: str) -> bool:
    """True for a test of the quick lane, by its name: see `tests/slow.txt`, `tests/quick.txt`."""

    def matches(name: str) -> bool:
        lines = (TABLE.parents[1] / name).read_text().splitlines()
        patterns = [fnmatch.translate(line) for line in lines if line and line[0] != "#"]
        return bool(re.match("|".join(patterns), test))

    return not matches("slow.txt") or matches("quick.txt")
