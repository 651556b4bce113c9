"""Who holds what: one mesh with named axes, batches split over it, parameters placed by rules.

ZeRO: Memory Optimizations Toward Training Trillion Parameter Models. Rajbhandari et al. 2019.
https://arxiv.org/abs/1910.02054 (its third stage is what the `fsdp` axis does)
"""

import math
import re
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxdl.errors import UserError, choices
from jaxdl.tree import path_name
from jaxdl.types import PyTree

Rules = Sequence[tuple[str, Sequence[str | None]]]

AXES = ("data", "fsdp")

# Smaller leaves stay whole: gathering them costs more than they weigh.
SHARD_FROM = 2**14


def make_mesh(data: int = -1, fsdp: int = 1) -> Mesh:
    """All devices on the axes ('data', 'fsdp'); one of the two sizes may be -1, what is left."""
    devices, sizes = jax.device_count(), [data, fsdp]
    fixed = math.prod(s for s in sizes if s != -1)
    if sizes.count(-1) > 1 or any(s < 1 and s != -1 for s in sizes):
        raise UserError(f"mesh {data} x {fsdp}: sizes are positive, and one at most is -1")
    if -1 in sizes:
        sizes[sizes.index(-1)] = max(1, devices // fixed)
    if math.prod(sizes) != devices:
        named = " x ".join(f"{a} {s}" for a, s in zip(AXES, sizes, strict=True))
        raise UserError(f"mesh {named} does not use the {devices} devices there are")
    # make_mesh defaults to explicit axes, under which Linen's Dropout fails.
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(sizes))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Leading axis over every device."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def _automatic(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """Split the longest dimension that divides over `fsdp`; leave small leaves whole."""
    size = mesh.shape["fsdp"]
    if size == 1 or math.prod(shape) < SHARD_FROM:
        return PartitionSpec()
    fitting = [i for i, n in enumerate(shape) if n % size == 0]
    if not fitting:
        return PartitionSpec()
    longest = max(fitting, key=lambda i: shape[i])
    return PartitionSpec(*("fsdp" if i == longest else None for i in range(len(shape))))


def _fits(spec: Sequence[str | None], shape: tuple[int, ...], mesh: Mesh) -> bool:
    return len(spec) == len(shape) and all(
        axis is None or n % mesh.shape[axis] == 0 for axis, n in zip(spec, shape, strict=True)
    )


def tree_shardings(shapes: PyTree, mesh: Mesh, rules: Rules = ()) -> PyTree:
    """A NamedSharding for every leaf of a tree of shapes.

    Args:
        shapes: anything with leaves that have a shape, such as a whole TrainState.
        mesh: the devices.
        rules: ordered (regex, one axis name or None a dimension). The first regex found in a
            leaf's path decides, so that a parameter's optimizer moments follow it; where the
            rank differs or a size does not divide (factored moments), and where none matches,
            the automatic rule holds.
    """
    compiled = [(re.compile(pattern), tuple(spec)) for pattern, spec in rules]
    for pattern, spec in rules:
        for axis in filter(None, spec):
            if axis not in AXES:
                hint = choices(axis, AXES)
                raise UserError(f"mesh rule '{pattern}': unknown axis '{axis}', {hint}")

    matched = set()

    def place(path, leaf) -> NamedSharding:
        name = path_name(path)
        for i, (regex, spec) in enumerate(compiled):
            if regex.search(name):
                matched.add(i)
                if _fits(spec, leaf.shape, mesh):
                    return NamedSharding(mesh, PartitionSpec(*spec))
                break
        return NamedSharding(mesh, _automatic(leaf.shape, mesh))

    placed = jax.tree_util.tree_map_with_path(place, shapes)
    for i, (regex, _) in enumerate(compiled):
        if i not in matched:
            raise UserError(f"mesh rule '{regex.pattern}' matches no parameter")
    return placed


def fetch(tree: PyTree) -> PyTree:
    """Device arrays as NumPy arrays, on every process; over several, they must be replicated."""

    def one(x: jax.Array) -> np.ndarray:
        if x.is_fully_addressable:
            return np.asarray(x)
        assert x.is_fully_replicated, f"no process holds all of {x.shape} under {x.sharding}"
        return np.asarray(x.addressable_data(0))

    return jax.tree.map(one, tree)
