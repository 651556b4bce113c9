"""The kernels of flash attention as plain loops of XLA, for backends that do not compile Pallas.

Tiles come in turn, examples and heads side by side. Memory is linear in t and s as it is in a
kernel, but the tiles of the logits go through the memory of the device.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from jaxdl.types import Array


class Reference:
    """Array that a kernel reads and writes by the indices of a Pallas reference.

    Attributes:
        array: its value now.
    """

    def __init__(self, array: Array):
        self.array = array

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return self.array.shape

    @property
    def dtype(self) -> jnp.dtype:
        """Type of its numbers."""
        return self.array.dtype

    def __getitem__(self, index: Any) -> Array:
        array = self.array
        for axis, cut in enumerate(index if isinstance(index, tuple) else ()):
            if isinstance(cut, pl.Slice):
                array = lax.dynamic_slice_in_dim(array, cut.start, cut.size, axis)
        return array

    def __setitem__(self, index: Any, new: Array) -> None:
        if index is not Ellipsis:
            raise NotImplementedError("a kernel writes each of its outputs as a whole")
        self.array = new


def run(
    kernel: Callable[..., None],
    inputs: Sequence[tuple[Array, int | None]],
    outputs: Sequence[tuple[Any, int | None]],
    side: int,
) -> list[Array]:
    """Outputs (b n ...) of a kernel whose programs are one iteration of a loop each.

    Args:
        kernel: of references to a program's inputs and outputs, and of `place`, its tile's number.
        inputs: arrays (b n ...), or (b 1 ...) for all heads, each with the axis along which it is
            cut into tiles, or None.
        outputs: the same of arrays or shapes that are like those that it writes.
        side: length of a tile.
    """
    (written, cut), *_ = outputs
    heads = written.shape[1]

    def tile(place: Array) -> list[Array]:
        tiles = [
            x if axis is None else lax.dynamic_slice_in_dim(x, place * side, side, axis)
            for x, axis in inputs
        ]

        def program(*arrays: Array) -> list[Array]:
            read = [Reference(x) for x in arrays]
            write = [Reference(jnp.zeros(0, x.dtype)) for x, _ in outputs]
            kernel(*read, *write, place=place)
            return [reference.array for reference in write]

        tiles = [jnp.broadcast_to(x, (x.shape[0], heads, *x.shape[2:])) for x in tiles]
        return jax.vmap(jax.vmap(program))(*tiles)

    made = lax.map(tile, jnp.arange(written.shape[cut] // side))
    # (tiles b n ... side ...) -> (b n ... t ...)
    return [
        jnp.moveaxis(x, 0, axis).reshape(like.shape)
        for x, (like, axis) in zip(made, outputs, strict=True)
    ]
