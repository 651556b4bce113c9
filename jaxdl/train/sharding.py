"""Sharding: a mesh with named axes; batches are split over it, parameters placed by rules.

- `data` splits batches.
- `fsdp` splits batches, and parameters with all that follows them, which are gathered where they
  are used. ZeRO: Memory Optimizations Toward Training Trillion Parameter Models. Rajbhandari et al.
  2019. https://arxiv.org/abs/1910.02054 (its third stage)
- `tensor` splits layers: each device computes a part of each product.
- `stage` splits the blocks of a network, through which micro-batches go in turn.
"""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxdl.corrections import Correction, setting
from jaxdl.errors import UserError, choices
from jaxdl.tree import expression, path_name
from jaxdl.types import PyTree

Rules = Sequence[tuple[str, Sequence[str | None]]]
"""(regular expression on paths, an axis or None for each of the last dimensions), in order."""

AXES = ("data", "fsdp", "tensor", "stage")
OF_BATCHES = ("data", "fsdp")

# Smaller leaves stay whole: gathering them costs more than they weigh.
SHARD_FROM = 2**14


class Layout(NamedTuple):
    """Layout of a network's own layers, where a mesh has the axes for it."""

    rules: Rules = ()
    stacked: str | None = None
    """Regular expression on paths whose first dimension goes over the stages."""


def _dividing(devices: int, data: int, **sizes: int) -> Correction:
    """Sizes of axes that divide the devices; `data` takes what is left."""
    changed, left = {} if data == -1 else {"data": -1}, devices
    for axis, size in sizes.items():
        fitting = math.gcd(max(size, 1), left)
        left //= fitting
        changed |= {axis: fitting} if fitting != size else {}

    def correct(typed: Sequence[str]) -> list[str] | None:
        proposed = list(typed)
        for axis, size in changed.items():
            proposed = setting(f"config.mesh.{axis}", size)(proposed) or proposed
        return proposed

    return correct


def make_mesh(data: int = -1, fsdp: int = 1, tensor: int = 1, stage: int = 1) -> Mesh:
    """All devices on the axes of `AXES`; one of the sizes may be -1, what is left."""
    devices, sizes = jax.device_count(), [data, fsdp, tensor, stage]
    named = " x ".join(f"{a} {s}" for a, s in zip(AXES, sizes, strict=True) if s != 1)
    fixed = math.prod(s for s in sizes if s != -1)
    if sizes.count(-1) > 1 or any(s < 1 and s != -1 for s in sizes):
        raise UserError(f"mesh {named}: sizes are positive, and one at most is -1")
    if -1 in sizes:
        sizes[sizes.index(-1)] = max(1, devices // fixed)
    if math.prod(sizes) != devices:
        message = f"mesh {named or 'of 1'} does not use the {devices} devices there are"
        raise UserError(
            message, _dividing(devices, data=data, fsdp=fsdp, tensor=tensor, stage=stage)
        )
    # make_mesh defaults to explicit axes, under which Linen's Dropout fails.
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(sizes))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Leading axis over the axes that split batches, a whole copy along the others."""
    return NamedSharding(mesh, PartitionSpec(OF_BATCHES))


def batch_shards(mesh: Mesh) -> int:
    """Number of parts that a batch is split into."""
    return math.prod(mesh.shape[axis] for axis in OF_BATCHES)


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def _aligned(spec: Sequence[str | None], rank: int) -> list[str | None] | None:
    """One axis a dimension, the last ones given; None where there are too few dimensions."""
    return [None] * (rank - len(spec)) + list(spec) if len(spec) <= rank else None


def _undivided(spec: Sequence[str | None], shape: tuple[int, ...], mesh: Mesh) -> int | None:
    """The first dimension that does not divide over its axis."""
    return next(
        (i for i, (a, n) in enumerate(zip(spec, shape, strict=True)) if a and n % mesh.shape[a]),
        None,
    )


def _automatic(name: str, shape: tuple[int, ...], mesh: Mesh, layout: Layout) -> PartitionSpec:
    """The network's own layout, then the longest dimension that is left over `fsdp`."""
    spec: list[str | None] = [None] * len(shape)
    if layout.stacked and re.search(layout.stacked, name) and shape[:1] != ():
        spec[0] = (
            "stage" if mesh.shape["stage"] > 1 and not shape[0] % mesh.shape["stage"] else None
        )
    if mesh.shape["tensor"] > 1:
        given = next((s for pattern, s in layout.rules if re.search(pattern, name)), ())
        given = _aligned(given, len(shape))
        if given and _undivided(given, shape, mesh) is None:
            spec = [own or axis for own, axis in zip(spec, given, strict=True)]
    size = mesh.shape["fsdp"]
    if size > 1 and math.prod(shape) >= SHARD_FROM:
        fitting = [i for i, n in enumerate(shape) if spec[i] is None and n % size == 0]
        if fitting:
            spec[max(fitting, key=lambda i: shape[i])] = "fsdp"
    while spec and spec[-1] is None:
        spec.pop()
    return PartitionSpec(*spec)


def tree_shardings(
    shapes: PyTree,
    mesh: Mesh,
    rules: Rules = (),
    layout: Layout = Layout(),  # noqa: B008, immutable
) -> PyTree:
    """A NamedSharding for every leaf of a tree of shapes.

    Args:
        shapes: anything with leaves that have a shape, such as a whole TrainState.
        mesh: the devices.
        rules: the first regex found in a leaf's path decides, so that a parameter's optimizer
            moments follow it. Where none matches, and for leaves that are no parameters and have
            too few dimensions or sizes that do not divide (factored moments), the automatic
            placement holds: the layout, then `fsdp` on the longest dimension that is left.
        layout: of the network's own layers.

    Raises:
        UserError: a rule is not a regular expression, names an unknown axis, matches nothing, or
            does not fit a parameter.
    """
    compiled = [(expression("config.mesh.rules", p), tuple(spec)) for p, spec in rules]
    for pattern, spec in rules:
        for axis in filter(None, spec):
            if axis not in AXES:
                hint = choices(axis, AXES)
                raise UserError(f"mesh rule '{pattern}': unknown axis '{axis}', {hint}")
        if len(set(filter(None, spec))) < sum(axis is not None for axis in spec):
            raise UserError(f"mesh rule '{pattern}': an axis splits one dimension, not two")

    matched = set()

    def place(path, leaf) -> NamedSharding:
        name = path_name(path)
        for i, (regex, given) in enumerate(compiled):
            if regex.search(name):
                matched.add(i)
                spec = _aligned(given, len(leaf.shape))
                wrong = None if spec is None else _undivided(spec, leaf.shape, mesh)
                if spec is not None and wrong is None:
                    return NamedSharding(mesh, PartitionSpec(*spec))
                if name.startswith("params/"):
                    raise UserError(_misfit(regex.pattern, given, name, leaf.shape, mesh, wrong))
                break
        return NamedSharding(mesh, _automatic(name, leaf.shape, mesh, layout))

    placed = jax.tree_util.tree_map_with_path(place, shapes)
    for i, (regex, _) in enumerate(compiled):
        if i not in matched:
            raise UserError(f"mesh rule '{regex.pattern}' matches no parameter")
    return placed


def _misfit(
    pattern: str,
    spec: tuple[str | None, ...],
    name: str,
    shape: tuple[int, ...],
    mesh: Mesh,
    wrong: int | None,
) -> str:
    said = f"mesh rule '{pattern}' does not fit {name} {list(shape)}: "
    if wrong is None:
        return said + f"it speaks of {len(spec)} dimensions"
    axis = _aligned(spec, len(shape))[wrong]
    return said + f"{shape[wrong]} does not divide over {axis} {mesh.shape[axis]}"


class Placed(NamedTuple):
    """Leaves that are split alike."""

    split: str
    """The dimensions that are split, each by which axis, such as '1 by tensor'; 'whole' if none"""
    leaves: int
    bytes: int
    """of all of them, once"""
    bytes_each: int
    """on each device"""
    example: str
    """the largest of them"""


def placement(state: PyTree) -> list[Placed]:
    """Placement of the leaves of a tree of arrays or sharded shapes, the heaviest first."""
    found: dict[str, list[tuple[int, int, str]]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        spec = [a for a in enumerate(leaf.sharding.spec) if a[1] and _splits(a[1], leaf)]
        split = ", ".join(f"{i} by {axis}" for i, axis in spec) or "whole"
        each = math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        whole = math.prod(leaf.shape) * leaf.dtype.itemsize
        found.setdefault(split, []).append((whole, each, path_name(path)))
    rows = [
        Placed(split, len(own), sum(w for w, *_ in own), sum(e for _, e, _ in own), max(own)[2])
        for split, own in found.items()
    ]
    return sorted(rows, key=lambda row: -row.bytes)


def _splits(axis: str, leaf: jax.ShapeDtypeStruct) -> bool:
    return leaf.sharding.mesh.shape[axis] > 1


def fetch(tree: PyTree) -> PyTree:
    """Device arrays as NumPy arrays, on every process; over several, they must be replicated."""

    def one(x: jax.Array | np.ndarray) -> np.ndarray:
        if not isinstance(x, jax.Array) or x.is_fully_addressable:
            return np.asarray(x)
        assert x.is_fully_replicated, f"no process holds all of {x.shape} under {x.sharding}"
        return np.asarray(x.addressable_data(0))

    return jax.tree.map(one, tree)
