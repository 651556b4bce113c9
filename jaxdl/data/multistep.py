"""Batches of several steps at once: the rows of each, and a copy of all examples on the devices."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxdl.data.pipeline import copies, local_rows
from jaxdl.data.prefetch import Batches
from jaxdl.data.split import Split
from jaxdl.data.streams import MAIN, TrainStream
from jaxdl.errors import UserError
from jaxdl.types import MultiStepBatch


def multistep_spec(
    streams: Mapping[str, TrainStream],
    *,
    longest: int,
    sharding: NamedSharding,
    seed: int | Sequence[int] = 0,
) -> MultiStepBatch:
    """Shapes, types and shardings of what `multistep_batches` gives."""
    along, everywhere = _places(sharding, seed)
    orders = () if isinstance(seed, int) else (len(seed),)
    shape = lambda shape, dtype, place: jax.ShapeDtypeStruct(shape, dtype, sharding=place)
    parts = {
        name: (
            shape((longest, *orders, stream.batch_size), np.int32, along),
            {k: shape(a.shape, a.dtype, everywhere) for k, a in _arrays(stream.split).items()},
        )
        for name, stream in streams.items()
    }
    return _multistep(shape((), np.int32, everywhere), parts)


def multistep_batches(
    streams: Mapping[str, TrainStream],
    *,
    seed: int | Sequence[int],
    runs: Iterable[range],
    longest: int,
    sharding: NamedSharding,
    prefetch: int = 2,
) -> Batches:
    """A `MultiStepBatch` for each range of steps; the batches are those of `train_batches`.

    Args:
        streams: the examples, in memory.
        seed: of the orders; of several, each batch has an axis more, an order a row.
        runs: numbers of steps, ascending.
        longest: the most that are in one of them.
        sharding: of a batch's leading axis.
        prefetch: runs made ahead.
    """
    along, everywhere = _places(sharding, seed)
    for stream in streams.values():
        _arrays(stream.split)
    whole = {name: copies(stream.split, sharding) for name, stream in streams.items()}
    rows = {name: local_rows(sharding, stream.batch_size) for name, stream in streams.items()}
    seeds = [seed] if isinstance(seed, int) else seed
    orders = {name: [s.order(one, name) for one in seeds] for name, s in streams.items()}

    def index_of(name: str, steps: range) -> jax.Array:
        index = np.zeros((longest, len(seeds), len(rows[name])), np.int32)
        for i, t in enumerate(steps):
            for j, order in enumerate(orders[name]):
                index[i, j] = order(t)[rows[name]]
        if isinstance(seed, int):
            index = index[:, 0]
        shape = (*index.shape[:-1], streams[name].batch_size)
        return jax.make_array_from_process_local_data(along, index, shape)

    def made() -> Iterator[MultiStepBatch]:
        for steps in runs:
            parts = {name: (index_of(name, steps), whole[name]) for name in streams}
            count = np.int32(len(steps))
            yield _multistep(jax.make_array_from_process_local_data(everywhere, count, ()), parts)

    return Batches(made(), prefetch)


def _multistep(steps: jax.Array, parts: Mapping[str, tuple]) -> MultiStepBatch:
    further = {name: part for name, part in parts.items() if name != MAIN}
    return MultiStepBatch(steps, *parts[MAIN], further)


def _places(
    sharding: NamedSharding, seed: int | Sequence[int]
) -> tuple[NamedSharding, NamedSharding]:
    place = lambda *axes: NamedSharding(sharding.mesh, PartitionSpec(*axes))
    leading = (None,) if isinstance(seed, int) else (None, None)
    return place(*leading, *sharding.spec), place()


def _arrays(split: Split) -> dict[str, np.ndarray]:
    if not split.in_memory:
        raise UserError(
            f"split '{split.name}' is not in memory, and several steps in one program "
            "(config.steps_per_execution) need all examples on the device: see config.data.memory"
        )
    return split.arrays
