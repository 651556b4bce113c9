"""A long run: resident memory stays where it is, and the step is compiled once.

    nice python -m tests.chaos soak [--steps 10000] [--saves 200]

Memory is looked at 200 times or as often as there are saves, each time after a save is done and the
garbage collected; after the first tenth, the last tenth is compared with the second.

Steps, evaluations and the log leave nothing behind (`STEADY`). A save does: Orbax alone, without
any of our code, grows by 0.02 MiB a save for 2 leaves and 0.07 for 60, of which a part is what
tensorstore's `to_json` and `experimental_collect_matching_metrics` return and never let go.
"""

import argparse
import collections
import gc
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax
import numpy as np

from jaxdl import run as house
from jaxdl.config import Checkpoint, Config, Data, Evaluation, Log, part

STEADY = 4 * 2**20  # bytes that a run without saves may grow by
A_SAVE = 0.15 * 2**20  # bytes that each save may add


class Soaked(NamedTuple):
    """What a long run took."""

    memory: np.ndarray
    """(n,) resident bytes, after each period"""
    compiled: collections.Counter
    """programs compiled after the first evaluation, by name; and 'jit(step)', whenever it was"""

    @property
    def growth(self) -> int:
        """Bytes by which the median of the last tenth lies above that of the second."""
        n = max(1, len(self.memory) // 10)
        return int(np.median(self.memory[-n:]) - np.median(self.memory[n : 2 * n]))


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def config_of(steps: int, period: int, saves: bool) -> Config:
    """Batch norm, dropout, augmentation, an average; evaluated every fifth period."""
    return Config(
        data=Data(source=part("fake", size=[8, 8, 1], examples=256), batch_size=16),
        model=part("cnn", widths=[8], drop_rate=0.1),
        optimizer=part("adamw", learning_rate=1e-3),
        augment=(part("random_crop", padding=1),),
        average=part("ema", decay=0.99),
        duration=steps,
        evaluation=Evaluation(every=5 * period),
        checkpoint=Checkpoint(every=period if saves else steps),
        log=Log(every=period),
    )


def soak(steps: int, periods: int, workdir: Path, saves: bool = True) -> Soaked:
    """A run of so many steps in so many periods, watched; with a save each, or none."""
    memory: list[int] = []
    compiled: collections.Counter = collections.Counter()
    real, period = house._hooks, steps // periods

    def hooks(session: Any, log: Any) -> tuple[list, Callable]:
        found, save = real(session, log)

        def look(t: int, state: Any, metrics: Any) -> None:
            if t % period == 0:
                session.checkpoints.settle()
                gc.collect()
                memory.append(resident())

        return [*found, look], save

    def note(event: str, seconds: float, **about: Any) -> None:
        name = about.get("fun_name", "?")
        # The fifth period brings the first evaluation, and after the last the run is concluded.
        if event.endswith("/backend_compile_duration") and (
            5 < len(memory) < periods or name == "jit(step)"
        ):
            compiled[name] += 1

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        with mock.patch.object(house, "_hooks", hooks):
            house.run(config_of(steps, period, saves), workdir)
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
    return Soaked(np.array(memory), compiled)


def main(argv: list[str]) -> int:
    """The full form: 10,000 steps, with 200 saves and without."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos soak", description=__doc__)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--saves", type=int, default=200)
    options = parser.parse_args(argv)
    failed = False
    for saves, bar in ((False, STEADY), (True, A_SAVE * options.saves)):
        with tempfile.TemporaryDirectory(prefix="jaxdl-soak-") as folder:
            found = soak(options.steps, options.saves, Path(folder), saves)
        tenths = found.memory[:: max(1, options.saves // 10)] // 2**20
        print(f"{options.steps} steps, {options.saves if saves else 'no'} saves")
        print(
            "  resident MiB, a tenth of the run after another:", *tenths, found.memory[-1] // 2**20
        )
        print(f"  growth {found.growth / 2**20:.1f} MiB, bar {bar / 2**20:.0f}", flush=True)
        print(f"  compiled {dict(found.compiled)}", flush=True)
        failed |= found.growth > bar or found.compiled != {"jit(step)": 1}
    return int(failed)
