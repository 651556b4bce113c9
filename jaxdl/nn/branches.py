"""The grammar of the Inception networks: convolutions in a row, and rows side by side.

A network is then written as its paper's tables write it. A row is a sequence of steps; a step is a
`Unit`, a pooling, or a tuple of units that read the same map and whose outputs are concatenated.
"""

import dataclasses
import string
from collections.abc import Callable, Sequence
from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from jaxdl.errors import UserError
from jaxdl.nn.layers import ConvNorm, Layers, round_channels, symmetric
from jaxdl.nn.norm import batch_norm
from jaxdl.nn.pool import avg_pool
from jaxdl.types import Array


@dataclasses.dataclass(frozen=True)
class Unit:
    """One convolution with its norm and activation.

    Attributes:
        features: channels that come out, before the network's width multiplies them.
        kernel: window, a side or (height, width).
        stride: of both axes.
        padding: a string; without it, symmetric, so that the stride alone shrinks.
    """

    features: int
    kernel: int | tuple[int, int] = 1
    stride: int = 1
    padding: str | None = None


valid = partial(Unit, padding="VALID")
"""A unit without padding: what these networks shrink their maps with."""

Step = Unit | Callable[[Array], Array] | tuple[Unit, ...]
Branches = Sequence[Sequence[Step]]

authors_norm = partial(batch_norm, epsilon=1e-3)
"""The norm of the networks that Szegedy and others released."""
padded_mean = partial(avg_pool, count_padding=True)
"""Average pooling over the padding too, as Caffe's and PyTorch's."""


def scaled(features: int, width: float) -> int:
    """Channels of a network `width` times as wide: a multiple of 4, or just as many at width 1."""
    return features if width == 1 else round_channels(features * width, 4)


def row(
    x: Array, steps: Sequence[Step], name: str, layers: Layers, width: float, train: bool
) -> Array:
    """The steps one after another, inside a compact module: (b, h, w, c) -> (b, h', w', c').

    Convolutions are called `{name}_conv1`, `{name}_conv2`, ...; those that share a step are called
    `{name}_conv2a`, `{name}_conv2b`.
    """
    done = 0
    for step in steps:
        if callable(step):
            x = step(x)
            continue
        done += 1
        units = step if isinstance(step, tuple) else (step,)
        marks = string.ascii_lowercase if isinstance(step, tuple) else ("",)
        maps = [
            ConvNorm(
                scaled(unit.features, width),
                unit.kernel,
                unit.stride,
                layers,
                unit.padding,
                name=f"{name}_conv{done}{mark}",
            )(x, train)
            for unit, mark in zip(units, marks, strict=False)
        ]
        x = jnp.concatenate(maps, axis=-1) if len(maps) > 1 else maps[0]
    return x


def side_by_side(x: Array, rows: Branches, layers: Layers, width: float, train: bool) -> Array:
    """Rows that read the same map, concatenated: `branch1`, `branch2`, ..."""
    maps = [
        row(x, steps, f"branch{i}", layers, width, train) for i, steps in enumerate(rows, start=1)
    ]
    return jnp.concatenate(maps, axis=-1)


class Inception(nn.Module):
    """Rows side by side: (b, h, w, c) -> (b, h', w', the sum of what they give).

    Attributes:
        rows: one a branch.
        layers: of all convolutions.
        width: multiplies their features.
    """

    rows: Branches
    layers: Layers = Layers()
    width: float = 1.0

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        return side_by_side(x, self.rows, self.layers, self.width, train)


def same_size(pool: Callable[..., Array]) -> Callable[[Array], Array]:
    """3x3 pooling at stride 1, padded: the pooling at the head of a branch."""
    return lambda x: pool(x, (3, 3), (1, 1), symmetric(3))


def halved(pool: Callable[..., Array], padding: str = "VALID") -> Callable[[Array], Array]:
    """3x3 pooling at stride 2: the branch without convolution where the map shrinks."""
    return lambda x: pool(x, (3, 3), (2, 2), padding)


def at_least(side: int, x: Array, model: str) -> None:
    """Refuse images that a network would shrink to nothing.

    Raises:
        UserError: a side of x (b, h, w, c) is less than `side`.
    """
    height, width = x.shape[1:3]
    if min(height, width) < side:
        raise UserError(f"{model} needs images of at least {side}x{side}, not {height}x{width}")
