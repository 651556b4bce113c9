"""Weak scaling on real cores: `python -m tests.weak [--repeats N]`.

A process on each core, joined by gloo over the loopback, with so many images for each. Beside it
the same number of processes that know nothing of each other: what they lose to one alone they lose
to shared memory and clock, and only the rest to being joined. Images a second of the whole loop.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from subprocess import Popen

sys.path.insert(0, str(Path(__file__).parent))

from hosts import finish, free_port, place, start

STEPS, EVERY = 60, 10
NETWORKS = {
    "resnet20, 32x32, 32 images each": ("resnet20", 32, 32),
    "resnet18, 64x64, 16 images each": ("resnet18", 64, 16),
    "vit_small_patch16_224, 64x64, 16 images each": ("vit_small_patch16_224", 64, 16),
}


def flags(model: str, side: int, batch_size: int, workdir: Path) -> list[str]:
    """The command of one process."""
    return [
        "--config", "configs/resnet.py", "--workdir", str(workdir),
        f"--config.model={model}", f"--config.data.source=fake(size=[{side},{side},3])",
        f"--config.data.batch_size={batch_size}", "--config.augment=[]",
        f"--config.duration={STEPS} steps", f"--config.log.every={EVERY}",
        "--config.evaluation.every=1000 epochs", "--config.checkpoint.every=1000 epochs",
    ]  # fmt: skip


def speed(workdir: Path) -> float:
    """Images a second, of the intervals after the first two."""
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    found = [x["train/images_per_second"] for x in lines if "train/images_per_second" in x]
    return statistics.median(found[2:])


def on_cores(commands: Sequence[list[str]], cores: Sequence[int]) -> None:
    """Run each command on a core of its own."""
    running: list[Popen] = []
    for command, core in zip(commands, cores, strict=True):
        running.append(start(command))
        os.sched_setaffinity(running[-1].pid, {core})
    for status, _, error in finish(running, timeout=900):
        if status:
            raise SystemExit(error)


def main() -> None:
    """Print a line for each network and number of cores."""
    parser = argparse.ArgumentParser(prog="weak")
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    cores = sorted(os.sched_getaffinity(0))
    print(f"{len(cores)} cores, load {os.getloadavg()[0]:.1f}")
    for title, (model, side, images) in NETWORKS.items():
        found: dict[str, list[float]] = {"alone": [], "beside": [], "joined": []}
        n = len(cores)
        for _ in range(repeats):
            with tempfile.TemporaryDirectory() as folder:
                runs = [Path(folder) / str(i) for i in range(n + 1)]
                commands = [flags(model, side, images, run) for run in runs]
                on_cores(commands[:1], cores[:1])
                found["alone"].append(speed(runs[0]))
                on_cores(commands[1:], cores)
                found["beside"].append(sum(speed(run) for run in runs[1:]))
                both, port = Path(folder) / "joined", free_port()
                command = flags(model, side, images * n, both)
                on_cores([[*command, *place(port, n, i)] for i in range(n)], cores)
                found["joined"].append(speed(both))
        print(title)
        for how, own in found.items():
            share = statistics.median(x / (n * y) for x, y in zip(own, found["alone"], strict=True))
            share *= n if how == "alone" else 1
            count = 1 if how == "alone" else n
            print(
                f"  {count} {how:<7} {statistics.median(own):8.1f} images/s "
                f"({min(own):.1f} to {max(own):.1f})  {share:.2f} of {count} alone",
                flush=True,
            )


if __name__ == "__main__":
    main()
