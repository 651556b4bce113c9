"""Going Deeper with Convolutions.

Szegedy, Liu, Jia, Sermanet, Reed, Anguelov, Erhan, Vanhoucke, Rabinovich 2014. https://arxiv.org/abs/1409.4842

Inception v1. Differs from the paper as torchvision's does, so that its weights fit: a batch norm
after each convolution and no local response norm; the branch of 5x5 convolutions has 3x3 ones
(`large_kernel=5` gives the paper's); the auxiliary heads pool to 4x4 whatever the map.
"""

from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp

from jaxdl.config import Positive, Rate
from jaxdl.nn.activation import Activation, relu
from jaxdl.nn.branches import Inception, Unit, at_least, authors_norm, row, same_size, scaled
from jaxdl.nn.head import AuxiliaryClassifier, Classifier, Head
from jaxdl.nn.kernel_norm import ConvBuilder, plain
from jaxdl.nn.layers import ConvNorm, Layers
from jaxdl.nn.norm import Norm
from jaxdl.nn.pool import Pool, adaptive_avg_pool, ceil_padding, max_pool
from jaxdl.registry import register
from jaxdl.types import Array

# Table 1 of the paper: 1x1; 1x1 then 3x3; 1x1 then 5x5; 1x1 after the pooling.
MODULES = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
# Window of the pooling that halves the map before a module: the last is 2 in torchvision.
POOLED = {"3a": 3, "4a": 3, "5a": 2}
TAPPED = ("4a", "4d")


class GoogLeNet(nn.Module):
    """(b, h, w, c) -> (b, h / 32, w / 32, 1024 * width), with two maps for auxiliary heads.

    Attributes:
        stem: 'imagenet' shrinks by 8 before the first module; 'cifar' does not, by 4 in all.
        width: multiplies the features of all convolutions.
        large_kernel: side of the third branch's convolution.
        layers: of all convolutions.
        pool: where maps are halved.
        branch_pool: in the fourth branch.
    """

    stem: str = "imagenet"
    width: float = 1.0
    large_kernel: int = 3
    layers: Layers = Layers(norm=authors_norm)
    pool: Callable[..., Array] = max_pool
    branch_pool: Callable[..., Array] = max_pool

    def __call__(self, x: Array, train: bool = False) -> Array:
        return self.taps(x, train)[0]

    @nn.compact
    def taps(self, x: Array, train: bool = False) -> tuple[Array, tuple[Array, ...]]:
        """(features, maps after 4a and 4d), the maps (b, h / 16, w / 16, c)."""
        small = self.stem == "cifar"
        at_least(2 if small else 15, x, "googlenet")
        first = Unit(64, 3) if small else Unit(64, 7, 2)
        between = () if small else (self._halve(3),)
        stem = (first, *between, Unit(64), Unit(192, 3))
        x = row(x, stem, "stem", self.layers, self.width, train)
        maps = []
        for name, (one, reduce3, three, reduce5, five, pooled) in MODULES.items():
            if name in POOLED and not (small and name == "3a"):
                x = self._halve(POOLED[name])(x)
            rows = (
                (Unit(one),),
                (Unit(reduce3), Unit(three, 3)),
                (Unit(reduce5), Unit(five, self.large_kernel)),
                (same_size(self.branch_pool), Unit(pooled)),
            )
            x = Inception(rows, self.layers, self.width, name=f"inception{name}")(x, train)
            if name in TAPPED:
                maps.append(x)
        return x, tuple(maps)

    def _halve(self, window: int) -> Callable[[Array], Array]:
        return lambda x: self.pool(
            x, (window, window), (2, 2), ceil_padding(x.shape[1:3], window, 2)
        )


class AuxiliaryHead(nn.Module):
    """Pooling to 4x4, 1x1 convolution, two dense layers: (b, h, w, c) -> logits (b, k)."""

    num_classes: int
    drop_rate: float = 0.7
    layers: Layers = Layers()
    width: float = 1.0

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        x = adaptive_avg_pool(x, (4, 4))
        x = ConvNorm(scaled(128, self.width), 1, layers=self.layers, name="conv")(x, train)
        x = nn.Dense(scaled(1024, self.width), name="hidden")(jnp.reshape(x, (len(x), -1)))
        x = nn.Dropout(self.drop_rate)(self.layers.activation(x), deterministic=not train)
        return nn.Dense(self.num_classes, name="logits")(x)


@register("models")
def googlenet(
    num_classes: int,
    /,
    *,
    stem: Literal["imagenet", "cifar"] = "imagenet",
    width: Positive = 1.0,
    large_kernel: Literal[3, 5] = 3,
    auxiliary_heads: bool = True,
    activation: Activation = relu,
    norm: Norm = authors_norm,
    conv: ConvBuilder = plain,
    pool: Pool = max_pool,
    branch_pool: Pool = max_pool,
    drop_rate: Rate = 0.2,
    drop_auxiliary: Rate = 0.7,
) -> Classifier:
    """Inception v1; `stem='cifar'` fits it to small images. https://arxiv.org/abs/1409.4842"""
    layers = Layers(conv, norm, activation)
    backbone = GoogLeNet(stem, width, large_kernel, layers, pool, branch_pool)
    head = Head(num_classes, drop_rate)
    if not auxiliary_heads:
        return Classifier(backbone, head)
    auxiliary = AuxiliaryHead(num_classes, drop_auxiliary, layers, width)
    return AuxiliaryClassifier(backbone, head, (auxiliary, auxiliary.copy()))
