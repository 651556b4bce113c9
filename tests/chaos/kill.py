"""Kill: `kill -9` at any moment, the same command again, until the run is over.

    nice python -m tests.chaos kill --n 100

A network with batch norm, dropout, augmentation and an average of its weights. What it ends with
must be what a run that was left alone ends with, bit for bit.
"""

import argparse
import collections
import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from test_cli import TINY, command, digests, metrics

STEPS = 60
RUN = [*TINY, f"--config.duration={STEPS} steps"]
PER_RUN = 2.5  # kills that a run suffers, on average
PATIENCE = 600.0


def _tmp(workdir: Path) -> list[Path]:
    return list((workdir / "checkpoints").glob("*-tmp*"))


def _steps(workdir: Path) -> list[int]:
    folder = workdir / "checkpoints"
    return sorted(int(f.name) for f in folder.glob("*") if f.name.isdecimal())


def _written(workdir: Path) -> int:
    """The last step of the journal."""
    file = workdir / "metrics.jsonl"
    lines = file.read_bytes().splitlines() if file.exists() else []
    steps = [int(x.split(b",")[0].split(b":")[1]) for x in lines if x.startswith(b'{"step": ')]
    return max(steps, default=0)


def _stepped(workdir: Path, share: float) -> Callable[[], bool]:
    """Such a share of the steps that were left is done, and written down."""
    begun = _written(workdir)
    at = begun + share * (STEPS - 1 - begun)
    return lambda: _written(workdir) > at


def _saving(workdir: Path, has: str) -> Callable[[], bool]:
    """A save of this process has come so far as to have made that file."""
    left = {t.stat().st_ino for t in _tmp(workdir)}  # by one that was killed

    def come() -> bool:
        with contextlib.suppress(FileNotFoundError):  # it has its name by now
            return any((t / has).exists() for t in _tmp(workdir) if t.stat().st_ino not in left)
        return True

    return come


def _named(workdir: Path) -> Callable[[], bool]:
    before = set(_steps(workdir))
    return lambda: bool(set(_steps(workdir)) - before)


# When to strike: made of the run directory as the process starts, asked until it says yes.
MOMENTS = {
    "any time": lambda w, rng: _after(rng.uniform(0, 1)),
    "starting": lambda w, rng: _after(rng.uniform(0, 0.4)),
    "first step": lambda w, rng: _stepped(w, 0.0),
    "last step": lambda w, rng: lambda: _written(w) >= STEPS,
    "any step": lambda w, rng: _stepped(w, rng.uniform(0, 1)),
    "inside a save": lambda w, rng: _saving(w, "."),
    "writing": lambda w, rng: _saving(w, "state/ocdbt.process_0/d"),
    "finalising": lambda w, rng: _saving(w, "state/manifest.ocdbt"),
    "sealed": lambda w, rng: _saving(w, "integrity.json"),
    "just named": lambda w, rng: _named(w),
}

_usual = 10.0  # seconds that a run takes


def _after(share: float) -> Callable[[], bool]:
    at = time.monotonic() + share * _usual
    return lambda: time.monotonic() > at


def struck(workdir: Path, moment: str, rng: np.random.Generator) -> tuple[bool, int, str]:
    """Start the command and kill it: whether it was still alive, its status, what it said."""
    ready = MOMENTS[moment](workdir, rng)
    process = command(*RUN, "--workdir", workdir)
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and not ready():
        assert time.monotonic() < deadline, "it hangs"
        time.sleep(0.0005)
    if rng.random() < 0.5:
        time.sleep(rng.exponential(0.01))
    alive = process.poll() is None
    process.kill()
    _, error = process.communicate()
    return alive, process.returncode, error


def finish(workdir: Path) -> str:
    """Start the command and let it end; what it said."""
    process = command(*RUN, "--workdir", workdir)
    _, error = process.communicate(timeout=PATIENCE)
    return error if process.returncode == 0 else f"status {process.returncode}: {error}"


def result(workdir: Path) -> dict:
    """All that a run leaves, but for how long it took."""
    step, leaves = digests(workdir)
    kinds = {name.split("/")[0] for name in leaves}
    assert kinds == {"step", "params", "variables", "opt_state", "average", "key"}, kinds
    predictions = dict(np.load(workdir / "predictions.npz"))
    return {
        "step": step,
        "leaves": leaves,
        "checkpoints": _steps(workdir),
        "unfinished": [p.name for p in _tmp(workdir)],
        "metrics": metrics(workdir),
        "predictions": {k: v.tolist() for k, v in predictions.items()},
    }


def experiment(
    folder: Path, runs: int, kills: int, seed: int = 0, moments: list[str] | None = None
) -> dict[str, collections.Counter]:
    """What was struck when; and what went wrong, which should be nothing.

    Args:
        folder: to run in.
        runs: that are begun, struck and begun again until they end.
        kills: in all of them.
        seed: of when.
        moments: of `MOMENTS`, in turn; else any, drawn.
    """
    global _usual
    rng = np.random.default_rng(seed)
    if not moments:
        finish(folder / "compiles")
    begun = time.monotonic()
    said = finish(folder / "whole")
    _usual = time.monotonic() - begun
    wrong = collections.Counter([f"left alone: {said}"] if said else [])
    expected, struck_when, done = result(folder / "whole"), collections.Counter(), 0
    for run in range(runs):
        workdir = folder / f"run{run}"
        share = kills * (run + 1) // runs - done
        while share:
            moment = moments[done % len(moments)] if moments else str(rng.choice(list(MOMENTS)))
            alive, status, said = struck(workdir, moment, rng)
            if said:
                wrong[f"said when started: {said}"] += 1
            if not alive and status:
                wrong[f"status {status} by itself"] += 1
            if not alive:
                break  # it was over before
            struck_when[moment] += 1
            share, done = share - 1, done + 1
        if said := finish(workdir):
            wrong[f"said at the end: {said}"] += 1
        found = result(workdir)
        for key, value in expected.items():
            if found[key] != value:
                wrong[f"{key} differ"] += 1
        shutil.rmtree(workdir)
    return {"struck": struck_when, "wrong": wrong}


def main(argv: list[str]) -> int:
    """Print what was struck, and what was wrong."""
    parser = argparse.ArgumentParser(prog="kill")
    parser.add_argument("--n", type=int, default=100, help="kills")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    runs = round(options.n / PER_RUN)
    with tempfile.TemporaryDirectory() as folder:
        found = experiment(Path(folder), runs, options.n, options.seed)
    print(f"{runs} runs, {found['struck'].total()} kills; a run takes {_usual:.1f} s")
    for moment, n in found["struck"].most_common():
        print(f"  {n:>4}  {moment}")
    print(f"{found['wrong'].total()} runs or starts went wrong")
    for what, n in found["wrong"].items():
        print(f"  {n:>4}  {what}")
    return int(found["wrong"].total() > 0)
