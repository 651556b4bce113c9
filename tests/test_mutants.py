"""The table of known faults fits the project as it stands; `python -m tests.mutants` runs it."""

import sys

import pytest
from conftest import ROOT

sys.path.append(str(ROOT))
from tests.mutants import is_quick, table  # noqa: E402

MUTANTS = table()


@pytest.mark.parametrize("mutant", MUTANTS, ids=[m.name for m in MUTANTS])
def test_a_mutant_changes_one_place_and_names_a_test(mutant):
    assert (ROOT / mutant.file).read_text().count(mutant.old) == 1
    assert mutant.new != mutant.old and "\n" not in mutant.old + mutant.new
    file, _, name = mutant.test.partition("::")
    assert f"\ndef {name.partition('[')[0]}(" in (ROOT / file).read_text()


def test_there_are_thirty_over_many_rooms():
    assert len(MUTANTS) >= 30
    assert len({m.file.split("/")[1] for m in MUTANTS}) >= 12
    assert sum(is_quick(m.test) for m in MUTANTS) >= 22
