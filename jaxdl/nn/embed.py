"""Embeddings of images and tokens: the vectors (b, t, d) that a transformer reads."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.typing import Initializer

from jaxdl.errors import UserError
from jaxdl.nn.kernel_norm import ConvBuilder, plain
from jaxdl.types import Array


class PatchEmbed(nn.Module):
    """Patches side by side, each through one dense layer: (b, h, w, c) -> (b, h' * w', features).

    Attributes:
        features: d of what comes out.
        patch_size: side of a patch; it divides the image.
        kernel_init: of the layer, a convolution whose stride is its kernel.
        conv: that convolution.
    """

    features: int
    patch_size: int
    kernel_init: Initializer = nn.initializers.lecun_normal()
    conv: ConvBuilder = plain

    @nn.compact
    def __call__(self, x: Array) -> Array:
        patch = (self.patch_size, self.patch_size)
        if any(n % self.patch_size for n in x.shape[1:3]):
            size = "x".join(map(str, x.shape[1:3]))
            raise UserError(f"patches of {self.patch_size} do not divide an image of {size}")
        x = self.conv(
            self.features,
            patch,
            strides=patch,
            padding="VALID",
            kernel_init=self.kernel_init,
            name="project",
        )(x)
        return x.reshape(x.shape[0], -1, self.features)


class ClassToken(nn.Module):
    """A learned vector before all others: (b, t, d) -> (b, 1 + t, d)."""

    kernel_init: Initializer = nn.initializers.normal(1e-6)

    @nn.compact
    def __call__(self, x: Array) -> Array:
        token = self.param("token", self.kernel_init, (1, 1, x.shape[-1]))
        return jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], 1, x.shape[-1])), x], axis=1)


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


class TokenEmbed(nn.Module):
    """Vectors of tokens with their positions: (b, t) integers -> (b, t, features).

    Attributes:
        vocabulary: tokens there are.
        features: d.
        positions: what adds positions.
        drop_rate: of the sum.
    """

    vocabulary: int
    features: int
    positions: nn.Module
    drop_rate: float = 0.0

    def setup(self) -> None:
        init = nn.initializers.normal(self.features**-0.5)
        self.table = nn.Embed(self.vocabulary, self.features, embedding_init=init)
        self.dropout = nn.Dropout(self.drop_rate)

    def __call__(self, tokens: Array, train: bool = False) -> Array:
        # x = E[token] sqrt(d) + P
        x = self.positions(self.table(tokens) * math.sqrt(self.features))
        return self.dropout(x, deterministic=not train)

    def logits(self, features: Array) -> Array:
        """Of each token, with its own vector as the kernel: (b, t, d) -> (b, t, vocabulary)."""
        # https://arxiv.org/abs/1608.05859
        return self.table.attend(features)


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
