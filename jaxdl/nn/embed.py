"""Embeddings of images and tokens: the vectors (b, t, d) that a transformer reads."""

import math

import flax.linen as nn
import jax.numpy as jnp
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


class TokenEmbed(nn.Module):
    """Vectors of tokens with their positions: (b, t) integers -> (b, t, features).

    Attributes:
        vocabulary: tokens there are.
        features: d.
        positions: layer that adds positions, one of the `positions`.
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
