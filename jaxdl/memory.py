"""How much memory a step of training will take on each device, and what would make it fit.

Nothing is compiled: shapes are traced. What a compiler fuses away, and its own workspaces, are
not known here, so the figure of activations may be half or twice the truth.
"""

import dataclasses
import math
import os
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdl.assemble import Plan, assemble
from jaxdl.config import Config, Part
from jaxdl.errors import UserError
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
    """A change of the config, as the command line would say it, and what it would take then."""

    change: str
    estimate: Estimate


def estimate(config: Config, plan: Plan) -> Estimate:
    """What a step of this config would take, from shapes alone."""
    state = plan.abstract_state(config.seed)
    spec = plan.batch_spec(config.data.batch_size)
    micro = config.data.batch_size / (plan.mesh.size * config.gradient.accumulate)
    return Estimate(
        state=_bytes_each(state),
        gradients=_bytes_each(state.params),
        activations=math.ceil(micro * activation_bytes(plan.objective, state, spec)),
        batch=_bytes_each(spec),
    )


def activation_bytes(objective: Objective, state: PyTree, spec: PyTree) -> float:
    """Bytes that one example's forward pass keeps for the backward pass."""

    def kept(examples: int) -> int:
        def residuals(params: PyTree, variables: PyTree, batch: PyTree, key: jax.Array) -> PyTree:
            return jax.vjp(lambda p: objective.loss(p, variables, batch, key)[0], params)[1]

        resized = lambda s: jax.ShapeDtypeStruct((examples, *s.shape[1:]), s.dtype)
        batch = {k: resized(s) for k, s in spec.items()}
        shapes = jax.eval_shape(residuals, state.params, state.variables, batch, state.key)
        return sum(_size(leaf) for leaf in jax.tree.leaves(shapes))

    # Weights are kept too, however many examples there are: the difference leaves them out.
    return (kept(6) - kept(2)) / 4


def limit() -> int:
    """Bytes that one device has, or its share of the machine's memory."""
    device = jax.local_devices()[0]
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // jax.local_device_count()


def remedies(config: Config, plan: Plan, available: int) -> list[Remedy]:
    """Changes that would fit into `available` bytes a device, the least of each kind."""
    found: dict[str, Remedy] = {}
    for kind, change, changed in _changes(config, plan):
        if kind in found:
            continue
        try:
            other = assemble(changed, plan.splits if changed.data == config.data else None)
        except UserError:
            continue  # it does not divide over the devices, or the network is too deep for it
        remedy = Remedy(change, estimate(changed, other))
        if remedy.estimate.total <= available:
            found[kind] = remedy
    return list(found.values())


def _changes(config: Config, plan: Plan) -> Iterator[tuple[str, str, Config]]:
    """(kind, change in words, config), from the mildest of each kind on."""
    replace, gradient = dataclasses.replace, config.gradient
    size, devices = config.data.batch_size, plan.mesh.size
    on_cpu = jax.default_backend() == "cpu"
    for n in _powers(size // (devices * gradient.accumulate)):
        n *= gradient.accumulate
        yield (
            "accumulate",
            f"--config.gradient.accumulate={n}",
            replace(config, gradient=replace(gradient, accumulate=n)),
        )
    if gradient.remat is None:
        for policy in ("products", "blocks"):
            yield (
                "remat",
                f"--config.gradient.remat={policy}",
                replace(config, gradient=replace(gradient, remat=policy)),
            )
    if config.precision.name == "float32" or (config.precision.name == "auto" and on_cpu):
        bfloat16 = Part("bfloat16", config.precision.args)
        yield "precision", "--config.precision=bfloat16", replace(config, precision=bfloat16)
    for n in _powers(size // devices):
        data = replace(config.data, batch_size=size // n)
        change = f"--config.data.batch_size={size // n}  (another gradient: scale the rate with it)"
        yield "batch", change, replace(config, data=data)
    if devices > 1 and config.mesh.fsdp == 1:
        mesh = replace(config.mesh, data=1, fsdp=devices)
        change = f"--config.mesh.data=1 --config.mesh.fsdp={devices}"
        yield "sharding", change, replace(config, mesh=mesh)
    for key in ("image_size", "size"):
        pixels = config.data.source.args.get(key)
        for share in (0.75, 0.5) if isinstance(pixels, int) else ():
            args = {**config.data.source.args, key: int(pixels * share)}
            data = replace(config.data, source=Part(config.data.source.name, args))
            change = f"--config.data.source.{key}={args[key]}"
            yield "image", change, replace(config, data=data)


def advice(config: Config, plan: Plan, available: int) -> str:
    """What a step takes, what there is, and which changes would fit: a few lines for a reader."""
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


def in_words(size: int) -> str:
    """Bytes, for a reader: '1.2 GiB'."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def _powers(most: int) -> Iterator[int]:
    n = 2
    while n <= most:
        yield n
        n *= 2


def _size(leaf: jax.ShapeDtypeStruct) -> int:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return 8 * math.prod(leaf.shape)
    return math.prod(leaf.shape) * leaf.dtype.itemsize


def _bytes_each(shapes: PyTree) -> int:
    """Bytes of a tree of sharded shapes on one device."""
    own = lambda s: jax.ShapeDtypeStruct(s.sharding.shard_shape(s.shape), s.dtype)
    return sum(_size(own(s)) for s in jax.tree.leaves(shapes))
