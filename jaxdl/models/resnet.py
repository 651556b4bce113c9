"""Deep Residual Learning for Image Recognition. He, Zhang, Ren, Sun 2015. https://arxiv.org/abs/1512.03385

Differs from the paper: the bottleneck's stride sits on its 3x3 convolution, not on the first 1x1
(the form of torchvision, +0.5% top-1); the CIFAR family follows section 4.2 with its
parameter-free shortcuts (option A), which start at the centre of the added channels.

Of the same blocks: ResNeXt, Aggregated Residual Transformations. Xie, Girshick, Dollar, Tu, He
2016, https://arxiv.org/abs/1611.05431 (a grouped 3x3); Squeeze-and-Excitation Networks. Hu, Shen,
Albanie, Sun, Wu 2017, https://arxiv.org/abs/1709.01507 (gated channels before the sum).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp

from jaxdl.config import Count, Rate
from jaxdl.nn.activation import Activation, relu
from jaxdl.nn.drop import DropPath
from jaxdl.nn.gates import Gate, squeeze_excite
from jaxdl.nn.head import Classifier, Head
from jaxdl.nn.kernel_norm import ConvBuilder, plain
from jaxdl.nn.layers import Layers, fan_out, symmetric
from jaxdl.nn.norm import Norm, batch_norm
from jaxdl.nn.pool import Pool, max_pool
from jaxdl.registry import register
from jaxdl.types import Array


def _conv(layers: Layers, features: int, kernel: int, stride: int = 1, **more: Any) -> nn.Module:
    return layers.conv(
        features,
        (kernel, kernel),
        strides=(stride, stride),
        padding=symmetric(kernel),
        use_bias=False,
        kernel_init=fan_out,
        **more,
    )


class BasicBlock(nn.Module):
    """3x3, 3x3, plus the shortcut: (b, h, w, c) -> (b, h / stride, w / stride, features).

    Attributes of this block and of `Bottleneck`:
        features: channels of the 3x3 convolutions; what comes out is `expansion` times as wide.
        stride: of the whole block.
        shortcut: (x, features, stride, layers, train) -> what is added, `projection` or `padding`.
        groups: of the bottleneck's 3x3 convolution.
        group_width: channels of each group, where the first stage has 64 features (ResNeXt's d).
        attention: (name) -> layer on the branch before the sum, one of the `attentions`.
        drop_path: probability that the branch is dropped.
    """

    features: int
    stride: int
    shortcut: Callable[..., Array]
    layers: Layers = Layers()
    groups: int = 1
    group_width: int = 64
    gate: Callable[[str], nn.Module] | None = None
    drop_path: float = 0.0
    expansion = 1

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        layers = self.layers
        y = _conv(layers, self.features, 3, self.stride, name="conv1")(x)
        y = layers.activation(layers.norm("norm1")(y, train))
        y = _conv(layers, self.features, 3, name="conv2")(y)
        y = layers.norm("norm2")(y, train)
        if self.gate:
            y = self.gate("attention")(y)
        y = DropPath(self.drop_path)(y, train)
        # y = F(x) + shortcut(x)
        return layers.activation(y + self.shortcut(x, self.features, self.stride, layers, train))


class Bottleneck(BasicBlock):
    """1x1, 3x3, 1x1 with four times the width at its ends, plus the shortcut."""

    expansion = 4

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        layers, out = self.layers, self.features * self.expansion
        inner = self.features * self.group_width // 64 * self.groups
        y = _conv(layers, inner, 1, name="conv1")(x)
        y = layers.activation(layers.norm("norm1")(y, train))
        y = _conv(layers, inner, 3, self.stride, feature_group_count=self.groups, name="conv2")(y)
        y = layers.activation(layers.norm("norm2")(y, train))
        y = layers.norm("norm3")(_conv(layers, out, 1, name="conv3")(y), train)
        if self.gate:
            y = self.gate("attention")(y)
        y = DropPath(self.drop_path)(y, train)
        return layers.activation(y + self.shortcut(x, out, self.stride, layers, train))


def projection(x: Array, features: int, stride: int, layers: Layers, train: bool) -> Array:
    """Option B: the identity where shapes agree, else a strided 1x1 convolution and a norm."""
    if x.shape[-1] == features and stride == 1:
        return x
    x = _conv(layers, features, 1, stride, name="shortcut_conv")(x)
    return layers.norm("shortcut_norm")(x, train)


def padding(x: Array, features: int, stride: int, layers: Layers, train: bool) -> Array:
    """Option A: subsample, and fill the added channels with zeros; no parameters."""
    del layers, train
    added = features - x.shape[-1]
    x = x[:, ::stride, ::stride]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (added // 2, added - added // 2)))


def no_shortcut(x: Array, features: int, stride: int, layers: Layers, train: bool) -> float:
    """Nothing is added: the plain network of the paper's figure 1."""
    del x, features, stride, layers, train
    return 0.0


class ResNet(nn.Module):
    """Stem, stages of residual blocks: (b, h, w, c) -> (b, h / 32, w / 32, features).

    Attributes:
        depths: blocks in each stage; all but the first halve the map.
        block: (features, stride, name=) -> `BasicBlock` or `Bottleneck`, its other fields given.
        width: features of the first stage, doubled by each stage after it.
        stem: 'imagenet' is 7x7 stride 2 and pooling; 'cifar' is 3x3 stride 1.
        layers: of the stem.
        pool: of the stem.
        drop_path: probability that the last block's branch is dropped; grows linearly to it.
    """

    depths: Sequence[int]
    block: Callable[..., nn.Module]
    width: int = 64
    stem: str = "imagenet"
    layers: Layers = Layers()
    pool: Callable[..., Array] = max_pool
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        kernel, stride = (7, 2) if self.stem == "imagenet" else (3, 1)
        x = _conv(self.layers, self.width, kernel, stride, name="stem_conv")(x)
        x = self.layers.activation(self.layers.norm("stem_norm")(x, train))
        if self.stem == "imagenet":
            x = self.pool(x, (3, 3), (2, 2), symmetric(3))
        done = 0
        for i, depth in enumerate(self.depths):
            for j in range(depth):
                x = self.block(
                    self.width * 2**i,
                    2 if i > 0 and j == 0 else 1,
                    drop_path=self.drop_path * done / sum(self.depths),
                    name=f"stage{i + 1}_block{j + 1}",
                )(x, train)
                done += 1
        return x


# Blocks per stage: table 1 of the paper.
BASIC = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
BOTTLENECK = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3), "resnet152": (3, 8, 36, 3)}
# ResNeXt, depth-CxWd: C groups, each W channels wide in the first stage.
NEXT = {
    "resnext50_32x4d": ((3, 4, 6, 3), 32, 4),
    "resnext101_32x4d": ((3, 4, 23, 3), 32, 4),
    "resnext101_32x8d": ((3, 4, 23, 3), 32, 8),
    "resnext101_64x4d": ((3, 4, 23, 3), 64, 4),
}
# Section 4.2: 6n + 2 layers.
CIFAR = {f"resnet{6 * n + 2}": n for n in (3, 5, 7, 9, 18)}
SHORTCUTS = {"projection": projection, "padding": padding, "none": no_shortcut}


def resnet(
    variant: tuple[int, ...],
    block: type[nn.Module],
    num_classes: int,
    /,
    *,
    depths: tuple[Count, ...] | None = None,
    stem: Literal["imagenet", "cifar"] = "imagenet",
    width: Count = 64,
    groups: Count = 1,
    group_width: Count = 64,
    shortcut: Literal["projection", "padding", "none"] = "projection",
    activation: Activation = relu,
    norm: Norm = batch_norm,
    conv: ConvBuilder = plain,
    pool: Pool = max_pool,
    gate: Gate | None = None,
    drop_rate: Rate = 0.0,
    drop_path: Rate = 0.0,
) -> Classifier:
    """A residual network of the ImageNet family; `stem='cifar'` fits it to small images.

    `depths`, where given, are the blocks of each stage in place of the variant's.
    """
    layers = Layers(conv, norm, activation)
    built = partial(
        block,
        shortcut=SHORTCUTS[shortcut],
        layers=layers,
        groups=groups,
        group_width=group_width,
        gate=gate,
    )
    backbone = ResNet(depths or variant, built, width, stem, layers, pool, drop_path)
    return Classifier(backbone, Head(num_classes, drop_rate))


def resnet_cifar(
    n: int,
    num_classes: int,
    /,
    *,
    width: Count = 16,
    shortcut: Literal["projection", "padding", "none"] = "padding",
    activation: Activation = relu,
    norm: Norm = batch_norm,
    conv: ConvBuilder = plain,
    gate: Gate | None = None,
    drop_path: Rate = 0.0,
) -> Classifier:
    """A residual network of the CIFAR family: 6n + 2 layers for 32x32 images."""
    layers = Layers(conv, norm, activation)
    block = partial(BasicBlock, shortcut=SHORTCUTS[shortcut], layers=layers, gate=gate)
    backbone = ResNet((n, n, n), block, width, "cifar", layers, drop_path=drop_path)
    return Classifier(backbone, Head(num_classes))


for names, block in ((BASIC, BasicBlock), (BOTTLENECK, Bottleneck)):
    for name, depths in names.items():
        register("models", name)(partial(resnet, depths, block))
        register("models", f"se{name}")(partial(resnet, depths, block, gate=squeeze_excite))
for name, (depths, groups, group_width) in NEXT.items():
    build = partial(resnet, depths, Bottleneck, groups=groups, group_width=group_width)
    register("models", name)(build)
    register("models", f"se{name}")(partial(build, gate=squeeze_excite))
for name, n in CIFAR.items():
    register("models", name, image=(32, 32, 3), num_classes=10)(partial(resnet_cifar, n))
