"""Checkpoints: Orbax writes and reads them; a digest of every leaf says whether to believe them.

Orbax restores a flipped byte without complaint, so each leaf's digest is saved beside the state
and compared after restoring. The digest is computed on the devices, and is the same however a
leaf is sharded.
"""

import logging
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from jaxdl import tree
from jaxdl.errors import UserError
from jaxdl.train.sharding import fetch
from jaxdl.train.state import TrainState
from jaxdl.types import Array, PyTree


class Restored(NamedTuple):
    """What a checkpoint holds: the state and the JSON that was saved beside it."""

    state: TrainState
    extra: dict[str, Any]


class Checkpoints:
    """The checkpoints of a run: the newest ones and the best, side by side.

    Args:
        folder: where they live; made if absent.
        keep_latest: how many of the newest stay.
        keep_best: how many of the best by the monitored metric stay.
        mode: whether 'max' or 'min' of the metric is best.
    """

    def __init__(
        self, folder: Path, *, keep_latest: int = 2, keep_best: int = 1, mode: str = "max"
    ):
        # Its warnings about damaged folders would repeat what this class says.
        logging.getLogger("absl").setLevel(logging.ERROR)
        sign = 1.0 if mode == "max" else -1.0
        # max_to_keep with best_fn would delete the newest step.
        keep = policies.AnyPreservationPolicy(
            [
                policies.LatestN(n=keep_latest),
                policies.BestN(
                    get_metric_fn=lambda m: sign * m["monitor"],
                    n=keep_best,
                    keep_checkpoints_without_metrics=False,
                ),
            ]
        )
        self._folder = folder.absolute()
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=keep, cleanup_tmp_directories=True
            ),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Wait for what is being written."""
        self._manager.wait_until_finished()
        self._manager.close()

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, ascending; waits for the one being written."""
        self._manager.wait_until_finished()
        return sorted(self._manager.all_steps(read=True))

    def save(
        self, step: int, state: TrainState, metric: float | None, extra: Mapping[str, Any]
    ) -> None:
        """Begin to write a checkpoint; returns once the state may be donated.

        Args:
            step: its name.
            state: copied before this returns.
            metric: the monitored metric at this step, or None where it was not measured.
            extra: anything JSON can say.
        """
        meta = {"digests": digests(state), "extra": dict(extra)}
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)
            ),
            metrics=None if metric is None or math.isnan(metric) else {"monitor": float(metric)},
        )

    def restore(self, step: int, like: TrainState) -> Restored:
        """The checkpoint of one step, checked leaf by leaf.

        Args:
            step: one of `steps()`.
            like: shapes, types and shardings to restore to; any mesh will do.

        Raises:
            UserError: it cannot be read, or a leaf is not what was saved; names both.
        """
        try:
            found = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(like), meta=ocp.args.JsonRestore()
                ),
            )
            state, meta = found["state"], found["meta"]
            wanted = meta["digests"]
        except Exception as error:  # Orbax raises many kinds for damaged files
            reason = " ".join(str(error).split())[:160]
            raise UserError(
                f"checkpoint {self._folder / str(step)} cannot be read: "
                f"{type(error).__name__}: {reason}"
            ) from error
        damaged = [name for name, digest in digests(state).items() if wanted.get(name) != digest]
        if damaged:
            raise UserError(
                f"checkpoint {self._folder / str(step)} is damaged: "
                f"{len(damaged)} of {len(wanted)} leaves differ from what was saved, "
                f"the first is {damaged[0]}"
            )
        return Restored(state, meta["extra"])

    def restore_newest(self, like: TrainState) -> Restored | None:
        """The newest sound checkpoint, or None where there is none yet.

        Damaged ones are warned about and deleted, so that the steps are saved anew.

        Raises:
            UserError: there are checkpoints, and not one of them can be used.
        """
        errors = []
        for step in reversed(self.steps()):
            try:
                restored = self.restore(step, like)
            except UserError as error:
                errors.append((step, str(error)))
                continue
            for bad, message in errors:
                warnings.warn(f"{message}; using step {step} instead", stacklevel=2)
                self._manager.delete(bad)
            return restored
        if errors:
            raise UserError(
                f"{errors[0][1]}; no older one is sound: move {self._folder} away to start again"
            )
        return None


def digests(state: PyTree) -> dict[str, str]:
    """Leaf name to 64 bits of its type, shape and contents, in hexadecimal."""
    sums = fetch(_sums(jax.tree.map(_raw, state)))
    shapes = jax.tree.map(lambda x: f"{x.dtype}{list(x.shape)}", state)
    return {
        name: f"{shapes_of}:{high:08x}{low:08x}"
        for (name, shapes_of), (high, low) in zip(
            tree.flatten(shapes).items(), tree.flatten(sums).values(), strict=True
        )
    }


def _raw(x: Array) -> Array:
    return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x


@jax.jit
def _sums(state: PyTree) -> PyTree:
    return jax.tree.map(_digest, state)


def _digest(x: Array) -> Array:
    """Two sums over the elements' bits, each times an odd number that depends on its place.

    An odd factor is invertible modulo 2^32, so one changed element always changes the sums; two
    exchanged ones meet different factors. Integer sums are exact in any order, hence any sharding.
    """
    bits = _bits(x).reshape(-1)
    place = jax.lax.iota(jnp.uint32, bits.size)
    factors = [_mix(place ^ jnp.uint32(seed)) | jnp.uint32(1) for seed in (0x9E3779B9, 0x7F4A7C15)]
    return jnp.stack([jnp.sum(bits * f, dtype=jnp.uint32) for f in factors])


def _bits(x: Array) -> Array:
    if x.dtype == jnp.bool_:
        return x.astype(jnp.uint32)
    unsigned = jnp.dtype(f"uint{8 * x.dtype.itemsize}")
    return jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)


def _mix(x: Array) -> Array:
    """A finaliser of MurmurHash3: every bit of the place reaches every bit of the factor."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
