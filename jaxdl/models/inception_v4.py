"""Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning.

Szegedy, Ioffe, Vanhoucke, Alemi 2016. https://arxiv.org/abs/1602.07261

Inception v4 has no residual connections: those of the same paper are in `inception_resnet.py`.
"""

from collections.abc import Callable, Sequence

import flax.linen as nn

from jaxdl.config import Positive, Rate
from jaxdl.models.inception_v3 import Depths
from jaxdl.nn.activation import Activation, relu
from jaxdl.nn.branches import (
    Branches,
    Inception,
    Unit,
    at_least,
    authors_norm,
    halved,
    row,
    same_size,
    valid,
)
from jaxdl.nn.head import Classifier, Head
from jaxdl.nn.kernel_norm import ConvBuilder, plain
from jaxdl.nn.layers import Layers
from jaxdl.nn.norm import Norm
from jaxdl.nn.pool import Pool, avg_pool, max_pool
from jaxdl.registry import register
from jaxdl.types import Array

# Figure 9: modules on the maps of 35x35, 17x17 and 8x8.
DEPTHS = (4, 7, 3)


def stem(pool: Pool) -> dict[str, Branches]:
    """Figure 3 after its first three convolutions."""
    return {
        "stem_mixed1": ((halved(pool),), (valid(96, 3, 2),)),
        "stem_mixed2": (
            (Unit(64), valid(96, 3)),
            (Unit(64), Unit(64, (1, 7)), Unit(64, (7, 1)), valid(96, 3)),
        ),
        "stem_mixed3": ((valid(192, 3, 2),), (halved(pool),)),
    }


def inception_a(pool: Pool) -> Branches:
    """Figure 4."""
    return (
        (Unit(96),),
        (Unit(64), Unit(96, 3)),
        (Unit(64), Unit(96, 3), Unit(96, 3)),
        (same_size(pool), Unit(96)),
    )


def reduction_a(pool: Pool, features: tuple[int, int, int, int]) -> Branches:
    """Figure 7, 35x35 to 17x17; features are k, l, m, n of the paper's table 1."""
    reduced, inside, double, single = features
    return (
        (valid(single, 3, 2),),
        (Unit(reduced), Unit(inside, 3), valid(double, 3, 2)),
        (halved(pool),),
    )


def inception_b(pool: Pool) -> Branches:
    """Figure 5."""
    return (
        (Unit(384),),
        (Unit(192), Unit(224, (1, 7)), Unit(256, (7, 1))),
        (Unit(192), Unit(192, (7, 1)), Unit(224, (1, 7)), Unit(224, (7, 1)), Unit(256, (1, 7))),
        (same_size(pool), Unit(128)),
    )


def reduction_b(pool: Pool) -> Branches:
    """Figure 8: 17x17 to 8x8."""
    return (
        (Unit(192), valid(192, 3, 2)),
        (Unit(256), Unit(256, (1, 7)), Unit(320, (7, 1)), valid(320, 3, 2)),
        (halved(pool),),
    )


def inception_c(pool: Pool) -> Branches:
    """Figure 6."""
    forked = (Unit(256, (1, 3)), Unit(256, (3, 1)))
    return (
        (Unit(256),),
        (Unit(384), forked),
        (Unit(384), Unit(448, (3, 1)), Unit(512, (1, 3)), forked),
        (same_size(pool), Unit(256)),
    )


class InceptionV4(nn.Module):
    """(b, h, w, c) -> (b, h', w', 1536 * width): 8x8 of 299x299.

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
    branch_pool: Callable[..., Array] = avg_pool

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        at_least(75, x, "inception_v4")
        a, b, c = self.depths
        pool, branch_pool = self.pool, self.branch_pool
        modules = {
            **stem(pool),
            **{f"inception_a{i + 1}": inception_a(branch_pool) for i in range(a)},
            "reduction_a": reduction_a(pool, (192, 224, 256, 384)),
            **{f"inception_b{i + 1}": inception_b(branch_pool) for i in range(b)},
            "reduction_b": reduction_b(pool),
            **{f"inception_c{i + 1}": inception_c(branch_pool) for i in range(c)},
        }
        first = (valid(32, 3, 2), valid(32, 3), Unit(64, 3))
        x = row(x, first, "stem", self.layers, self.width, train)
        for name, rows in modules.items():
            x = Inception(rows, self.layers, self.width, name=name)(x, train)
        return x


@register("models", image=(299, 299, 3))
def inception_v4(
    num_classes: int,
    /,
    *,
    depths: Depths = DEPTHS,
    width: Positive = 1.0,
    activation: Activation = relu,
    norm: Norm = authors_norm,
    conv: ConvBuilder = plain,
    pool: Pool = max_pool,
    branch_pool: Pool = avg_pool,
    drop_rate: Rate = 0.2,
) -> Classifier:
    """Inception v4, pure: deeper and more regular than v3. https://arxiv.org/abs/1602.07261"""
    backbone = InceptionV4(depths, width, Layers(conv, norm, activation), pool, branch_pool)
    return Classifier(backbone, Head(num_classes, drop_rate))
