"""Disk full: saves and whole runs that run out of space, at 30 budgets of bytes each.

    python -m tests.chaos disk --n 30

As root on Linux, the disk is a tmpfs and really full: ENOSPC. Elsewhere, and with --files, no file
may grow beyond the budget: RLIMIT_FSIZE, EFBIG. Both are met by the writes of Orbax's C++ too.
Whole runs need the tmpfs.
"""

import argparse
import collections
import contextlib
import resource
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import conftest  # noqa: F401, gives this process its 8 devices
import numpy as np
from test_checkpoint import like, raw, trained
from test_cli import TINY, command, digests, metrics
from test_train import mesh_of

from jaxdl import tree
from jaxdl.rundir.checkpoint import Checkpoints

ROOM = 2**28
FULL = "told of, the older one sound, the next one saved"
RESUMED = "told of, status 2; with room again, the same in the end"
ROOMY = "there was room"
Limit = Callable[[Path, int], contextlib.AbstractContextManager]


@contextlib.contextmanager
def mounted(folder: Path) -> Iterator[Path]:
    """A disk of its own. Raises CalledProcessError where none may be mounted."""
    folder.mkdir()
    size = f"-osize={ROOM}"
    subprocess.run(["mount", "-ttmpfs", size, "tmpfs", folder], check=True, capture_output=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@contextlib.contextmanager
def bytes_left(disk: Path, budget: int) -> Iterator[None]:
    """The disk has so many bytes left, to whole pages."""
    ballast = disk / "ballast"
    free = shutil.disk_usage(disk).free
    with ballast.open("wb") as file:
        for _ in range(max(0, free - budget) // 2**12):
            file.write(bytes(2**12))
    yield
    ballast.unlink()


@contextlib.contextmanager
def bytes_a_file(disk: Path, budget: int) -> Iterator[None]:
    """No file of this process can have more."""
    del disk
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (budget, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _leaves(state) -> dict[str, np.ndarray]:
    return {name: raw(x).copy() for name, x in tree.flatten(state).items()}


def _same(a: dict, b: dict) -> bool:
    return all(np.array_equal(a[name], b[name]) for name in a)


def a_save(disk: Path, limit: Limit, budget: int, states: dict) -> list[str]:
    """What is wrong when the second of three saves meets the limit; and how it ended."""
    folder, wrong = disk / "checkpoints", []
    mesh = mesh_of(4, 2)
    expected = {step: _leaves(state) for step, state in states.items()}
    with Checkpoints(folder) as checkpoints, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        checkpoints.save(1, states[1], 0.1, {})
        checkpoints.settle()
        with limit(disk, budget):
            checkpoints.save(2, states[2], 0.2, {})
            while checkpoints._saving is not None:
                checkpoints.watch()  # what the loop calls
            said = [str(w.message) for w in caught]
            steps = checkpoints.steps()
            failed = 2 not in steps
            if len(said) != failed or any("\n" in s or f"{folder}/2" not in s for s in said):
                wrong.append(f"said {said}")
            if bool(checkpoints.unsaved()) != failed:
                wrong.append("unsaved() does not know")
            left = sorted(p.name for p in folder.iterdir())
            if left != [str(s) for s in steps]:
                wrong.append(f"left behind {left}")
            if not _same(_leaves(checkpoints.restore(1, like(mesh)).state), expected[1]):
                wrong.append("the older one is not what was saved")
        checkpoints.save(3, states[3], 0.3, {})
        if checkpoints.unsaved() or max(checkpoints.steps()) != 3:
            wrong.append("no save after there was room again")
    with Checkpoints(folder) as checkpoints:
        if not _same(
            _leaves(checkpoints.restore_newest(lambda step: like(mesh)).state), expected[3]
        ):
            wrong.append("the newer one is not what was saved")
    shutil.rmtree(folder)
    return wrong or [FULL if failed else ROOMY]


def saves(disk: Path, limit: Limit, budgets: list[float]) -> collections.Counter:
    """What came of saves at budgets given as shares of what one takes."""
    states = {step: trained(mesh_of(4, 2), step) for step in (1, 2, 3)}
    with Checkpoints(disk / "one") as checkpoints:
        checkpoints.save(1, states[1], 0.1, {})
    files = [f.stat().st_size for f in (disk / "one").rglob("*") if f.is_file()]
    shutil.rmtree(disk / "one")
    size = max(files) if limit is bytes_a_file else sum(files) + 2**13 * len(files)
    return collections.Counter(
        what for share in budgets for what in a_save(disk, limit, round(share * size), states)
    )


RUN = [*TINY, "--config.duration=40 steps", "--config.log.sinks=csv,tensorboard"]


def a_run(disk: Path, budget: int, expected: dict) -> list[str]:
    """What is wrong with a run that meets a full disk, and is started again when it has room."""
    wrong, workdir = [], disk / "run"
    workdir.mkdir()
    with bytes_left(disk, budget):
        process = command(*RUN, "--workdir", workdir)
        _, error = process.communicate(timeout=600)
        status = process.returncode
    if "Traceback" in error or status not in (0, 2):
        wrong.append(f"status {status}: {error}")
    if status == 2 and error.splitlines()[-1].partition(":")[0] != "error":
        wrong.append(f"ends with {error.splitlines()[-1]}")
    if len(error) > 3000:
        wrong.append(f"says too much: {error}")
    process = command(*RUN, "--workdir", workdir)
    _, error = process.communicate(timeout=600)
    if process.returncode or error:
        wrong.append(f"again: status {process.returncode}: {error}")
    else:
        wrong += [f"{k} differ" for k, v in _result(workdir).items() if expected.get(k, v) != v]
    shutil.rmtree(workdir)
    return wrong or [RESUMED if status else ROOMY]


def _result(workdir: Path) -> dict:
    left = [p.name for p in workdir.rglob("*tmp*")]
    return {"leaves": digests(workdir), "metrics": metrics(workdir), "left behind": left}


def runs(disk: Path, budgets: list[float]) -> collections.Counter:
    """What came of runs at budgets given as shares of what one takes."""
    process = command(*RUN, "--workdir", disk / "whole")
    _, error = process.communicate(timeout=600)
    assert process.returncode == 0, error
    size = ROOM - shutil.disk_usage(disk).free
    expected = _result(disk / "whole")
    shutil.rmtree(disk / "whole")
    return collections.Counter(
        what for share in budgets for what in a_run(disk, round(share * size), expected)
    )


def _show(title: str, found: collections.Counter) -> int:
    for what, n in found.most_common():
        print(f"{title:<6} {n:>4}  {what}", flush=True)
    return sum(n for what, n in found.items() if what not in (FULL, RESUMED, ROOMY))


def main(argv: list[str]) -> int:
    """Print what came of each."""
    parser = argparse.ArgumentParser(prog="disk")
    parser.add_argument("--n", type=int, default=30)
    parser.add_argument("--files", action="store_true", help="limit files, not the disk")
    options = parser.parse_args(argv)
    budgets = [i / options.n * 1.15 for i in range(options.n)]
    with tempfile.TemporaryDirectory() as folder:
        if options.files:
            disk = Path(folder) / "files"
            disk.mkdir()
            return int(_show("saves", saves(disk, bytes_a_file, budgets)) > 0)
        with mounted(Path(folder) / "disk") as disk:
            failed = _show("saves", saves(disk, bytes_left, budgets))
            failed += _show("runs", runs(disk, budgets))
    return int(failed > 0)
