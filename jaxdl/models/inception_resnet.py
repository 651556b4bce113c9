"""Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning.

Szegedy, Ioffe, Vanhoucke, Alemi 2016. https://arxiv.org/abs/1602.07261

v1 is the paper's (figures 7 and 10 to 15). v2 is the network that the authors released and timm
keeps: it differs from the paper's in its stem (v1's, then one pure module), in having twice as many
blocks, a last one that is neither scaled nor rectified, and a 1x1 convolution before the pooling.
Residuals are scaled by 0.17, 0.10 and 0.20 on the three maps; the paper says 0.1 to 0.3.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, NamedTuple

import flax.linen as nn
import msgspec

from jaxdl.config import Positive, Rate
from jaxdl.models.inception_v3 import Depths, stem
from jaxdl.models.inception_v4 import reduction_a
from jaxdl.nn.activation import Activation, relu
from jaxdl.nn.branches import (
    Branches,
    Inception,
    Step,
    Unit,
    at_least,
    authors_norm,
    halved,
    row,
    same_size,
    side_by_side,
    valid,
)
from jaxdl.nn.head import Classifier, Head
from jaxdl.nn.kernel_norm import ConvBuilder, plain
from jaxdl.nn.layers import Layers
from jaxdl.nn.norm import Norm
from jaxdl.nn.pool import Pool, avg_pool, max_pool
from jaxdl.registry import register
from jaxdl.types import Array

Scales = Annotated[tuple[Positive, ...], msgspec.Meta(min_length=3, max_length=3)]
SCALES = (0.17, 0.10, 0.20)


class Design(NamedTuple):
    """Differences between the two networks, besides the depths.

    Attributes:
        stem: pooling -> steps, 299x299 to 35x35.
        first: pooling -> branches of a module without residual before the blocks.
        reduction: k, l, m, n of the paper's table 1.
        shrunk: features of the last convolutions of the second reduction, and of the one inside.
        a, b, c: the branches of the blocks on the maps of 35x35, 17x17 and 8x8.
        last: the last block is neither scaled nor rectified.
        top: features of a 1x1 convolution at the end.
    """

    stem: Callable[[Pool], Sequence[Step]]
    first: Callable[[Pool], Branches] | None
    reduction: tuple[int, int, int, int]
    shrunk: tuple[int, int, int, int]
    a: Branches
    b: Branches
    c: Branches
    last: bool
    top: int | None


V1 = Design(
    stem=lambda pool: (*stem(pool)[:-1], valid(256, 3, 2)),  # figure 14
    first=None,
    reduction=(192, 192, 256, 384),
    shrunk=(384, 256, 256, 256),
    a=((Unit(32),), (Unit(32), Unit(32, 3)), (Unit(32), Unit(32, 3), Unit(32, 3))),
    b=((Unit(128),), (Unit(128), Unit(128, (1, 7)), Unit(128, (7, 1)))),
    c=((Unit(192),), (Unit(192), Unit(192, (1, 3)), Unit(192, (3, 1)))),
    last=False,
    top=None,
)
V2 = Design(
    stem=stem,
    first=lambda pool: (
        (Unit(96),),
        (Unit(48), Unit(64, 5)),
        (Unit(64), Unit(96, 3), Unit(96, 3)),
        (same_size(pool), Unit(64)),
    ),
    reduction=(256, 256, 384, 384),
    shrunk=(384, 288, 288, 320),
    a=((Unit(32),), (Unit(32), Unit(32, 3)), (Unit(32), Unit(48, 3), Unit(64, 3))),
    b=((Unit(192),), (Unit(128), Unit(160, (1, 7)), Unit(192, (7, 1)))),
    c=((Unit(192),), (Unit(192), Unit(224, (1, 3)), Unit(256, (3, 1)))),
    last=True,
    top=1536,
)
VARIANTS = {"inception_resnet_v1": (V1, (5, 10, 5)), "inception_resnet_v2": (V2, (10, 20, 10))}


def reduction_b(pool: Pool, features: tuple[int, int, int, int]) -> Branches:
    """Figure 12, 17x17 to 8x8."""
    one, two, inside, three = features
    return (
        (Unit(256), valid(one, 3, 2)),
        (Unit(256), valid(two, 3, 2)),
        (Unit(256), Unit(inside, 3), valid(three, 3, 2)),
        (halved(pool),),
    )


class Residual(nn.Module):
    """Branches, a 1x1 convolution back to the input's channels, the scaled sum: x -> its shape.

    Attributes:
        rows: one a branch.
        scale: of what is added to the input.
        layers: of the branches; the activation also follows the sum.
        width: multiplies the features of the branches.
        act: False leaves the last activation out.
    """

    rows: Branches
    scale: float
    layers: Layers = Layers()
    width: float = 1.0
    act: bool = True

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        y = side_by_side(x, self.rows, self.layers, self.width, train)
        y = self.layers.conv(x.shape[-1], (1, 1), name="expand")(y)
        # y = act(x + scale F(x))
        y = x + self.scale * y
        return self.layers.activation(y) if self.act else y


class InceptionResNet(nn.Module):
    """(b, h, w, c) -> (b, h', w', 1792 * width or 1536 * width): 8x8 of 299x299.

    Attributes:
        design: one of the two networks.
        depths: residual blocks on the maps of 35x35, 17x17 and 8x8.
        scales: of their residuals.
        width: multiplies the features of all convolutions.
        layers: of all convolutions.
        pool: where maps are halved.
        branch_pool: in v2's module before the blocks.
    """

    design: Design
    depths: Sequence[int]
    scales: Sequence[float] = SCALES
    width: float = 1.0
    layers: Layers = Layers(norm=authors_norm)
    pool: Callable[..., Array] = max_pool
    branch_pool: Callable[..., Array] = avg_pool

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        at_least(75, x, "inception_resnet")
        design, layers, width = self.design, self.layers, self.width
        x = row(x, design.stem(self.pool), "stem", layers, width, train)
        if design.first:
            x = Inception(design.first(self.branch_pool), layers, width, name="inception")(x, train)
        between = (
            None,
            reduction_a(self.pool, design.reduction),
            reduction_b(self.pool, design.shrunk),
        )
        stages = zip("abc", (design.a, design.b, design.c), between, strict=True)
        for i, (letter, rows, shrink) in enumerate(stages):
            if shrink:
                x = Inception(shrink, layers, width, name=f"reduction_{'ab'[i - 1]}")(x, train)
            for j in range(self.depths[i]):
                final = design.last and (i, j) == (2, self.depths[2] - 1)
                scale = 1.0 if final else self.scales[i]
                block = Residual(
                    rows, scale, layers, width, not final, name=f"residual_{letter}{j + 1}"
                )
                x = block(x, train)
        return row(x, (Unit(design.top),), "top", layers, width, train) if design.top else x


def inception_resnet(
    variant: str,
    num_classes: int,
    /,
    *,
    depths: Depths | None = None,
    scales: Scales = SCALES,
    width: Positive = 1.0,
    activation: Activation = relu,
    norm: Norm = authors_norm,
    conv: ConvBuilder = plain,
    pool: Pool = max_pool,
    branch_pool: Pool = avg_pool,
    drop_rate: Rate = 0.2,
) -> Classifier:
    """Inception modules as residual branches, scaled down; null depths are the variant's own."""
    design, own = VARIANTS[variant]
    layers = Layers(conv, norm, activation)
    backbone = InceptionResNet(design, depths or own, scales, width, layers, pool, branch_pool)
    return Classifier(backbone, Head(num_classes, drop_rate))


for name in VARIANTS:
    register("models", name, image=(299, 299, 3))(partial(inception_resnet, name))
