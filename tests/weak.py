"""Weak scaling on real cores: `python -m tests.weak [--repeats N] [MODEL...]`.

    alone     one process on a core
    apart     one on each core that know nothing of each other: what the machine itself can give
    joined    one on each core, joined by gloo over the loopback
    free      the same, each free to use every core

Images a second of the whole loop, so many images for each process.
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


def run(commands: Sequence[list[str]], cores: Sequence[set[int]]) -> None:
    """Run commands at once, each on its own cores."""
    running: list[Popen] = []
    for command, own in zip(commands, cores, strict=True):
        running.append(start(command))
        os.sched_setaffinity(running[-1].pid, own)
    for status, _, error in finish(running, timeout=900):
        if status:
            raise SystemExit(error)


def measured(model: str, side: int, images: int) -> dict[str, float]:
    """Images a second of all processes together, each way once."""
    cores = sorted(os.sched_getaffinity(0))
    n, pinned = len(cores), [{core} for core in cores]
    with tempfile.TemporaryDirectory() as folder:
        command = lambda name, each: flags(model, side, each, Path(folder) / name)
        run([command("alone", images)], pinned[:1])
        run([command(f"apart{i}", images) for i in range(n)], pinned)
        for name, where in {"joined": pinned, "free": [set(cores)] * n}.items():
            port = free_port()
            run([[*command(name, images * n), *place(port, n, i)] for i in range(n)], where)
        found = {name: speed(Path(folder) / name) for name in ("alone", "joined", "free")}
        apart = sum(speed(Path(folder) / f"apart{i}") for i in range(n))
    return {"alone": found.pop("alone"), "apart": apart, **found}


def main() -> None:
    """Print a line for each network and way."""
    parser = argparse.ArgumentParser(prog="weak")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("models", nargs="*", help="only these")
    options = parser.parse_args()
    print(f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}")
    for network, settings in NETWORKS.items():
        if options.models and settings[0] not in options.models:
            continue
        turns = [measured(*settings) for _ in range(options.repeats)]
        print(network)
        for way in turns[0]:
            own = [turn[way] for turn in turns]
            count = 1 if way == "alone" else len(os.sched_getaffinity(0))
            share = statistics.median(turn[way] / (count * turn["alone"]) for turn in turns)
            print(
                f"  {count} {way:<7} {statistics.median(own):8.1f} images/s "
                f"({min(own):.1f} to {max(own):.1f})  {share:.2f} of {count} alone",
                flush=True,
            )


if __name__ == "__main__":
    main()
