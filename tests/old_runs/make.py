"""Make the run directories beside this file anew, with the code from before the big renaming.

    python tests/old_runs/make.py CHECKOUT

CHECKOUT is a clone of this repository at commit 27335071044c4ac8de8bb229b3beff798148170f, whose
requirements this Python has:

    git clone . CHECKOUT && git -C CHECKOUT checkout 27335071044c4ac8de8bb229b3beff798148170f

Each run is trained by that code on one CPU device and stopped in the middle: `NAME/run`. A copy is
resumed by the same code to its end, twice, and what both reached is `NAME/expected.npz`, the arrays
of the last checkpoints, and `NAME/expected.json`, the last value of each number that was measured.
The configs below say every old name that a run has. Where a name has changed since, its value is
not the default, so that a program which no longer understands it comes to other weights.

A run is started in the folder NAME: paths in its config are relative to it.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from reached import arrays_of, values_of

HERE = Path(__file__).parent
COMMIT = "27335071044c4ac8de8bb229b3beff798148170f"
SAVED = 75
"""The exit status of a run that a signal has stopped and that has saved its state."""


def part(name: str, **args: Any) -> dict[str, Any]:
    """A part as config.json has it."""
    return {"name": name, "args": args}


class Run(NamedTuple):
    """A run, and how it is stopped.

    `signal` strikes when `step` steps are done: SIGKILL leaves the checkpoint before it, SIGTERM
    and SIGINT have the program save the step at hand.
    """

    config: dict[str, Any]
    step: int
    signal: signal.Signals


EMA: dict[str, Any] = {
    "data": {
        "source": part("digits"),
        "train": "train[:480]",
        "batch_size": 32,
        "evaluation_batch_size": 64,
    },
    "model": part(
        "composed",
        stem=4,
        stages=[
            {
                "block": "basic",
                "features": 4,
                "stride": 2,
                "args": {"attention": part("eca", gamma=1.5), "drop_path": 0.1},
            }
        ],
        drop_rate=0.1,
    ),
    "dropout": part("gaussian"),
    "sync_norms": False,
    "regularizers": [part("center_loss", weight=0.02, alpha=0.4), part("l2", weight=1e-3)],
    "optimizer": part("sgd", learning_rate=0.1, momentum=0.9, weight_decay=0.0),
    "wrappers": [part("sam", rho=0.02)],
    "schedule": part("warmup_cosine", warmup="10%"),
    "freeze": "backbone/stem/norm/.*",
    "rates": {"head/logits/bias": 3.0, "head/logits/kernel": 1.5, "backbone/stage1_.*": 0.5},
    "layer_decay": 0.9,
    "gradient": {
        "taker": part("pcgrad"),
        "accumulate": 2,
        "transforms": [
            part("clip_norm", limit=2.0),
            part("centralize"),
            part("noise", eta=1e-4, gamma=0.5, seed=7),
        ],
        "max_skipped": 40,
        "rollback": 2,
    },
    "augment": [
        part(
            "in_order",
            augmentations=[
                part("random_crop", padding=1),
                part("sometimes", augmentation=part("random_erasing"), probability=0.25),
            ],
        ),
        part("mixup_or_cutmix", probability=0.5, switch=0.4, per="example"),
    ],
    "duration": "40 steps",
    "average": part("ema", decay=0.7, warmup=True),
    "evaluation": {
        "every": "8 steps",
        "metrics": [
            part("accuracy"),
            part("cross_entropy"),
            part("f1"),
            part("calibration_error", bins=5),
            part("recall_at", k=1),
        ],
        "predictors": [
            part("test_time_augmentation", augment=[part("random_crop", padding=1)], samples=2)
        ],
        "norm_batches": 2,
        "gap": True,
    },
    "checkpoint": {"every": "9 steps", "keep_latest": 1},
    "hang_after": 301.0,
    "log": {"every": "5 steps", "sinks": [part("csv")]},
    "dispatch": 3,
    "seed": 11,
}

SEGMENTATION: dict[str, Any] = {
    "data": {
        "source": part("shapes", size=16, shapes=2, examples=120),
        "train": "train[:64]",
        "batch_size": 8,
        "evaluation_batch_size": 16,
    },
    "model": part("unet", width=4, depth=1, drop_rate=0.1),
    "dropout": part("spatial"),
    "initializer": part("he"),
    "objective": part(
        "segmentation",
        loss=part("focal", gamma=1.5),
        map_loss=part("focal_tversky", gamma=1.25),
        map_weight=0.5,
    ),
    "optimizer": part("sgd", learning_rate=0.3, momentum=0.9, weight_decay=1e-3),
    "wrappers": [part("reduce_on_plateau", every="4 steps", patience=2, factor=0.5)],
    "schedule": part("constant", warmup="3 steps"),
    "rates": {"backbone/down1_.*": 0.5},
    "gradient": {
        "taker": part("pcgrad"),
        "accumulate": 2,
        "transforms": [part("adaptive_clip", limit=0.1)],
        "skip_nonfinite": True,
        "max_skipped": 30,
    },
    "augment": [part("random_flip"), part("random_crop", padding=2), part("cutmix", alpha=0.8)],
    "duration": "32 steps",
    "precision": part("float16", float32="head(/.*)?", start=4, scale=256.0, interval=6),
    "average": part("swa", start="25%", every="3 steps"),
    "evaluation": {
        "every": "8 steps",
        "metrics": [part("mean_iou"), part("pixel_accuracy"), part("mean_dice")],
        "monitor": "validation/mean_iou",
        "gap": True,
    },
    "early_stopping": {"patience": 20, "restore_best": False},
    "checkpoint": {"every": "8 steps", "keep_latest": 1},
    "hang_after": 302.0,
    "log": {"every": "4 steps", "sinks": [part("tensorboard")]},
    "seed": 3,
}

LANGUAGE: dict[str, Any] = {
    "data": {
        "source": part("characters", path="text.txt", length=16),
        "batch_size": 8,
        "evaluation_batch_size": 16,
    },
    "model": part(
        "transformer_decoder",
        width=8,
        depth=2,
        heads=2,
        hidden=16,
        positions="learned",
        max_length=17,
        placement="pre",
        activation="gelu",
        norm="rms",
        drop_rate=0.1,
    ),
    "dropout": part("shared"),
    "objective": part("language"),
    "optimizer": part("schedule_free_adamw", learning_rate=5e-3, weight_decay=0.1),
    "schedule": part("constant", warmup="5 steps"),
    "freeze": ".*/qkv/bias",  # the gradient of a key's bias is but rounding, and Adam scales it
    "gradient": {
        "taker": part("plain"),
        "transforms": [
            part("skip_spikes", deviations=0.8, decay=0.5, warmup=12),
            part("clip_norm", limit=1.0),
        ],
        "remat": "blocks",
        "max_skipped": 1,
        "rollback": 2,
    },
    "preprocess": [],
    "duration": "48 steps",
    "evaluation": {
        "every": "12 steps",
        "metrics": [part("bits_per_token"), part("perplexity"), part("next_token_accuracy")],
        "monitor": "validation/bits_per_token",
        "mode": "min",
        "predictors": [part("mc_dropout", samples=2)],
        "gap": True,
    },
    "checkpoint": {"every": "6 steps", "keep_latest": 2},
    "hang_after": 303.0,
    "log": {"every": "10 steps", "sinks": [part("csv")]},
    "seed": 3,
}

POPULATION: dict[str, Any] = {
    "data": {
        "source": part("digits"),
        "train": "train[:480]",
        "batch_size": 32,
        "evaluation_batch_size": 64,
    },
    "model": part(
        "composed",
        stem=4,
        stem_stride=2,
        stages=[
            {
                "block": "basic",
                "features": 4,
                "args": {"attention": part("squeeze_excite", ratio=0.5, divisor=2)},
            }
        ],
        norm="none",
    ),
    "regularizers": [part("confidence_penalty", weight=0.05)],
    "optimizer": part("sgd", learning_rate=0.1, momentum=0.0, weight_decay=1e-3),
    "schedule": part("warmup_cosine", warmup="5%"),
    "rates": {"head/.*": 0.5},
    "gradient": {
        "taker": part("plain"),
        "accumulate": 2,
        "transforms": [part("stale", workers=2, compensation=0.5), part("unit_norm")],
    },
    "augment": [part("random_crop", padding=1), part("mixup", alpha=0.4)],
    "duration": "30 steps",
    "evaluation": {
        "every": "6 steps",
        "metrics": [part("accuracy"), part("cross_entropy")],
        "monitor": "validation/cross_entropy",
        "mode": "min",
    },
    "population": {
        "seeds": 2,
        "grid": {"optimizer.learning_rate": [0.01, 0.1]},
        "halve": "12 steps",
    },
    "checkpoint": {"every": "8 steps", "keep_latest": 1},
    "hang_after": 304.0,
    "log": {"every": "5 steps", "sinks": []},
    "dispatch": 2,
    "seed": 2,
}

RUNS = {
    "ema": Run(EMA, 24, signal.SIGKILL),
    "segmentation": Run(SEGMENTATION, 18, signal.SIGTERM),
    "language": Run(LANGUAGE, 33, signal.SIGINT),
    "population": Run(POPULATION, 20, signal.SIGKILL),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Make the runs that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path, help=f"a clone at commit {COMMIT[:7]}")
    parser.add_argument("--out", type=Path, default=HERE, help="default: beside this file")
    parser.add_argument("--only", choices=RUNS, action="append", help="default: all")
    options = parser.parse_args(argv)
    checkout = options.checkout.resolve()
    asked = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    head = subprocess.run(asked, capture_output=True, text=True).stdout.strip()
    if head != COMMIT:
        parser.error(f"'{checkout}' is not a clone at {COMMIT}: {head or 'no repository'}")
    os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    for name in options.only or RUNS:
        make(name, RUNS[name], checkout, options.out.resolve() / name)


def make(name: str, run: Run, checkout: Path, folder: Path) -> None:
    """Write the stopped run and what it is expected to reach into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for data in (HERE / name).glob("*.txt"):
        if folder != HERE / name:
            shutil.copy(data, folder)
    with tempfile.TemporaryDirectory(prefix="old_runs-") as scratch:
        # Orbax writes down where a checkpoint was: a place that is nobody's.
        place = Path(scratch) / "place"
        place.mkdir()
        for data in folder.glob("*.txt"):
            shutil.copy(data, place)
        (place / "config.json").write_text(json.dumps(run.config))
        status = call(stopped, checkout, place, "config.json", "run", run.step, run.signal)
        expected = -run.signal if run.signal is signal.SIGKILL else SAVED
        if status != expected:
            sys.exit(f"{name}: exit status {status} in place of {expected}")
        strip(place / "run")
        ends = []
        for again in ("first", "second"):
            shutil.copytree(place / "run", place / again)
            if status := call(resumed, checkout, place, f"{again}/config.json", again):
                sys.exit(f"{name}: resumed with exit status {status}")
            ends.append((arrays_of(place / again), values_of(place / again)))
        check_same(name, *ends)
        shutil.rmtree(folder / "run", ignore_errors=True)
        shutil.copytree(place / "run", folder / "run")
    arrays, values = ends[0]
    np.savez_compressed(folder / "expected.npz", **arrays)
    (folder / "expected.json").write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    print(f"{name}: {len(arrays)} arrays, {size / 1024:.0f} KiB", flush=True)


def call(function: Any, *args: Any) -> int:
    """Exit status of a function in a process of its own; minus the signal that killed it."""
    process = multiprocessing.get_context("spawn").Process(target=function, args=args)
    process.start()
    process.join()
    return process.exitcode or 0


def resumed(checkout: Path, folder: Path, config: str, workdir: str) -> None:
    """Train to the end with the old code, in a folder."""
    os.chdir(folder)
    sys.path.insert(0, str(checkout))
    sys.argv = ["jaxdl", "--config", config, "--workdir", workdir]
    from jaxdl.main import main

    sys.exit(main(sys.argv[1:]))


def stopped(
    checkout: Path, folder: Path, config: str, workdir: str, step: int, number: signal.Signals
) -> None:
    """The same, with a signal to this process when so many steps are done."""
    sys.path.insert(0, str(checkout))
    from jaxdl.train.checkpoint import Checkpoints

    watch = Checkpoints.watch

    def struck(self: Checkpoints, done: int, *rest: Any) -> None:
        watch(self, done, *rest)
        if done >= step:
            self.settle()  # what is being written is whole
            os.kill(os.getpid(), number)
            time.sleep(1)  # a thread hears of it

    Checkpoints.watch = struck  # called after each step
    resumed(checkout, folder, config, workdir)


def strip(workdir: Path) -> None:
    """Leave the newest checkpoint, from which a run goes on, and no folder that git would drop."""
    for folder in workdir.rglob("checkpoints"):
        for older in sorted(folder.glob("[0-9]*"), key=lambda f: int(f.name))[:-1]:
            shutil.rmtree(older)
    for page in workdir.rglob("report.html"):
        page.unlink()
    for path in sorted(workdir.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def check_same(
    name: str,
    first: tuple[Mapping[str, np.ndarray], Mapping[str, float]],
    second: tuple[Mapping[str, np.ndarray], Mapping[str, float]],
) -> None:
    """Refuse a run that does not end in the same bits when it is resumed again."""
    (a, x), (b, y) = first, second
    differing = [k for k in a if k not in b or not np.array_equal(a[k], b[k])]
    if differing or a.keys() != b.keys() or x != y:
        sys.exit(f"{name}: resumed twice, and the two differ: {differing or (x, y)}")


if __name__ == "__main__":
    main()
