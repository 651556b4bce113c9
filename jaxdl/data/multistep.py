"""Batches of several steps at once: the rows of each, and a copy of all examples on the devices."""

import itertools
from collections.abc import Iterable, Iterator, Sequence

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxdl.data.pipeline import copies, local_rows
from jaxdl.data.prefetch import Batches
from jaxdl.data.sampler import train_indices
from jaxdl.data.split import Split
from jaxdl.errors import UserError
from jaxdl.types import MultiStepBatch


def multistep_spec(
    split: Split,
    *,
    batch_size: int,
    longest: int,
    sharding: NamedSharding,
    seed: int | Sequence[int] = 0,
) -> MultiStepBatch:
    """Shapes, types and shardings of what `train_runs` gives."""
    along, everywhere = _places(sharding, seed)
    orders = () if isinstance(seed, int) else (len(seed),)
    shape = lambda shape, dtype, place: jax.ShapeDtypeStruct(shape, dtype, sharding=place)
    return MultiStepBatch(
        shape((), np.int32, everywhere),
        shape((longest, *orders, batch_size), np.int32, along),
        {k: shape(a.shape, a.dtype, everywhere) for k, a in _arrays(split).items()},
    )


def multistep_batches(
    split: Split,
    *,
    batch_size: int,
    seed: int | Sequence[int],
    runs: Iterable[range],
    longest: int,
    sharding: NamedSharding,
    prefetch: int = 2,
) -> Batches:
    """A `Run` for each range of steps; the batches are those of `train_batches`.

    Args:
        split: the examples, in memory.
        batch_size: examples in a batch, over all processes.
        seed: of the order; of several, each batch has an axis more, an order a row.
        runs: numbers of steps, ascending.
        longest: the most that are in one of them.
        sharding: of a batch's leading axis.
        prefetch: runs made ahead.
    """
    rows, (along, everywhere) = local_rows(sharding, batch_size), _places(sharding, seed)
    seeds = [seed] if isinstance(seed, int) else seed
    _arrays(split)
    arrays = copies(split, sharding)

    def made() -> Iterator[MultiStepBatch]:
        for steps in runs:
            index = np.zeros((longest, len(seeds), len(rows)), np.int32)
            for (i, t), (j, s) in itertools.product(enumerate(steps), enumerate(seeds)):
                index[i, j] = train_indices(s, t, n=len(split), batch_size=batch_size)[rows]
            if isinstance(seed, int):
                index = index[:, 0]
            shape = (*index.shape[:-1], batch_size)
            count = np.int32(len(steps))
            yield MultiStepBatch(
                jax.make_array_from_process_local_data(everywhere, count, ()),
                jax.make_array_from_process_local_data(along, index, shape),
                arrays,
            )

    return Batches(made(), prefetch)


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
