"""Batches of a split, on the devices.

A small split lives decoded in memory, or on the accelerator, and is indexed; a large one is read
at random by Grain. The bits are the same either way, whatever the number of threads or processes.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from jaxdl.data.fingerprint import Fingerprint
from jaxdl.data.prefetch import Batches
from jaxdl.data.sampler import Order, Sampler, shuffle, train_indices
from jaxdl.data.split import Split, open_split
from jaxdl.data.streams import MAIN, TrainStream, joined
from jaxdl.errors import UserError

__all__ = ["Split", "evaluation_batches", "open_split", "train_batches", "train_indices"]

Placement = Literal["auto", "host", "device"]


def train_batches(
    split: Split,
    *,
    batch_size: int,
    seed: int,
    start: int,
    stop: int,
    sharding: Sharding,
    prefetch: int = 2,
    threads: int = 2,
    device_memory: int = 0,
    placement: Placement = "auto",
    sampler: Sampler = shuffle,
) -> Batches:
    """Training batches `start` to `stop` - 1 in the order of a sampler.

    Args:
        split: the examples.
        batch_size: examples in a batch, over all processes.
        seed: of the order.
        start: number of the first batch: the step that a run is at.
        stop: number after that of the last batch.
        sharding: of the leading axis, over all processes.
        prefetch: batches made ahead.
        threads: readers of a split that is not in memory; 0 reads in the prefetching thread.
        device_memory: bytes; a smaller split in memory is kept on every GPU or TPU and gathered
            there.
        placement: 'device' and 'host' overrule what `device_memory` decides.
        sampler: (number of examples, batch size, seed) -> t -> rows of batch t.

    Returns:
        An iterator over dicts of global arrays with leading axis `batch_size`.
    """
    return stream_batches(
        {MAIN: TrainStream(split, sampler, batch_size)},
        seed=seed,
        start=start,
        stop=stop,
        sharding=sharding,
        prefetch=prefetch,
        threads=threads,
        device_memory=device_memory,
        placement=placement,
    )


def stream_batches(
    streams: Mapping[str, TrainStream],
    *,
    seed: int,
    start: int,
    stop: int,
    sharding: Sharding,
    prefetch: int = 2,
    threads: int = 2,
    device_memory: int = 0,
    placement: Placement = "auto",
) -> Batches:
    """Training batches of several streams: those of the others stand in the main one's by name.

    Arguments are those of `train_batches`; `device_memory` is for all streams together.
    """
    rows = {name: local_rows(sharding, s.batch_size) for name, s in streams.items()}
    orders = {name: s.order(seed, name) for name, s in streams.items()}
    picks = {}
    for name, stream in streams.items():
        if _on_device(stream.split, sharding, device_memory, placement):
            picks[name] = _gather(stream.split, sharding)
            device_memory -= stream.split.nbytes

    def read(t: int) -> dict[str, dict[str, np.ndarray]]:
        parts = {}
        for name, stream in streams.items():
            index = orders[name](t)[rows[name]]
            here = name in picks
            parts[name] = (
                {"index": index.astype(np.int32)} if here else stream.split.examples(index)
            )
        return parts

    def put(parts: dict[str, dict[str, np.ndarray]]) -> dict[str, dict[str, jax.Array]]:
        return {k: _put(part, streams[k].batch_size, sharding) for k, part in parts.items()}

    def finish(parts: dict[str, dict[str, jax.Array]]) -> dict[str, Any]:
        return joined({k: picks[k](part) if k in picks else part for k, part in parts.items()})

    reads_disk = any(not s.split.in_memory for s in streams.values())
    host = _in_order(read, range(start, stop), reads_disk, prefetch, threads)
    return Batches((put(parts) for parts in host), prefetch, finish)


def evaluation_batches(
    split: Split,
    *,
    batch_size: int,
    sharding: Sharding,
    prefetch: int = 2,
    threads: int = 2,
    examples: int | None = None,
    fingerprint: Fingerprint | None = None,
    order: Order | None = None,
) -> Batches:
    """The whole split in order, once; every process gets the same number of batches.

    With `examples`, only so many of them, evenly spread over the split. With an `order`, its first
    batches, as many as the split fills: then an example may come often or never.

    The last batch is filled up with example 0. Each batch has a `mask` (b,) float32: 1 for an
    example, 0 for filling; with a `fingerprint`, which takes in the examples that this process is
    the first to supply, also `index` (b,) int32, their numbers. Other arguments are those of
    `train_batches`.
    """
    rows, n = local_rows(sharding, batch_size), min(len(split), examples or len(split))
    steps = range(-(-n // batch_size))
    mine = _supplier(sharding, batch_size)[rows] == jax.process_index() if fingerprint else None

    def indices(t: int) -> np.ndarray:
        if order:
            return order(t)[rows]
        positions = t * batch_size + rows
        return np.where(positions < n, positions * len(split) // n, 0)

    def masked() -> Iterator[dict[str, jax.Array]]:
        read = lambda t: split.examples(indices(t))
        host = _in_order(read, steps, not split.in_memory, prefetch, threads)
        for t, batch in zip(steps, host, strict=True):
            valid = (t * batch_size + rows < n) | bool(order)
            if fingerprint:
                counted = np.flatnonzero(valid & mine)
                some = {name: array[counted] for name, array in batch.items()}
                fingerprint.add(indices(t)[counted], some)
                batch["index"] = indices(t).astype(np.int32)
            batch["mask"] = valid.astype(np.float32)
            yield _put(batch, batch_size, sharding)

    return Batches(masked(), prefetch)


def local_rows(sharding: Sharding, batch_size: int) -> np.ndarray:
    """Rows of a global batch that this process supplies, ascending, (k,) int64.

    They follow from where the mesh puts this process's devices, which need not be by rank.
    """
    try:
        places = sharding.addressable_devices_indices_map((batch_size,))
    except ValueError as error:
        raise UserError(
            f"batch size {batch_size} cannot be divided evenly over {sharding.num_devices} devices"
        ) from error
    every_row = np.arange(batch_size)
    return np.unique(np.concatenate([every_row[index] for index in places.values()]))


def _supplier(sharding: Sharding, batch_size: int) -> np.ndarray:
    """The first process that supplies each row of a global batch, (batch_size,)."""
    first = np.empty(batch_size, np.int64)
    places = sharding.devices_indices_map((batch_size,))
    for device in sorted(places, key=lambda d: -d.process_index):
        first[places[device]] = device.process_index
    return first


def _put(batch: dict[str, np.ndarray], batch_size: int, sharding: Sharding) -> dict[str, jax.Array]:
    """Global arrays of which this process supplies the rows in `batch`."""
    return {
        name: jax.make_array_from_process_local_data(sharding, x, (batch_size, *x.shape[1:]))
        for name, x in batch.items()
    }


def _in_order(
    read: Callable[[int], Any], steps: range, reads_disk: bool, prefetch: int, threads: int
) -> Iterator[Any]:
    """Results of `read` for each step, in order; from disk they are read by several threads."""
    if not reads_disk or not steps:
        yield from map(read, steps)
        return
    import grain  # half a second that data in memory need not wait for

    # One element of the Grain data set is one batch, so that a source can read it in one request.
    whole = grain.MapDataset.range(steps.start, steps.stop)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(threads, prefetch))
    batches = iter(whole.map(lambda t: read(int(t))).to_iter_dataset(options))
    try:
        yield from batches
    finally:
        batches.close()


def _on_device(split: Split, sharding: Sharding, device_memory: int, placement: Placement) -> bool:
    if placement == "auto":
        is_accelerator = next(iter(sharding.device_set)).platform != "cpu"
        return split.in_memory and is_accelerator and split.nbytes <= device_memory
    if placement == "device" and not split.in_memory:
        raise UserError(f"split '{split.name}' is not in memory, so it cannot go to the device")
    return placement == "device"


def copies(split: Split, sharding: Sharding) -> dict[str, jax.Array]:
    """The examples of a split in memory, whole on each device of a sharding."""
    everywhere = sharding
    if isinstance(sharding, NamedSharding):
        everywhere = NamedSharding(sharding.mesh, PartitionSpec())
    return {
        name: jax.make_array_from_callback(a.shape, everywhere, a.__getitem__)
        for name, a in split.arrays.items()
    }


def _gather(
    split: Split, sharding: Sharding
) -> Callable[[dict[str, jax.Array]], dict[str, jax.Array]]:
    """A function that picks the examples of `index` from a copy of the split on each device."""
    arrays = copies(split, sharding)

    @functools.partial(jax.jit, out_shardings=sharding)
    def pick(arrays: dict[str, jax.Array], index: jax.Array) -> dict[str, jax.Array]:
        return {name: array[index] for name, array in arrays.items()}

    return lambda batch: pick(arrays, batch["index"])
