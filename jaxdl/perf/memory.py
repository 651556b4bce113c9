"""Memory estimate of a training step on each device, and changes that would make it fit.

Nothing is compiled: shapes are traced. What a compiler fuses away, and its own workspaces, are
not known here, so the figure of activations may be half or twice the truth.
"""

import contextlib
import dataclasses
import json
import math
import os
from collections.abc import Iterator
from typing import NamedTuple

import jax
from flax.errors import ScopeParamShapeError

from jaxdl import registry
from jaxdl.assemble import Plan, assemble
from jaxdl.config import Config, Part
from jaxdl.data.pipeline import Split
from jaxdl.errors import UserError
from jaxdl.train.sharding import batch_shards, placement
from jaxdl.types import Objective, PyTree


class Estimate(NamedTuple):
    """Bytes on each device while a step runs."""

    state: int
    """parameters, the optimizer's memory, averages"""
    gradients: int
    activations: int
    """what the forward pass keeps for the backward pass, of one micro-batch"""
    batch: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self)


class Remedy(NamedTuple):
    """A change of the config, and what it would take then."""

    change: str
    """As the command line says it; after two spaces, what else there is to know."""
    estimate: Estimate


SAME_NETWORK = ("accumulate", "batch", "sharding")
"""Kinds of remedies that leave what one example's activations take as it is."""


def estimate(config: Config, plan: Plan, each: float | None = None) -> Estimate:
    """Estimate the memory of a step of this config, from shapes alone.

    Args:
        config: of the run.
        plan: its objects.
        each: bytes of one example's activations, where they are known.
    """
    state = plan.abstract_state(config.seed)
    spec = plan.batch_spec(config.data.batch_size)
    if each is None:
        each = activation_bytes(plan.objective, state, spec)
    micro = config.data.batch_size / (batch_shards(plan.mesh) * config.gradient.accumulate)
    return Estimate(
        state=_bytes_each(state),
        gradients=_bytes_each(state.params),
        activations=math.ceil(micro * each),
        batch=_bytes_each(spec),
    )


def activation_bytes(objective: Objective, state: PyTree, spec: PyTree) -> float:
    """Bytes that one example's forward pass keeps for the backward pass."""

    main = next(s.shape[0] for s in spec.values() if not isinstance(s, dict))

    def kept(examples: int) -> int:
        def residuals(params: PyTree, variables: PyTree, batch: PyTree, key: jax.Array) -> PyTree:
            return jax.vjp(lambda p: objective.loss(p, variables, batch, key)[0], params)[1]

        # A further stream's part of the batch grows with it.
        size = lambda s: max(1, round(examples * s.shape[0] / main))
        resized = lambda s: jax.ShapeDtypeStruct((size(s), *s.shape[1:]), s.dtype)
        batch = jax.tree.map(resized, spec)
        shapes = jax.eval_shape(residuals, state.params, state.all_variables, batch, state.key)
        return sum(_size(leaf) for leaf in jax.tree.leaves(shapes))

    # Weights are kept too, however many examples there are: the difference leaves them out.
    return (kept(6) - kept(2)) / 4


def limit() -> int:
    """Bytes that one device has, or its part of the machine's memory."""
    device = jax.local_devices()[0]
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // jax.local_device_count()


def remedies(config: Config, plan: Plan, available: int) -> list[Remedy]:
    """Changes that would fit into `available` bytes a device, the least of each kind."""
    found: dict[str, Remedy] = {}
    state, spec = plan.abstract_state(config.seed), plan.batch_spec(config.data.batch_size)
    each = activation_bytes(plan.objective, state, spec)
    for kind, change, changed, splits in _changes(config, plan):
        if kind in found:
            continue
        try:
            known = each if kind in SAME_NETWORK else None
            remedy = Remedy(change, estimate(changed, assemble(changed, splits), known))
        except UserError:
            continue  # it does not divide over the devices, or the network is too deep for it
        if remedy.estimate.total <= available:
            found[kind] = remedy
    return list(found.values())


def _changes(config: Config, plan: Plan) -> Iterator[tuple[str, str, Config, dict[str, Split]]]:
    """(kind, change in words, config, its splits), from the mildest of each kind on."""
    replace, gradient = dataclasses.replace, config.gradient
    size, devices = config.data.batch_size, batch_shards(plan.mesh)
    on_cpu = jax.default_backend() == "cpu"
    for n in _powers(size // (devices * gradient.accumulate)):
        n *= gradient.accumulate
        changed = replace(config, gradient=replace(gradient, accumulate=n))
        yield "accumulate", f"--config.gradient.accumulate={n}", changed, plan.splits
    for policy in {None: ("products", "blocks"), "products": ("blocks",)}.get(gradient.remat, ()):
        changed = replace(config, gradient=replace(gradient, remat=policy))
        yield "remat", f"--config.gradient.remat={policy}", changed, plan.splits
    if config.precision.name == "float32" or (config.precision.name == "auto" and on_cpu):
        changed = replace(config, precision=Part("bfloat16"))
        yield "precision", "--config.precision=bfloat16", changed, plan.splits
    for n in _powers(size // devices):
        changed = replace(config, data=replace(config.data, batch_size=size // n))
        change = f"--config.data.batch_size={size // n}  (another gradient: scale the rate with it)"
        yield "batch", change, changed, plan.splits
    if devices > 1 and config.mesh.fsdp == 1:
        changed = replace(config, mesh=replace(config.mesh, data=1, fsdp=devices))
        change = f"--config.mesh.data=1 --config.mesh.fsdp={devices}"
        yield "sharding", change, changed, plan.splits
    yield from _smaller_images(config, plan.splits)


def _smaller_images(
    config: Config, splits: dict[str, Split]
) -> Iterator[tuple[str, str, Config, dict[str, Split]]]:
    """Images of three quarters, and of half the side, from a source that can be asked for them."""
    source, spec = config.data.source, splits["train"].element_spec
    takes = registry.find("sources", source.name).arguments()
    key = next((k for k in ("image_size", "size") if k in takes), None)
    if key is None or "image" not in spec:
        return
    height, width, channels = spec["image"].shape
    for scale in (0.75, 0.5):
        side = int(scale * min(height, width))
        value = [side, side, channels] if isinstance(takes[key].default, tuple) else side
        changed = Part(source.name, {**source.args, key: value})
        change = f"--config.data.source.{key}={json.dumps(value, separators=(',', ':'))}"
        if side:
            yield (
                "image",
                change,
                dataclasses.replace(config, data=dataclasses.replace(config.data, source=changed)),
                {role: _resized(split, side) for role, split in splits.items()},
            )


def _resized(split: Split, side: int) -> Split:
    """A split as it would be with square images of this side, and maps of labels like them."""
    if "image" not in split.element_spec:
        return split  # of another stream
    area = split.element_spec["image"].shape[:2]
    fit = lambda s: (side, side, *s.shape[2:]) if s.shape[:2] == area else s.shape
    spec = {k: jax.ShapeDtypeStruct(fit(s), s.dtype) for k, s in split.element_spec.items()}
    return dataclasses.replace(split, arrays=None, element_spec=spec)


def advice(config: Config, plan: Plan, available: int) -> str:
    """Report a step's memory, the device's, and changes that would fit, in a few lines."""
    needed = estimate(config, plan)
    parts = "  ".join(f"{k} {in_words(v)}" for k, v in needed._asdict().items())
    lines = [
        f"a step needs about {in_words(needed.total)} on each device, of {in_words(available)}",
        f"  {parts}",
    ]
    found = remedies(config, plan, available) if needed.total > available else []
    if found:
        lines += ["any of these would fit, by the same estimate:"]
        width = max(len(r.change) for r in found)
        lines += [f"  {r.change:<{width}}  {in_words(r.estimate.total)}" for r in found]
    elif needed.total > available:
        lines.append(
            "no single change would fit: combine them, or take a smaller model or more devices"
        )
    return "\n".join(lines)


def placed(state: PyTree) -> list[str]:
    """Report how the leaves of a state are split, and what each device holds: lines for a reader.

    Args:
        state: of arrays or sharded shapes.
    """
    rows = placement(state)
    whole, each = (sum(getattr(row, field) for row in rows) for field in ("bytes", "bytes_each"))
    lines = [f"{in_words(each)} on each device, of {in_words(whole)}"]
    width = max(len(row.split) for row in rows)
    for row in rows:
        held = f"{in_words(row.bytes_each)} of {in_words(row.bytes)}"
        leaves = f"{row.leaves} leaves" if row.leaves > 1 else "1 leaf"
        lines.append(f"{row.split:<{width}}  {leaves:>10}  {held:<24}  {row.example}")
    return lines


def ran_out(error: jax.errors.JaxRuntimeError) -> bool:
    """True if an error says that a device is out of memory."""
    return "RESOURCE_EXHAUSTED" in str(error)


@contextlib.contextmanager
def explained(config: Config, plan: Plan) -> Iterator[None]:
    """Turn two failures of a program into a `UserError`: no memory, and a stream that does not fit.

    Of memory it says what would take less.
    """
    try:
        yield
    except ScopeParamShapeError as error:
        if not config.data.streams:
            raise
        shapes = {name: s.split.element_spec.get("image") for name, s in plan.streams.items()}
        listed = [f"{name or 'main'} {s.shape}" for name, s in shapes.items() if s is not None]
        raise UserError(
            "config.data.streams: the network does not take the images of every stream, "
            f"{', '.join(listed)}: give them one size and as many channels"
        ) from error
    except jax.errors.JaxRuntimeError as error:
        if not ran_out(error):
            raise
        # Where the estimate would have fitted, it was too low: less than it is what is asked for.
        available = min(limit(), estimate(config, plan).total - 1)
        raise UserError(f"out of memory: {advice(config, plan, available)}") from error


def in_words(size: int) -> str:
    """Bytes, for a reader: '1.20 GiB', '3.4 MiB', '5.6 KiB'."""
    if size >= 2**30:
        return f"{size / 2**30:.2f} GiB"
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size / 2**10:.1f} KiB"


def _powers(most: int) -> Iterator[int]:
    n = 2
    while n <= most:
        yield n
        n *= 2


def _size(leaf: jax.ShapeDtypeStruct) -> int:
    return math.prod(leaf.shape) * leaf.dtype.itemsize


def _bytes_each(shapes: PyTree) -> int:
    """Bytes of a tree of sharded shapes on one device."""
    own = lambda s: jax.ShapeDtypeStruct(s.sharding.shard_shape(s.shape), s.dtype)
    return sum(_size(own(s)) for s in jax.tree.leaves(shapes))
