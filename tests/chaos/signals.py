"""SIGTERM and SIGINT at any moment: stopped soon, nothing done is lost, status 75."""

import argparse
import json
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import hosts

STOPPED = 75

# Every step is logged, so that the journal says what was done. An evaluation takes 180 batches.
RUN = [
    "--config", "configs/cnn.py", "--config.model.widths=[8]", "--config.model.drop_rate=0.1",
    "--config.average=ema(decay=0.9)", "--config.log.every=1", "--config.log.sinks=[]",
    "--config.checkpoint.every=5", "--config.evaluation.every=4",
    "--config.data.evaluation_batch_size=1", "--config.duration=60 steps", "--start-timeout", "60",
]  # fmt: skip

Moment = Callable[[Path, Sequence[subprocess.Popen]], None]
"""Waits until it has come."""


class Outcome(NamedTuple):
    """What became of processes, one of which was sent a signal."""

    statuses: tuple[int, ...]
    place: str
    """'start', 'step', 'evaluation', 'end', or 'finished' where it came too late"""
    seconds: float
    """from the signal to the end of the last process"""
    cpu: float
    """of that, CPU time of the process that took most"""
    lost: int
    """steps that were done and not saved"""
    errors: str


def during_start(delay: float) -> Moment:
    """So many seconds after the program listens to signals, but before it trains."""

    def wait(workdir: Path, running: Sequence[subprocess.Popen]) -> None:
        for process in running:
            _until(lambda p=process: listens(p.pid), running)
        time.sleep(delay)

    return wait


def after_step(step: int, delay: float = 0.0) -> Moment:
    """So many seconds after the journal has a step."""

    def wait(workdir: Path, running: Sequence[subprocess.Popen]) -> None:
        _until(lambda: newest_logged(workdir) >= step, running)
        time.sleep(delay)

    return wait


def interrupted(
    workdir: Path,
    processes: int,
    moment: Moment,
    number: int,
    who: int = 0,
    devices: int = 1,
    changes: Sequence[str] = (),
) -> Outcome:
    """Start the run, or go on with it, and send process `who` a signal when the moment has come."""
    begun = newest_saved(workdir)
    arguments = [*RUN, *changes, "--workdir", workdir]
    running = hosts.start_all(arguments, processes, devices=devices // processes or 1)
    moment(workdir, running)
    clock, used = time.monotonic(), [cpu_seconds(p.pid) for p in running]
    running[who].send_signal(number)
    spent = [_wait(p) - before for p, before in zip(running, used, strict=True)]
    seconds = time.monotonic() - clock
    texts = [p.communicate() for p in running]
    output, statuses = texts[0][0], tuple(p.returncode for p in running)
    trained = newest_logged(workdir) > begun
    return Outcome(
        statuses=statuses,
        place=_place(output, workdir),
        seconds=seconds,
        cpu=max(spent),
        lost=newest_logged(workdir) - newest_saved(workdir) if trained else 0,
        errors="".join(error for _, error in texts),
    )


def _place(output: str, workdir: Path) -> str:
    if "nothing to save" in output:
        return "end" if "\nfinal " in output else "start"
    found = re.search(r"interrupted by \w+ at step (\d+)", output)
    if not found:
        return "finished"
    step = int(found[1])
    due = step % 4 == 0 and step
    return "evaluation" if due and step not in evaluated(workdir) else "step"


def evaluated(workdir: Path) -> list[int]:
    """Steps whose evaluation is in the journal."""
    return [line["step"] for line in journal(workdir) if "validation/accuracy" in line]


def journal(workdir: Path) -> list[dict]:
    """Whole lines of it, without what is a matter of time."""
    file, timing = workdir / "metrics.jsonl", ("train/images_per_second", "train/data_wait")
    text = file.read_text() if file.exists() else ""
    lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return [{k: v for k, v in line.items() if k not in timing} for line in lines]


def newest_logged(workdir: Path) -> int:
    """The last step that was done, by the journal."""
    return max((line["step"] for line in journal(workdir)), default=0)


def newest_saved(workdir: Path) -> int:
    """The step of the newest checkpoint."""
    folder = workdir / "checkpoints"
    names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    return max((int(name) for name in names if name.isdecimal()), default=0)


def digests(workdir: Path) -> dict[str, str]:
    """Of every leaf of the newest checkpoint."""
    seal = workdir / "checkpoints" / str(newest_saved(workdir)) / "integrity.json"
    return json.loads(seal.read_text())["digests"]


def listens(pid: int) -> bool:
    """Whether a process has a handler for SIGTERM."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(re.search(r"SigCgt:\s*(\w+)", status)[1], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _wait(process: subprocess.Popen) -> float:
    """The CPU time of a process, once it has ended."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime


def _until(condition: Callable[[], bool], running: Sequence[subprocess.Popen]) -> None:
    while not condition():
        if any(p.poll() is not None for p in running):
            raise AssertionError([text for p in running for text in p.communicate()])
        time.sleep(0.002)


def finished(
    workdir: Path, processes: int = 1, devices: int = 1, changes: Sequence[str] = ()
) -> None:
    """Let the run come to its end."""
    arguments = [*RUN, *changes, "--workdir", workdir]
    running = hosts.start_all(arguments, processes, devices=devices // processes or 1)
    for status, _, error in hosts.finish(running, 300):
        assert status == 0, error


def random_moment(rng: random.Random, workdir: Path) -> Moment:
    """A third of them while the program starts; the others a few steps on, at any point."""
    if rng.random() < 1 / 3:
        return during_start(rng.uniform(0, 4))
    return after_step(newest_saved(workdir) + rng.randint(1, 9), rng.uniform(0, 0.3))


def experiment(n: int, seed: int, processes: int, folder: Path) -> list[Outcome]:
    """So many signals at random moments of a run that goes on each time, and then once more."""
    rng, outcomes = random.Random(seed), []
    finished(folder / "whole", processes, devices=2)
    workdir = folder / "run"
    while len(outcomes) < n:
        if newest_saved(workdir) > 45:
            finished(workdir, processes, devices=2)
            assert digests(workdir) == digests(folder / "whole"), "other bits than uninterrupted"
            assert journal(workdir) == journal(folder / "whole"), "another journal"
            shutil.rmtree(workdir)
        number = rng.choice((signal.SIGTERM, signal.SIGINT))
        moment, who = random_moment(rng, workdir), rng.randrange(processes)
        outcomes.append(interrupted(workdir, processes, moment, number, who, devices=2))
        print(outcomes[-1]._replace(errors=outcomes[-1].errors[-300:]), flush=True)
    return outcomes


def main(argv: Sequence[str]) -> int:
    """The full form: 20 moments of a run of one process, and 20 of a run of two."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos signals", description=__doc__)
    parser.add_argument("--n", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    failed = 0
    for processes in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            outcomes = experiment(options.n, options.seed, processes, Path(folder))
        statuses = Counter(status for o in outcomes for status in o.statuses)
        places = Counter(o.place for o in outcomes)
        print(f"{processes} process(es), {len(outcomes)} signals: places {dict(places)}")
        print(f"  statuses {dict(statuses)}, steps lost {sum(o.lost for o in outcomes)}")
        for what, values in (
            ("seconds on the clock", [o.seconds for o in outcomes]),
            ("seconds of CPU time", [o.cpu for o in outcomes]),
        ):
            low, middle, high = statistics.quantiles(values, n=4)
            quartiles = f"{low:.2f} {middle:.2f} {high:.2f}"
            print(f"  {what}: quartiles {quartiles}, at most {max(values):.2f}")
        failed += sum(o.lost for o in outcomes) + sum(s not in (0, STOPPED) for s in statuses)
    return int(failed > 0)
