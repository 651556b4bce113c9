"""Scaling model: time of a step and of a checkpoint on more devices than are at hand.

A step is as long as its arithmetic, its traffic with memory and its collectives, which overlap or
do not: `Step.least` is all of them hidden behind the longest, `Step.most` one after the other, and
a run lies between. Roofline: Williams, Waterman, Patterson 2009,
https://doi.org/10.1145/1498765.1498785. Collectives on rings: https://jax-ml.github.io/scaling-book,
chapter 3. Pipelines: Narayanan et al. 2021, https://arxiv.org/abs/2104.04473, section 2.2.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import AxisType

from jaxdl import tree
from jaxdl.assemble import Plan
from jaxdl.errors import UserError
from jaxdl.nn.layout import STAGED
from jaxdl.nn.stack import STACKED
from jaxdl.perf.flops import flops
from jaxdl.perf.memory import in_words
from jaxdl.perf.roofline import Chip
from jaxdl.train.sharding import AXES
from jaxdl.types import Array, PyTree

GRADIENT = 4  # bytes: parameters, their gradients and the optimizer's moments are float32
COMPUTE = 2  # bytes of what is computed with: bfloat16


class Work(NamedTuple):
    """Work of one training step, on any number of devices."""

    parameters: int
    flops: float
    """Of a training step an example: 6 a parameter and token, 8 where all is computed again."""
    blocks: int = 0
    """Of a model whose blocks are split over `tensor` or `stage`: how many there are."""
    cut: float = 0.0
    """Bytes of what passes from block to block, an example."""
    moments: int = 2
    """Numbers that the optimizer keeps for each parameter."""


class Step(NamedTuple):
    """Seconds of a training step on each device, by what takes them."""

    compute: float
    memory: float
    data: float
    fsdp: float
    tensor: float
    stage: float
    """Idle, while a pipeline fills and drains."""

    @property
    def least(self) -> float:
        """All traffic is hidden behind the arithmetic, or the other way round."""
        work = self.compute + self.stage
        return max(work, self.memory, self.data + self.fsdp + self.tensor)

    @property
    def most(self) -> float:
        """Nothing is hidden but the traffic with memory."""
        work = max(self.compute, self.memory) + self.stage
        return work + self.data + self.fsdp + self.tensor

    @property
    def limit(self) -> str:
        """The slowest part of a step."""
        return max(self._asdict(), key=self._asdict().get)


def ring(bytes: float, devices: int, bandwidth: float) -> float:
    """Seconds to gather `bytes` on each of the devices, or to scatter their sum.

    Args:
        bytes: of the whole.
        devices: that hold equal parts.
        bandwidth: bytes/s out of one device.
    """
    # t = (n - 1) / n * V / W
    return (devices - 1) / devices * bytes / bandwidth


def step(
    work: Work,
    chip: Chip,
    batch_size: int,
    mesh: Mapping[str, int],
    *,
    micro_batches: int = 1,
    utilisation: float = 0.5,
    network: float | None = None,
) -> Step:
    """Seconds of a step.

    Args:
        work: of the network.
        chip: each device.
        batch_size: examples in a step, over all devices.
        mesh: axis to devices; what is not named is 1.
        micro_batches: that go through a pipeline.
        utilisation: fraction of the chip's peak that one alone reaches; `jaxdl bench` measures it.
        network: bytes/s out of a device along `data`, where that axis crosses hosts that no fast
            link joins; None: the chip's own links.

    Raises:
        UserError: the mesh has an axis that there is not.
    """
    for axis in mesh:
        if axis not in AXES:
            raise UserError(f"no axis '{axis}': there are {', '.join(AXES)}")
    data, fsdp, tensor, stage = (mesh.get(axis, 1) for axis in AXES)
    own = work.parameters / (tensor * stage)  # what a device computes with
    held = own / fsdp
    examples = batch_size / (data * fsdp)
    compute = work.flops * examples / (tensor * stage * chip.flops * utilisation)
    # Weights are read forwards and backwards; parameters, moments and gradients once, and written.
    memory = (2 * COMPUTE * own + 2 * GRADIENT * (2 + work.moments) * held) / chip.bandwidth
    links = chip.interconnect
    # An all-reduce scatters the sum, then gathers it.
    reduced = 2 * ring(GRADIENT * held, data, network or links)
    # Weights are gathered for each pass, gradients are scattered once.
    gathered = 2 * ring(COMPUTE * own, fsdp, links) + ring(GRADIENT * own, fsdp, links)
    # Two all-reduces a block and pass: after attention, and after the dense layers.
    crossing = 4 * work.blocks / stage * 2 * ring(work.cut * examples, tensor, links)
    # (S - 1) ticks of a micro-batch's time are idle.
    idle = compute * (stage - 1) / micro_batches
    return Step(compute, memory, reduced, gathered, crossing, idle)


def state_bytes(work: Work) -> int:
    """Of parameters and the optimizer's moments: what a checkpoint holds."""
    return GRADIENT * work.parameters * (1 + work.moments)


def checkpoint(work: Work, hosts: int, bandwidth: float, fixed: float = 0.0) -> float:
    """Seconds to write a checkpoint; training stands still only while the state is copied.

    Args:
        work: of the network.
        hosts: that write equal parts.
        bandwidth: bytes/s that one of them writes.
        fixed: seconds whatever the size.
    """
    return fixed + state_bytes(work) / hosts / bandwidth


def one_device() -> jax.sharding.Mesh:
    """A mesh that any config can be assembled for, to be looked at."""
    device = np.asarray(jax.devices()[:1]).reshape([1] * len(AXES))
    return jax.sharding.Mesh(device, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def work_of(plan: Plan) -> Work:
    """Work of the training step of an assembled config; shapes are traced, nothing is run."""
    state, spec = plan.abstract_state(0), plan.batch_spec(2)  # batch norms need more than one
    cuts: dict[tuple[str, ...], int] = {}

    def note(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        if context.module.name == STACKED and context.method_name == "__call__":
            cuts[context.module.path] = args[0].size
        return call(*args, **kwargs)

    def loss(*args: PyTree) -> Array:
        return plan.objective.loss(*args)[0]

    with nn.intercept_methods(note):
        total = flops(jax.grad(loss), state.params, state.all_variables, spec, state.key)
    stacked = [x for k, x in tree.flatten(state.params).items() if re.search(STAGED, k)]
    parameters = tree.count(state.params)
    return Work(
        parameters,
        flops=total / 2,
        blocks=max((x.shape[0] for x in stacked), default=0),
        cut=COMPUTE * max(cuts.values(), default=0) / 2,
        moments=round(tree.count(state.opt_state) / parameters),
    )


def table(
    work: Work, chip: Chip, devices: Sequence[int], batch_size: int, axes: Mapping[str, int],
    **known: Any,
) -> list[list[str]]:  # fmt: skip
    """Rows of text for a reader, the first with headings: each number of devices.

    Args:
        work: of the network.
        chip: each device.
        devices: numbers of them; the axis `data` takes what the others leave.
        batch_size: examples a device.
        axes: sizes of the axes but `data`.
        known: further arguments of `step`.

    Raises:
        UserError: a number of devices does not divide by the axes.
    """
    heads = ["devices", "batch", "step ms", "examples/s", "of ideal", "longest", "state a device"]
    rows, split = [heads], math.prod(axes.values())
    ideal = chip.flops * known.get("utilisation", 0.5) / work.flops
    for n in devices:
        if n % split:
            said = " x ".join(f"{axis} {size}" for axis, size in axes.items())
            raise UserError(f"{n} devices do not divide by {said}")
        mesh = {"data": n // split, **axes}
        found = step(work, chip, batch_size * n, mesh, **known)
        slow, fast = (batch_size * n / t for t in (found.most, found.least))
        held = state_bytes(work) / split
        rows.append(
            [
                f"{n:,}",
                f"{batch_size * n:,}",
                f"{1e3 * found.least:.4g} to {1e3 * found.most:.4g}",
                f"{slow:,.0f} to {fast:,.0f}",
                f"{slow / ideal / n:.0%} to {fast / ideal / n:.0%}",
                found.limit,
                in_words(int(held)),
            ]
        )
    return rows
