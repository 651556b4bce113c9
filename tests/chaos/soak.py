"""A long run: resident memory stays flat, and each program is compiled once.

    nice python -m tests.chaos soak [--steps 10000] [--saves 200]

Memory is looked at after every save and its garbage collected. After the first tenth of the run,
the last tenth may not lie higher than the second by more than `BAR`.
"""

import argparse
import collections
import gc
import os
import tempfile
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import jax
import numpy as np

from jaxdl import run as house
from jaxdl.config import Checkpoint, Config, Data, Evaluation, Log, part

BAR = 20 * 2**20  # bytes


class Soaked(NamedTuple):
    """What a long run took."""

    memory: np.ndarray
    """(n,) resident bytes, after each save"""
    late: collections.Counter
    """programs compiled after the first save and its evaluation, by name"""
    steps: collections.Counter
    """times that a training step was compiled"""

    @property
    def growth(self) -> int:
        """Bytes by which the median of the last tenth lies above that of the second."""
        n = max(1, len(self.memory) // 10)
        return int(np.median(self.memory[-n:]) - np.median(self.memory[n : 2 * n]))


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def config_of(steps: int, saves: int) -> Config:
    """Batch norm, dropout, augmentation, an average; an evaluation and a save each time."""
    period = steps // saves
    return Config(
        data=Data(source=part("fake", size=[8, 8, 1], examples=256), batch_size=16),
        model=part("cnn", widths=[8], drop_rate=0.1),
        optimizer=part("adamw", learning_rate=1e-3),
        augment=(part("random_crop", padding=1),),
        average=part("ema", decay=0.99),
        duration=steps,
        evaluation=Evaluation(every=period * 5),
        checkpoint=Checkpoint(every=period),
        log=Log(every=period),
    )


def soak(steps: int, saves: int, workdir: Path) -> Soaked:
    """A run of so many steps, watched."""
    memory: list[int] = []
    compiled: list[tuple[int, str]] = []
    real = house._hooks

    def hooks(session, log):
        found, save = real(session, log)

        def look(t, state, metrics):
            if t % (steps // saves) == 0:
                session.checkpoints.settle()
                gc.collect()
                memory.append(resident())

        return [*found, look], save

    def note(event: str, seconds: float, **about: str) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append((len(memory), about.get("fun_name", "?")))

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        with mock.patch.object(house, "_hooks", hooks):
            house.run(config_of(steps, saves), workdir)
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
    # the fifth save comes with the first evaluation, and after the last the run is concluded
    late = collections.Counter(name for n, name in compiled if 6 <= n < saves)
    steps_compiled = collections.Counter(name for _, name in compiled if name == "jit(step)")
    return Soaked(np.array(memory), late, steps_compiled)


def main(argv: list[str]) -> int:
    """The full form: 10,000 steps, 200 saves."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos soak", description=__doc__)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--saves", type=int, default=200)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="jaxdl-soak-") as folder:
        found = soak(options.steps, options.saves, Path(folder))
    print("resident MiB by tenths", *(found.memory[:: max(1, options.saves // 10)] // 2**20))
    print(f"growth {found.growth / 2**20:.1f} MiB; compiled late {dict(found.late)}; {found.steps}")
    return int(found.growth > BAR or bool(found.late))
