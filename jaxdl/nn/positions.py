"""Positions by name: a builder makes a layer that tells each vector (b, t, d) its place."""

import math
from collections.abc import Callable
from typing import Annotated

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.typing import Initializer

from jaxdl.config import Count
from jaxdl.errors import UserError
from jaxdl.registry import Of, register
from jaxdl.types import Array

Position = Annotated[Callable[[str], nn.Module], Of("positions")]


class LearnedPositions(nn.Module):
    """Adds a learned vector to each place: (b, t, d) -> (b, t, d).

    Attributes:
        length: places there are; without it, as many as the first input has.
        kernel_init: of the vectors.
    """

    length: int | None = None
    kernel_init: Initializer = nn.initializers.normal(0.02)

    @nn.compact
    def __call__(self, x: Array) -> Array:
        t, d = x.shape[1:]
        if t > (self.length or t):
            raise UserError(f"{t} places are more than the {self.length} with a learned position")
        return x + self.param("positions", self.kernel_init, (1, self.length or t, d))[:, :t]


def sinusoids(t: int, d: int) -> np.ndarray:
    """(t, d) float32: sines at even, cosines at odd features, of wavelengths 2 pi to 2 pi 10^4.

    Section 3.5 of https://arxiv.org/abs/1706.03762.
    """
    # P[p, 2i] = sin(p / 10000^(2i / d)),  P[p, 2i + 1] = cos(p / 10000^(2i / d))
    i = np.arange(d)
    angle = np.arange(t)[:, None] / 10_000.0 ** ((i - i % 2) / d)
    return np.where(i % 2 == 0, np.sin(angle), np.cos(angle)).astype(np.float32)


class SinusoidalPositions(nn.Module):
    """Adds `sinusoids` to each place, none of them learned: (b, t, d) -> (b, t, d)."""

    def __call__(self, x: Array) -> Array:
        return x + jnp.asarray(sinusoids(*x.shape[1:]), x.dtype)[None]


class NoPositions(nn.Module):
    """Adds nothing: (b, t, d) -> (b, t, d)."""

    def __call__(self, x: Array) -> Array:
        return x


@register("positions")
def learned(name: str, /, *, length: Count | None = None) -> nn.Module:
    """A learned vector a place. https://arxiv.org/abs/1810.04805

    Args:
        name: of the layer.
        length: places there are; null for as many as the first input has.
    """
    return LearnedPositions(length, name=name)


@register("positions")
def sinusoidal(name: str, /) -> nn.Module:
    """Sines and cosines of the place. Section 3.5 of https://arxiv.org/abs/1706.03762"""
    return SinusoidalPositions(name=name)


@register("positions", "none")
def no_positions(name: str, /) -> nn.Module:
    """Nothing at the input, for attentions that know of places themselves."""
    return NoPositions(name=name)


def resize_positions(
    positions: Array, old: tuple[int, int], new: tuple[int, int], prefix: int = 1
) -> Array:
    """Learned positions for a grid of another size: (1, p + h w, d) -> (1, p + h' w', d).

    Bicubic, with antialiasing where the grid shrinks, as timm's `resample_abs_pos_embed`.

    Args:
        positions: of `prefix` tokens that have no place, then of the grid, row by row.
        old: (h, w).
        new: (h', w').
        prefix: p.
    """
    if positions.shape[1] != prefix + math.prod(old):
        size = "x".join(map(str, old))
        raise UserError(f"{positions.shape[1]} positions are not {prefix} and a grid of {size}")
    d = positions.shape[-1]
    grid = positions[:, prefix:].reshape(1, *old, d)
    grid = jax.image.resize(grid, (1, *new, d), "cubic")
    return jnp.concatenate([positions[:, :prefix], grid.reshape(1, -1, d)], axis=1)
