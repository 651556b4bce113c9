"""Apply each mutant to a copy of the project and run its test: `python -m tests.mutants`.

    python -m tests.mutants                 # all of them
    python -m tests.mutants --only average  # those whose names contain a word
    python -m tests.mutants --find          # where a test is a whole file, say which test fails

The status is 0 where every mutant is killed: its test fails under it, and passes without it. The
last line says how many are, and how many of them by a test of the quick lane.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.mutants import Mutant, is_quick, table

ROOT = Path(__file__).parents[2]
FAILED = re.compile(r"^FAILED (\S+)", re.MULTILINE)


def run_test(copy: Path, test: str) -> subprocess.CompletedProcess:
    """pytest on one test in a copy of the project, in one process, to the first failure."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "--lane", "all", test]
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)


def killed(copy: Path, mutant: Mutant) -> tuple[bool, str]:
    """(its test fails under it, the first test that did or what pytest said)."""
    file = copy / mutant.file
    text = file.read_text()
    if text.count(mutant.old) != 1:
        raise SystemExit(
            f"{mutant.name}: {mutant.file} holds its line {text.count(mutant.old)} times"
        )
    file.write_text(text.replace(mutant.old, mutant.new))
    try:
        outcome = run_test(copy, mutant.test)
    finally:
        file.write_text(text)
    first = FAILED.search(outcome.stdout)
    # 1: tests ran and one failed; anything else is a test that did not run
    return outcome.returncode == 1 and first is not None, first[1] if first else outcome.stdout[
        -300:
    ]


def main() -> int:
    """Run the mutants that are asked for; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="a word of the names of those that are wanted")
    parser.add_argument("--find", action="store_true", help="print the first test that fails")
    options = parser.parse_args()
    mutants = [m for m in table() if options.only in m.name]
    survivors = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        ignored = shutil.ignore_patterns(".git", ".venv", "__pycache__", "runs", ".*_cache")
        shutil.copytree(ROOT, copy, ignore=ignored)
        for mutant in mutants:
            is_killed, first = killed(copy, mutant)
            if not is_killed:
                survivors.append(mutant)
            verdict = "killed  " if is_killed else "SURVIVED"
            print(
                f"{verdict}  {mutant.name}" + (f"\n          {first}" if options.find else ""),
                flush=True,
            )
        if not options.find:
            tests = list(dict.fromkeys(m.test for m in mutants))
            broken = [test for test in tests if run_test(copy, test).returncode]
            for test in broken:
                print(f"fails without a mutant: {test}")
            survivors += broken
    dead = [m for m in mutants if m not in survivors and m.test not in survivors]
    quick = sum(is_quick(m.test) for m in dead)
    print(f"{len(dead)} of {len(mutants)} killed, {quick} of them by the quick lane")
    return 0 if len(dead) == len(mutants) else 1


if __name__ == "__main__":
    sys.exit(main())
