"""Rethinking the Inception Architecture for Computer Vision.

Szegedy, Vanhoucke, Ioffe, Shlens, Wojna 2015. https://arxiv.org/abs/1512.00567

Differs from the paper's table 1 as the authors' released network and torchvision's do: the stem has
a 1x1 convolution to 80 channels, no convolution shrinks before the second pooling, and the branches
of the 35x35 maps keep a 5x5 convolution. Label smoothing and RMSProp belong to the recipe.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated

import flax.linen as nn
import jax.numpy as jnp
import msgspec

from jaxdl.config import Count, Positive, Rate
from jaxdl.nn.activation import Activation, relu
from jaxdl.nn.branches import (
    Branches,
    Inception,
    Step,
    Unit,
    at_least,
    authors_norm,
    halved,
    padded_mean,
    row,
    same_size,
    scaled,
    valid,
)
from jaxdl.nn.head import AuxiliaryClassifier, Classifier, Head
from jaxdl.nn.kernel_norm import ConvBuilder, plain
from jaxdl.nn.layers import ConvNorm, Layers
from jaxdl.nn.norm import Norm
from jaxdl.nn.pool import Pool, adaptive_avg_pool, avg_pool, max_pool
from jaxdl.registry import register
from jaxdl.types import Array

Depths = Annotated[tuple[Count, ...], msgspec.Meta(min_length=3, max_length=3)]

# Modules on the maps of 35x35, 17x17 and 8x8, and what changes from one to the next: features after
# the pooling, and of the factorised 7x7 convolutions. Later modules repeat the last.
DEPTHS = (3, 4, 2)
POOLED = (32, 64, 64)
SEVENS = (128, 160, 160, 192)


def stem(pool: Pool) -> Sequence[Step]:
    """299x299 to 35x35x192; the Inception-ResNets share it."""
    return (
        valid(32, 3, 2),
        valid(32, 3),
        Unit(64, 3),
        halved(pool),
        Unit(80),
        valid(192, 3),
        halved(pool),
    )


def inception_a(pooled: int, pool: Pool) -> Branches:
    """Figure 5, its first branch of 3x3 convolutions being one of 5x5."""
    return (
        (Unit(64),),
        (Unit(48), Unit(64, 5)),
        (Unit(64), Unit(96, 3), Unit(96, 3)),
        (same_size(pool), Unit(pooled)),
    )


def reduction_a(pool: Pool) -> Branches:
    """Figure 10: 35x35 to 17x17."""
    return (
        (valid(384, 3, 2),),
        (Unit(64), Unit(96, 3), valid(96, 3, 2)),
        (halved(pool),),
    )


def inception_b(c: int, pool: Pool) -> Branches:
    """Figure 6 with n = 7."""
    return (
        (Unit(192),),
        (Unit(c), Unit(c, (1, 7)), Unit(192, (7, 1))),
        (Unit(c), Unit(c, (7, 1)), Unit(c, (1, 7)), Unit(c, (7, 1)), Unit(192, (1, 7))),
        (same_size(pool), Unit(192)),
    )


def reduction_b(pool: Pool) -> Branches:
    """17x17 to 8x8."""
    return (
        (Unit(192), valid(320, 3, 2)),
        (Unit(192), Unit(192, (1, 7)), Unit(192, (7, 1)), valid(192, 3, 2)),
        (halved(pool),),
    )


def inception_c(pool: Pool) -> Branches:
    """Figure 7."""
    forked = (Unit(384, (1, 3)), Unit(384, (3, 1)))
    return (
        (Unit(320),),
        (Unit(384), forked),
        (Unit(448), Unit(384, 3), forked),
        (same_size(pool), Unit(192)),
    )


class InceptionV3(nn.Module):
    """(b, h, w, c) -> (b, h', w', 2048 * width), 8x8 of 299x299, with a map for an auxiliary head.

    Attributes:
        depths: modules on the maps of 35x35, 17x17 and 8x8.
        width: multiplies the features of all convolutions.
        layers: of all convolutions.
        pool: where maps are halved.
        branch_pool: in the fourth branch.
    """

    depths: Sequence[int] = DEPTHS
    width: float = 1.0
    layers: Layers = Layers(norm=authors_norm)
    pool: Callable[..., Array] = max_pool
    branch_pool: Callable[..., Array] = padded_mean

    def __call__(self, x: Array, train: bool = False) -> Array:
        return self.taps(x, train)[0]

    @nn.compact
    def taps(self, x: Array, train: bool = False) -> tuple[Array, tuple[Array]]:
        """(features, the last map of 17x17)."""
        at_least(75, x, "inception_v3")

        def module(x: Array, name: str, rows: Branches) -> Array:
            return Inception(rows, self.layers, self.width, name=name)(x, train)

        x = row(x, stem(self.pool), "stem", self.layers, self.width, train)
        for i in range(self.depths[0]):
            rows = inception_a(POOLED[min(i, len(POOLED) - 1)], self.branch_pool)
            x = module(x, f"inception_a{i + 1}", rows)
        x = module(x, "reduction_a", reduction_a(self.pool))
        for i in range(self.depths[1]):
            rows = inception_b(SEVENS[min(i, len(SEVENS) - 1)], self.branch_pool)
            x = module(x, f"inception_b{i + 1}", rows)
        tap = x
        x = module(x, "reduction_b", reduction_b(self.pool))
        for i in range(self.depths[2]):
            x = module(x, f"inception_c{i + 1}", inception_c(self.branch_pool))
        return x, (tap,)


class AuxiliaryHead(nn.Module):
    """Pooling to 5x5, 1x1 and 5x5 convolutions, a dense layer: (b, h, w, c) -> logits (b, k).

    The pooling is 5x5 at stride 3 on maps of 17x17 and more; smaller images have smaller maps,
    which are pooled to 5x5 by means as even as they come.
    """

    num_classes: int
    layers: Layers = Layers()
    width: float = 1.0

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        large = min(x.shape[1:3]) >= 17
        x = avg_pool(x, (5, 5), (3, 3)) if large else adaptive_avg_pool(x, (5, 5))
        unit = partial(ConvNorm, layers=self.layers)
        x = unit(scaled(128, self.width), 1, name="conv1")(x, train)
        x = unit(scaled(768, self.width), 5, padding="VALID", name="conv2")(x, train)
        return nn.Dense(self.num_classes, name="logits")(jnp.mean(x, axis=(1, 2)))


@register("models", image=(299, 299, 3))
def inception_v3(
    num_classes: int,
    /,
    *,
    depths: Depths = DEPTHS,
    width: Positive = 1.0,
    auxiliary_heads: bool = True,
    activation: Activation = relu,
    norm: Norm = authors_norm,
    conv: ConvBuilder = plain,
    pool: Pool = max_pool,
    branch_pool: Pool = padded_mean,
    drop_rate: Rate = 0.5,
) -> Classifier:
    """Inception v3: 7x7 convolutions as 1x7 and 7x1. https://arxiv.org/abs/1512.00567"""
    layers = Layers(conv, norm, activation)
    backbone = InceptionV3(depths, width, layers, pool, branch_pool)
    head = Head(num_classes, drop_rate)
    if not auxiliary_heads:
        return Classifier(backbone, head)
    return AuxiliaryClassifier(backbone, head, (AuxiliaryHead(num_classes, layers, width),))
