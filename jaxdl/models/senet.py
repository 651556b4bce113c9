"""SENet-154: Squeeze-and-Excitation Networks. Hu, Shen, Albanie, Sun, Wu 2017.

https://arxiv.org/abs/1709.01507
The network of the authors' ILSVRC 2017 entry. Differs from SE-ResNeXt-152 (appendix of the paper):
three 3x3 convolutions in the stem, half as many features in a block's first 1x1, 3x3 convolutions
in the shortcuts that halve the map, dropout before the classifier.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import flax.linen as nn

from jaxdl.config import Count, Rate
from jaxdl.nn.activation import Activation, relu
from jaxdl.nn.drop import DropPath
from jaxdl.nn.gates import Gate, squeeze_excite
from jaxdl.nn.head import Classifier, Head
from jaxdl.nn.kernel_norm import ConvBuilder, plain
from jaxdl.nn.layers import ConvNorm, Layers
from jaxdl.nn.norm import Norm, batch_norm
from jaxdl.nn.pool import Pool, ceil_padding, max_pool
from jaxdl.registry import register
from jaxdl.types import Array


class SEBottleneck(nn.Module):
    """1x1, grouped 3x3, 1x1, attention, plus the shortcut.

    (b, h, w, c) -> (b, h / stride, w / stride, 4 * features).

    Attributes:
        features: half of what the first 1x1 has, a quarter of the others.
        stride: of the 3x3 convolution and the shortcut.
        groups: of the 3x3 convolution.
        layers: convolution, norm and activation.
        attention: (name) -> layer on the branch before the sum.
        drop_path: probability that the branch is dropped.
    """

    features: int
    stride: int
    groups: int
    layers: Layers
    gate: Callable[[str], nn.Module] | None
    drop_path: float

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        unit = partial(ConvNorm, layers=self.layers)
        out = 4 * self.features
        y = unit(2 * self.features, 1, name="unit1")(x, train)
        y = unit(out, 3, self.stride, groups=self.groups, name="unit2")(y, train)
        y = unit(out, 1, act=False, name="unit3")(y, train)
        if self.gate:
            y = self.gate("attention")(y)
        if self.stride > 1 or x.shape[-1] != out:
            kernel = 3 if self.stride > 1 else 1
            x = unit(out, kernel, self.stride, act=False, name="shortcut")(x, train)
        return self.layers.activation(x + DropPath(self.drop_path)(y, train))


class SENet(nn.Module):
    """Stem, stages of residual blocks: (b, h, w, c) -> (b, h / 32, w / 32, 32 * width).

    Attributes:
        depths: blocks in each stage; all but the first halve the map.
        width: features of the first stage, doubled by each stage after it.
        stem: 'imagenet' halves the map twice, 'cifar' does not.
        groups: of the 3x3 convolutions in the blocks.
        layers: convolution, norm and activation.
        pool: of the stem.
        attention: of the blocks.
        drop_path: probability that the last block's branch is dropped; grows linearly to it.
    """

    depths: tuple[int, ...]
    width: int = 64
    stem: str = "imagenet"
    groups: int = 64
    layers: Layers = Layers()
    pool: Callable[..., Array] = max_pool
    gate: Callable[[str], nn.Module] | None = squeeze_excite
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        unit, is_large = partial(ConvNorm, layers=self.layers), self.stem == "imagenet"
        x = unit(self.width, 3, 2 if is_large else 1, name="stem1")(x, train)
        x = unit(self.width, 3, name="stem2")(x, train)
        x = unit(2 * self.width, 3, name="stem3")(x, train)
        if is_large:
            x = self.pool(x, (3, 3), (2, 2), ceil_padding(x.shape[1:3], 3, 2))
        done = 0
        for i, depth in enumerate(self.depths):
            for j in range(depth):
                x = SEBottleneck(
                    self.width * 2**i,
                    2 if i > 0 and j == 0 else 1,
                    self.groups,
                    self.layers,
                    self.gate,
                    self.drop_path * done / sum(self.depths),
                    name=f"stage{i + 1}_block{j + 1}",
                )(x, train)
                done += 1
        return x


@register("models")
def senet154(
    num_classes: int,
    /,
    *,
    depths: tuple[int, ...] = (3, 8, 36, 3),
    width: Count = 64,
    stem: Literal["imagenet", "cifar"] = "imagenet",
    groups: Count = 64,
    gate: Gate | None = squeeze_excite,
    drop_rate: Rate = 0.2,
    drop_path: Rate = 0.0,
    activation: Activation = relu,
    norm: Norm = batch_norm,
    conv: ConvBuilder = plain,
    pool: Pool = max_pool,
) -> Classifier:
    """SENet-154; `stem='cifar'` fits it to small images."""
    layers = Layers(conv, norm, activation)
    backbone = SENet(depths, width, stem, groups, layers, pool, gate, drop_path)
    return Classifier(backbone, Head(num_classes, drop_rate))
