"""Hostile input: mutated configs, command lines, weight files, archives and images.

A mistake has one clear message and exit status 2, within 5 s of CPU time; no traceback, no process,
no socket, no file outside the run directory. What is valid is stopped before it would compute.

    python -m tests.chaos fuzz [--n 2000] [--seed 0] [--only configs|commands|weights|files]
"""

import argparse
import collections
import contextlib
import json
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import matplotlib.font_manager  # noqa: F401, asks the system for its fonts, once for all

import jaxdl.init_from
import jaxdl.loaded
from chaos.commands import Outcome, Reached, obey, stopped_short
from chaos.files import arrays_trap, image, image_trap, weight_files, weights
from chaos.mutants import bases, line, written
from jaxdl import config_file
from jaxdl.assemble import assemble
from jaxdl.config import Config, Data, Part
from jaxdl.hub.load import save
from jaxdl.hub.read import read

FINE = ("valid", "refused")


def fuzz_configs(n: int, seed: int, sandbox: Path) -> Iterator[tuple[str, Outcome]]:
    """Mutated config files, run as a user would run them."""
    trees, file = bases(), sandbox / "mutant.json"
    for i in range(n):
        rng = random.Random(f"{seed} {i}")
        file.write_bytes(written(rng.choice(trees), rng))
        yield (
            f"configs {seed} {i}",
            obey(["--config", str(file), "--workdir", f"run{i}"], sandbox.parent),
        )


def fuzz_commands(n: int, seed: int, sandbox: Path) -> Iterator[tuple[str, Outcome]]:
    """Mutated command lines of every verb."""
    trees = bases()
    ruin = sandbox / "ruin"  # something like a run directory
    ruin.mkdir()
    for i in range(n):
        rng = random.Random(f"{seed} {i}")
        (ruin / "config.json").write_bytes(written(rng.choice(trees), rng))
        (ruin / "metrics.jsonl").write_bytes(
            rng.choice([b"", b"{}\n{}\n", b"[1]\n", b"\xff\n{}\n"])
        )
        argv = line(trees, rng, sandbox)
        yield f"commands {seed} {i} {argv}"[:400], obey(argv, sandbox.parent)


def fuzz_weights(n: int, seed: int, sandbox: Path) -> Iterator[tuple[str, Outcome]]:
    """Files of weights, damaged or lying, that a run is to begin with."""
    model = Part("resnet18", {"width": 4, "stem": "cifar"})
    config = Config(model=model)
    (sandbox / "base.json").write_text(config_file.to_json(config))
    plan = assemble(config)
    state = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), plan.abstract_state(0))
    good = sandbox / "good.safetensors"
    save(good, "resnet18", state.params, state.variables)
    files = weight_files(read(good), sandbox)

    def reach(*_: object) -> None:
        raise Reached

    with (
        mock.patch.object(jaxdl.loaded, "assemble", lambda *_, **__: plan),
        mock.patch.object(jaxdl.init_from, "init_state", lambda *_: state),
        mock.patch.object(jaxdl.init_from, "with_weights", reach),
    ):
        for i in range(n):
            rng = random.Random(f"{seed} {i}")
            file = sandbox / rng.choice(["w.safetensors", "w.pth", "w.npz", "w"])
            file.write_bytes(weights(rng, files) if i else files[0])
            argv = ["evaluate", "--config", "base.json", f"--config.init_from={file}"]
            yield f"weights {seed} {i}", obey(argv, sandbox.parent)


def fuzz_files(n: int, seed: int, sandbox: Path) -> Iterator[tuple[str, Outcome]]:
    """Folders of images with a trap in them, and archives of arrays, as a run's data."""
    tree = config_file.to_dict(Config(data=Data(validation=None, test=None)))
    tree["preprocess"] = []
    for i in range(n):
        rng = random.Random(f"{seed} {i}")
        place, name = (
            sandbox / f"data{i}",
            rng.choice(["", "", "\x1b[2J", "\n", "\udcff", "a" * 200]),
        )
        if rng.random() < 0.7:
            for label in ("cat", "dog"):
                (place / label).mkdir(parents=True)
                for j in range(3):
                    (place / label / f"{j}.png").write_bytes(image("PNG", rng))
            suffix = rng.choice(["png", "jpg", "gif", "tif", "ppm"])
            kind = image_trap(place / "dog" / f"{name}{rng.randrange(9)}x.{suffix}", rng)
            args = {"path": str(place), "image_size": 8, "channels": rng.choice((1, 3))}
            tree["data"] |= {"train": "all", "source": {"name": "folder", "args": args}}
        else:
            kind, place = "arrays", place.with_suffix(".npz")
            place.write_bytes(arrays_trap(rng))
            tree["data"] |= {
                "train": "all",
                "source": {"name": "npz", "args": {"path": str(place)}},
            }
        tree["data"]["memory"] = rng.choice((4.0, 1e-9))
        tree["data"]["batch_size"] = jax.device_count()
        (sandbox / "files.json").write_text(json.dumps(tree))
        argv = ["--config", "files.json", "--workdir", f"run{i}"]
        yield f"files {seed} {i} {kind}", obey(argv, sandbox.parent)
        shutil.rmtree(place) if place.is_dir() else place.unlink()


EXPERIMENTS = {
    "configs": fuzz_configs, "commands": fuzz_commands,
    "weights": fuzz_weights, "files": fuzz_files,
}  # fmt: skip


_CACHES = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR")


@contextlib.contextmanager
def sandbox() -> Iterator[Path]:
    """A new folder, three deep so that '../x' stays within, which is where commands are typed."""
    before = Path.cwd()
    folder = Path(tempfile.mkdtemp(prefix="jaxdl-fuzz-"))
    inner = folder / "a" / "b"
    inner.mkdir(parents=True)
    os.chdir(inner)
    try:
        with (
            mock.patch.dict(os.environ, {k: str(inner.parent / "cache") for k in _CACHES}),
            mock.patch.object(tempfile, "tempdir", str(inner.parent)),
        ):
            yield inner
    finally:
        os.chdir(before)
        shutil.rmtree(folder, ignore_errors=True)


def run(
    name: str, n: int, seed: int, show: bool = False
) -> tuple[collections.Counter, list[tuple[str, Outcome]], float]:
    """Outcomes by kind, those that are not fine, and the slowest refusal in seconds."""
    kinds: collections.Counter = collections.Counter()
    bad, slowest = [], 0.0
    with sandbox() as folder, stopped_short():
        for case, outcome in EXPERIMENTS[name](n, seed, folder):
            kinds[outcome.kind] += 1
            if outcome.kind == "refused":
                slowest = max(slowest, outcome.seconds)
            if outcome.kind not in FINE:
                bad.append((case, outcome))
                if show:
                    print(f"--- {outcome.kind}: {case}\n{outcome.said}", flush=True)
            if sum(kinds.values()) % 100 == 0:
                jax.clear_caches()
    return kinds, bad, slowest


def main(argv: list[str]) -> int:
    """The full form: 2,000 configs and command lines, 1,000 weight files, 500 other files."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos fuzz", description=__doc__)
    parser.add_argument("--n", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=EXPERIMENTS)
    options = parser.parse_args(argv)
    failed = False
    for name in [options.only] if options.only else EXPERIMENTS:
        kinds, bad, slowest = run(name, options.n or FULL[name], options.seed, show=True)
        print(f"{name:<9} {dict(kinds)}  slowest refusal {slowest:.1f} s of CPU", flush=True)
        failed |= bool(bad)
    return int(failed)


FULL = {"configs": 1000, "commands": 1000, "weights": 1000, "files": 500}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
