"""Reshard: saved on eight devices, restored on one, two, four and eight, and back.

    nice python -m tests.chaos reshard

Data parallel, FSDP, tensor parallel, and together. What is restored must be what was saved, bit for
bit, and 20 more steps must have the losses of a run that stayed where it was. All pairs of meshes
in this process, then real processes that see so many devices.
"""

import argparse
import dataclasses
import functools
import shutil
import tempfile
from pathlib import Path
from unittest import mock

import conftest  # noqa: F401, gives this process its 8 devices
import jax
import numpy as np
from test_checkpoint import raw
from test_cli import TINY, command, metrics
from test_sharding import VIT, mesh_of
from zoo import QUICK

from jaxdl import tree
from jaxdl.assemble import Plan, assemble
from jaxdl.config import Config, Data, part
from jaxdl.rundir.checkpoint import Checkpoints
from jaxdl.session import first_state, training_batches
from jaxdl.train.state import TrainState
from jaxdl.train.step import Step, compile_step

BEFORE, AFTER = 4, 20
SAVED_ON = {
    "data 8": (8,),
    "fsdp 8": (1, 8),
    "data 2, fsdp 4": (2, 4),
    "data 4, tensor 2": (4, 1, 2),
    "data 2, fsdp 2, tensor 2": (2, 2, 2),
}
RESTORED_ON = {
    "one": (1,),
    "data 2": (2,),
    "fsdp 2": (1, 2),
    "tensor 2": (1, 1, 2),
    "data 4": (4,),
    "fsdp 4": (1, 4),
    "data 2, tensor 2": (2, 1, 2),
    **SAVED_ON,
}
COMMON = Config(
    data=Data(source=part("fake", size=(8, 8, 3), num_classes=8, examples=64), batch_size=16),
    # Not Adam: a parameter without a gradient would move by the rounding of its steps.
    optimizer=part("sgd", learning_rate=0.01, momentum=0.9),
    schedule=part("constant"),
    average=part("ema", decay=0.9),
    duration=BEFORE + AFTER,
)
NETWORKS = {
    "cnn": dataclasses.replace(COMMON, model=part("cnn", widths=[16, 32], drop_rate=0.1)),
    "vit": dataclasses.replace(COMMON, model=VIT),
}


@functools.cache
def program(network: str, sizes: tuple[int, ...]) -> tuple[Plan, Step]:
    """A network on a mesh of the first devices, its step compiled once."""
    with mock.patch("jaxdl.train.sharding.SHARD_FROM", 2**8):
        plan = assemble(NETWORKS[network], mesh=mesh_of(*sizes))
        like = plan.abstract_state(0)
    spec = plan.batch_spec(COMMON.data.batch_size)
    step = compile_step(plan.step, like).lower(like, spec)
    return plan, step.compile(QUICK)


def first(network: str, sizes: tuple[int, ...]) -> TrainState:
    """The state before the first step."""
    with mock.patch("jaxdl.train.sharding.SHARD_FROM", 2**8):
        return first_state(NETWORKS[network], program(network, sizes)[0])


def steps(
    network: str, sizes: tuple[int, ...], state: TrainState, start: int, stop: int
) -> tuple[TrainState, list[float]]:
    """Train from one step to another: the state, and each step's loss."""
    plan, step = program(network, sizes)
    losses = []
    for batch in training_batches(NETWORKS[network], plan, start, stop):
        state, found = step(state, batch)
        losses.append(float(found["loss"][0] / found["loss"][1]))
    return state, losses


def moved(folder: Path, state: TrainState, like: TrainState) -> TrainState:
    """Saved, and restored as `like` has it."""
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(int(state.step), state, None, {})
    with Checkpoints(folder) as checkpoints:
        found = checkpoints.restore_newest(lambda step: like).state
    shutil.rmtree(folder)
    return found


def _bits(state: TrainState) -> dict[str, bytes]:
    return {name: raw(x).tobytes() for name, x in tree.flatten(state).items()}


def pair(
    network: str, saved_on: tuple[int, ...], restored_on: tuple[int, ...], folder: Path
) -> tuple[bool, bool, float]:
    """Whether the bits are the same there, and back; the largest difference in a loss."""
    state, _ = steps(network, saved_on, first(network, saved_on), 0, BEFORE)
    expected = _bits(state)
    with mock.patch("jaxdl.train.sharding.SHARD_FROM", 2**8):
        there, home = (program(network, s)[0].abstract_state(0) for s in (restored_on, saved_on))
    found = moved(folder, state, there)
    same = _bits(found) == expected
    places = jax.tree.leaves(jax.tree.map(lambda x, s: x.sharding == s.sharding, found, there))
    back = moved(folder, found, home)
    same_back = _bits(back) == expected
    _, losses = steps(network, restored_on, found, BEFORE, BEFORE + AFTER)
    _, stayed = steps(network, saved_on, back, BEFORE, BEFORE + AFTER)
    return same and all(places), same_back, float(np.max(np.abs(np.subtract(losses, stayed))))


RUN = [
    *TINY, "--config.optimizer=sgd", "--config.optimizer.learning_rate=0.01",
    "--config.schedule=constant", "--config.data.batch_size=64", "--config.mesh.fsdp=1",
]  # fmt: skip


def processes(folder: Path) -> dict[int, float]:
    """Devices to the largest difference in a loss: begun by a process of 8, ended by another."""

    def run(workdir: Path, devices: int, duration: int) -> list[float]:
        process = command(
            *RUN, f"--config.duration={duration} steps", "--workdir", workdir,
            JAX_NUM_CPU_DEVICES=str(devices),
        )  # fmt: skip
        _, error = process.communicate(timeout=600)
        assert process.returncode == 0, error
        return [line["train/loss"] for line in metrics(workdir) if "train/loss" in line]

    run(folder / "begun", 8, BEFORE)
    found = {}
    for devices in (8, 1, 2, 4):
        shutil.copytree(folder / "begun", folder / str(devices))
        found[devices] = run(folder / str(devices), devices, BEFORE + AFTER)
    return {n: float(np.max(np.abs(np.subtract(x, found[8])))) for n, x in found.items()}


def main(argv: list[str]) -> int:
    """Print each pair of meshes, and what was wrong."""
    argparse.ArgumentParser(prog="reshard").parse_args(argv)
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for network in NETWORKS:
            for there, saved_on in SAVED_ON.items():
                for here, restored_on in RESTORED_ON.items():
                    same, back, off = pair(network, saved_on, restored_on, Path(folder) / "c")
                    failed += not (same and back and off <= 1e-6)
                    said = "bit-equal there and back" if same and back else "NOT THE SAME BITS"
                    print(f"{network} {there} -> {here}: {said}, losses {off:.1e}", flush=True)
        for devices, off in processes(Path(folder)).items():
            failed += off > 1e-6
            print(f"process of 8 devices -> of {devices}: losses {off:.1e}", flush=True)
    print(f"failures {failed}")
    return int(failed > 0)
