"""Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate Shift.

Ioffe, Szegedy 2015. https://arxiv.org/abs/1502.03167
The network of figure 5, which the Inception v4 paper calls Inception v2; another one of that name
is in 1512.00567. Differs from the paper: by default the first convolution is a plain one, as in the
networks since (`stem='separable'` is the paper's, with 8 filters a channel), and module 4c gives
608 channels, the sum of its branches, where the table says 576.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import flax.linen as nn

from jaxdl.config import Positive, Rate
from jaxdl.nn.activation import Activation, relu
from jaxdl.nn.branches import Inception, Unit, halved, padded_mean, row, same_size, scaled
from jaxdl.nn.head import Classifier, Head
from jaxdl.nn.kernel_norm import ConvBuilder, plain
from jaxdl.nn.layers import ConvNorm, Layers
from jaxdl.nn.norm import Norm, batch_norm
from jaxdl.nn.pool import Pool, max_pool
from jaxdl.nn.separable import Separable
from jaxdl.registry import register
from jaxdl.types import Array


class Module(NamedTuple):
    """A row of figure 5: features of 1x1; 1x1, 3x3; 1x1, 3x3, 3x3; 1x1 after the pooling."""

    one: int
    reduce: int
    three: int
    reduce_double: int
    double: int
    pooled: int


# Modules without the first and the last number halve the map, their pooling passes through.
MODULES = {
    "3a": Module(64, 64, 64, 64, 96, 32),
    "3b": Module(64, 64, 96, 64, 96, 64),
    "3c": Module(0, 128, 160, 64, 96, 0),
    "4a": Module(224, 64, 96, 96, 128, 128),
    "4b": Module(192, 96, 128, 96, 128, 128),
    "4c": Module(160, 128, 160, 128, 160, 128),
    "4d": Module(96, 128, 192, 160, 192, 128),
    "4e": Module(0, 128, 192, 192, 256, 0),
    "5a": Module(352, 192, 320, 160, 224, 128),
    "5b": Module(352, 192, 320, 192, 224, 128),
}
MAX_POOLED = ("5b",)


class BNInception(nn.Module):
    """(b, h, w, c) -> (b, h / 32, w / 32, 1024 * width).

    Attributes:
        stem: 'plain' or 'separable', the first convolution.
        width: multiplies the features of all convolutions.
        layers: of all convolutions.
        pool: where maps are halved, and in the last module's branch.
        branch_pool: in the other modules' fourth branch.
    """

    stem: str = "plain"
    width: float = 1.0
    layers: Layers = Layers()
    pool: Callable[..., Array] = max_pool
    branch_pool: Callable[..., Array] = padded_mean

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        layers, width = self.layers, self.width
        halve = halved(self.pool, "SAME")  # Caffe's ceil mode on even maps, and fit for odd ones
        first = partial(Separable, multiplier=8) if self.stem == "separable" else ConvNorm
        x = first(scaled(64, width), 7, 2, layers, name="stem")(x, train)
        x = row(x, (halve, Unit(64), Unit(192, 3), halve), "stem", layers, width, train)
        for name, m in MODULES.items():
            stride = 1 if m.one else 2
            pool = same_size(self.pool if name in MAX_POOLED else self.branch_pool)
            rows = (
                *(((Unit(m.one),),) if m.one else ()),
                (Unit(m.reduce), Unit(m.three, 3, stride)),
                (Unit(m.reduce_double), Unit(m.double, 3), Unit(m.double, 3, stride)),
                (pool, Unit(m.pooled)) if m.pooled else (halve,),
            )
            x = Inception(rows, layers, width, name=f"inception{name}")(x, train)
        return x


@register("models")
def bn_inception(
    num_classes: int,
    /,
    *,
    stem: Literal["plain", "separable"] = "plain",
    width: Positive = 1.0,
    activation: Activation = relu,
    norm: Norm = batch_norm,
    conv: ConvBuilder = plain,
    pool: Pool = max_pool,
    branch_pool: Pool = padded_mean,
    drop_rate: Rate = 0.0,
) -> Classifier:
    """Inception v2, or BN-Inception: two 3x3 for each 5x5. https://arxiv.org/abs/1502.03167"""
    layers = Layers(conv, norm, activation)
    backbone = BNInception(stem, width, layers, pool, branch_pool)
    return Classifier(backbone, Head(num_classes, drop_rate))
