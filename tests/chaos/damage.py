"""Damage: bits flipped, files cut, lost, exchanged in a checkpoint; what a restart makes of it.

    python -m tests.chaos damage --n 1000

Of the newest of three checkpoints one thing is damaged, then the newest sound one is asked for.
`--n` flips; of truncations, lost files, exchanged shards and files of another checkpoint, 30, 10, 5
and 10 for a hundred of them.
"""

import argparse
import collections
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import conftest  # noqa: F401, gives this process its 8 devices
import numpy as np
from test_checkpoint import like, raw, trained
from test_train import mesh_of

from jaxdl import tree
from jaxdl.errors import UserError
from jaxdl.rundir import integrity
from jaxdl.rundir.checkpoint import Checkpoints

PATIENCE = 5.0
STEPS = (1, 2, 3)
SHARES = {"flip": 1.0, "truncate": 0.3, "delete": 0.1, "exchange": 0.05, "mix": 0.1}


def saved(folder: Path, read_below: int) -> dict[int, dict[str, np.ndarray]]:
    """Three checkpoints of one training run; each step's leaves."""
    expected = {}
    with (
        mock.patch.object(integrity, "READ_BELOW", read_below),
        Checkpoints(folder, keep_latest=len(STEPS)) as checkpoints,
    ):
        for step in STEPS:
            state = trained(mesh_of(4, 2), step)
            checkpoints.save(step, state, step / 10, {"window": {"loss": [0.5 * step, 3.0]}})
            expected[step] = {name: raw(x).copy() for name, x in tree.flatten(state).items()}
    return expected


def _files(folder: Path) -> list[Path]:
    return sorted(f for f in folder.rglob("*") if f.is_file())


def _shards(folder: Path) -> list[Path]:
    return [f for f in _files(folder) if f.parent.name == "d"]


def _any_file(rng: np.random.Generator, folder: Path) -> Path:
    """Half of the time each file is as likely, half of the time each byte."""
    files = _files(folder)
    sizes = np.array([f.stat().st_size for f in files], float)
    even = np.full(len(files), 1 / len(files))
    return files[rng.choice(len(files), p=even if rng.random() < 0.5 else sizes / sizes.sum())]


def flip(rng: np.random.Generator, folder: Path) -> list[Path]:
    """One bit of one file."""
    file = _any_file(rng, folder)
    content = bytearray(file.read_bytes())
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    file.write_bytes(content)
    return [file]


def truncate(rng: np.random.Generator, folder: Path) -> list[Path]:
    """The end of one file."""
    file = _any_file(rng, folder)
    file.write_bytes(file.read_bytes()[: rng.integers(file.stat().st_size)])
    return [file]


def delete(rng: np.random.Generator, folder: Path) -> list[Path]:
    """One file."""
    file = rng.choice(_files(folder))
    file.unlink()
    return [file]


def exchange(rng: np.random.Generator, folder: Path) -> list[Path]:
    """Two shards, of this checkpoint, or of this and an older one, take each other's place."""
    one = rng.choice(_shards(folder))
    older = folder.parent / str(rng.choice(STEPS))
    other = rng.choice([f for f in _shards(older) if f.read_bytes() != one.read_bytes()])
    a, b = one.read_bytes(), other.read_bytes()
    one.write_bytes(b)
    other.write_bytes(a if older == folder else b)
    return [one, other] if older == folder else [one]


def mix(rng: np.random.Generator, folder: Path) -> list[Path]:
    """A file, a folder or all of an older checkpoint lies where this one's should."""
    older = folder.parent / str(rng.choice(STEPS[:-1]))
    what = rng.choice(
        ["integrity.json", "state", "state/_METADATA", "state/manifest.ocdbt", "state/d", ".",
         "state/ocdbt.process_0", "state/ocdbt.process_0/manifest.ocdbt"]
    )  # fmt: skip
    if (older / what).is_file():
        shutil.copy(older / what, folder / what)
        return [folder / what]
    before = _files(folder / what)
    shutil.rmtree(folder / what)
    shutil.copytree(older / what, folder / what)
    return before


DAMAGES = {f.__name__: f for f in (flip, truncate, delete, exchange, mix)}


def outcome(
    source: Path,
    expected: dict[int, dict[str, np.ndarray]],
    damage: Callable,
    rng: np.random.Generator,
    folder: Path,
) -> str:
    """What came of one damage, in a copy of the source."""
    shutil.copytree(source, folder)
    harmed = damage(rng, folder / str(STEPS[-1]))
    begun, told = time.monotonic(), []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with Checkpoints(folder) as checkpoints:
                found = checkpoints.restore_newest(lambda step: like(mesh_of(4, 2)))
        told = [str(w.message) for w in caught]
    except UserError:
        return "refused"
    except Exception as error:
        return f"CRASH {type(error).__name__}: {error}"
    finally:
        late = time.monotonic() - begun > PATIENCE
        shutil.rmtree(folder)
    if late:
        return "HANG"
    leaves = {name: raw(x) for name, x in tree.flatten(found.state).items()}
    step = int(leaves["step"])
    same = all(np.array_equal(leaves[n], x) for n, x in expected[step].items())
    if not same or found.extra != {"window": {"loss": [0.5 * step, 3.0]}}:
        return "WRONG"
    if step == STEPS[-1]:
        return "not read" if not told else "RESTORED WITH A WARNING"
    if step != STEPS[-2] or len(told) != 1:
        return f"WRONG STEP {step}, {len(told)} warnings"
    place = f"checkpoint {folder / str(STEPS[-1])} "
    names = [str(f.relative_to(folder / str(STEPS[-1]))) for f in harmed]
    if place in told[0] and any(name in told[0] for name in names):
        return "older, file named"
    return f"OLDER, FILE NOT NAMED: {names} {told[0]}"


def outcomes(counts: dict[str, int], seed: int = 0) -> dict[str, collections.Counter]:
    """Kind of damage to how often it came to what; anything in capitals is a failure."""
    rng, found = np.random.default_rng(seed), {}
    with tempfile.TemporaryDirectory() as folder:
        # Files known by their contents; and large ones by their leaves, as beyond a megabyte.
        sources = {f"source{n}": n for n in (integrity.READ_BELOW, 2**13)}
        made = [(Path(folder) / name, saved(Path(folder) / name, n)) for name, n in sources.items()]
        for kind, n in counts.items():
            found[kind] = collections.Counter(
                outcome(*made[i % 2], DAMAGES[kind], rng, Path(folder) / "copy") for i in range(n)
            )
    return found


def main(argv: list[str]) -> int:
    """Print what came of each kind of damage."""
    parser = argparse.ArgumentParser(prog="damage")
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    counts = {kind: round(share * options.n) for kind, share in SHARES.items()}
    failed = 0
    for kind, found in outcomes(counts, options.seed).items():
        for what, n in found.most_common():
            print(f"{kind:<10} {n:>5}  {what}")
            failed += n * what[:2].isupper()
    print(f"failures   {failed:>5}")
    return int(failed > 0)
