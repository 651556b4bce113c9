"""What hangs, and who is gone: the others say so and end with status 74; a new start goes on."""

import argparse
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import hosts

from chaos.signals import RUN, after_step, newest_saved

LOST = 74
ABORTED = -signal.SIGABRT  # JAX's C++ may notice before the line does

# A source whose reader waits for ever after so many records, as for a file system that is away.
BLOCKED = """
import os
import threading

import numpy as np

from jaxdl.data.source import Source
from jaxdl.registry import register


class Records:
    def __init__(self, blocked_after):
        self.blocked_after, self.read = blocked_after, 0

    def __len__(self):
        return 64

    def __getitem__(self, index):
        self.read += 1
        if self.read > self.blocked_after:
            wait_for_a_file_system_that_is_away()
        label = index % 2
        return {"image": np.full((4, 4, 1), 200 * label, np.uint8), "label": label}


def wait_for_a_file_system_that_is_away():
    threading.Event().wait()


@register("sources")
def blocked(split, /):
    after = float(os.environ.get("BLOCKED_AFTER", "inf")) if split == "train" else float("inf")
    return Source(Records(after), ("dark", "bright"))
"""

STREAMED = [
    "--config", "configs/cnn.py", "--config.model.widths=[4]", "--config.log.every=1",
    "--config.log.sinks=[]", "--config.data.source=blocked", "--config.data.memory=1e-9",
    "--config.data.batch_size=8", "--config.data.evaluation_batch_size=64",
    "--config.augment=[]", "--config.duration=16 steps", "--config.checkpoint.every=2",
    "--config.evaluation.every=16",
]  # fmt: skip


class Outcome(NamedTuple):
    """What became of the processes that are left."""

    statuses: tuple[int, ...]
    seconds: float
    """from the fault to the end of the last of them"""
    said: tuple[str, ...]
    """what they wrote to stderr"""


def blocked_reader(folder: Path, watchdog_seconds: float) -> Outcome:
    """A run whose data stops coming in the second epoch; then the same command, unharmed."""
    (folder / "own.py").write_text(BLOCKED)
    arguments = [*STREAMED, "--import", folder / "own.py", "--workdir", folder / "run"]
    arguments += [f"--config.watchdog_seconds={watchdog_seconds}"]
    run = hosts.start(arguments, BLOCKED_AFTER="90")
    after_step(8)(folder / "run", [run])
    outcome = _outcome([run], time.monotonic())
    ((status, out, error),) = hosts.finish([hosts.start(arguments)], 200)
    assert status == 0 and "of them done" in out, error
    return outcome


def silenced(folder: Path, victim: int, number: int, watchdog_seconds: float = 600) -> Outcome:
    """Two processes, one of which is stopped (SIGSTOP) or killed (SIGKILL) in training."""
    arguments = [*RUN, "--workdir", folder, f"--config.watchdog_seconds={watchdog_seconds}"]
    running = hosts.start_all(arguments, 2, devices=1)
    try:
        after_step(newest_saved(folder) + 6)(folder, running)
        running[victim].send_signal(number)
        return _outcome([p for p in running if p is not running[victim]], time.monotonic())
    finally:
        running[victim].kill()
        running[victim].communicate()


def _outcome(running: Sequence[subprocess.Popen], clock: float) -> Outcome:
    ended = hosts.finish(running, 200)
    seconds = time.monotonic() - clock
    return Outcome(tuple(e[0] for e in ended), seconds, tuple(e[2] for e in ended))


def main(argv: Sequence[str]) -> int:
    """The full form: a blocked reader, and each of two processes stopped and killed."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos hang", description=__doc__)
    parser.add_argument("--n", type=int, default=3, help="times that each process is killed")
    parser.add_argument("--hang-after", type=float, default=20.0)
    options = parser.parse_args(argv)
    failed = 0
    stop, kill = signal.SIGSTOP, signal.SIGKILL
    faults = [(f"process {i} stopped", i, stop, options.watchdog_seconds) for i in (0, 1)]
    faults += [(f"process {i} killed", i, kill, 600.0) for i in (0, 1) for _ in range(options.n)]
    with tempfile.TemporaryDirectory() as folder:
        outcomes = [("reader blocked", blocked_reader(Path(folder), options.watchdog_seconds))]
    for name, victim, number, watchdog_seconds in faults:
        with tempfile.TemporaryDirectory() as folder:
            outcomes.append((name, silenced(Path(folder), victim, number, watchdog_seconds)))
    for name, outcome in outcomes:
        first = next((line for text in outcome.said for line in text.splitlines()), "")
        print(f"{name:<18} status {outcome.statuses}  {outcome.seconds:6.2f} s  {first[:100]}")
        failed += any(status not in (LOST, ABORTED) for status in outcome.statuses)
    return int(failed > 0)
