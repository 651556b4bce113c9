"""Deep Residual Learning for Image Recognition. He, Zhang, Ren, Sun 2015. https://arxiv.org/abs/1512.03385

Differs from the paper: the bottleneck's stride sits on its 3x3 convolution, not on the first 1x1
(the form of torchvision, +0.5% top-1); the CIFAR family follows section 4.2 with its
parameter-free shortcuts (option A), which start at the centre of the added channels.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp

from jaxdl.config import Count, Rate
from jaxdl.nn.conv import Conv
from jaxdl.nn.head import Classifier, Head
from jaxdl.registry import register
from jaxdl.types import Array

# He initialisation over the fan out, as the authors' and torchvision's.
_conv = partial(
    Conv, use_bias=False, kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal")
)
_norm = partial(nn.BatchNorm, momentum=0.9, epsilon=1e-5)


class BasicBlock(nn.Module):
    """3x3, 3x3, plus the shortcut: (b, h, w, c) -> (b, h / stride, w / stride, features)."""

    features: int
    stride: int
    shortcut: Callable[..., Array]
    expansion = 1

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        norm = partial(_norm, use_running_average=not train)
        strides = (self.stride, self.stride)
        y = _conv(self.features, (3, 3), strides, padding=((1, 1), (1, 1)), name="conv1")(x)
        y = nn.relu(norm(name="norm1")(y))
        y = _conv(self.features, (3, 3), padding=((1, 1), (1, 1)), name="conv2")(y)
        y = norm(name="norm2")(y)
        # y = F(x) + shortcut(x)
        return nn.relu(y + self.shortcut(x, self.features, self.stride, train))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 with four times the width at its ends, plus the shortcut."""

    features: int
    stride: int
    shortcut: Callable[..., Array]
    expansion = 4

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        norm = partial(_norm, use_running_average=not train)
        strides, out = (self.stride, self.stride), self.features * self.expansion
        y = nn.relu(norm(name="norm1")(_conv(self.features, (1, 1), name="conv1")(x)))
        y = _conv(self.features, (3, 3), strides, padding=((1, 1), (1, 1)), name="conv2")(y)
        y = nn.relu(norm(name="norm2")(y))
        y = norm(name="norm3")(_conv(out, (1, 1), name="conv3")(y))
        return nn.relu(y + self.shortcut(x, out, self.stride, train))


def projection(x: Array, features: int, stride: int, train: bool) -> Array:
    """Option B: the identity where shapes agree, else a strided 1x1 convolution and a norm."""
    if x.shape[-1] == features and stride == 1:
        return x
    x = _conv(features, (1, 1), (stride, stride), name="shortcut_conv")(x)
    return _norm(use_running_average=not train, name="shortcut_norm")(x)


def padding(x: Array, features: int, stride: int, train: bool) -> Array:
    """Option A: subsample, and fill the added channels with zeros; no parameters."""
    del train
    added = features - x.shape[-1]
    x = x[:, ::stride, ::stride]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (added // 2, added - added // 2)))


class ResNet(nn.Module):
    """Stem, stages of residual blocks: (b, h, w, c) -> (b, h / 32, w / 32, features).

    Args:
        depths: blocks in each stage; all but the first halve the map.
        block: `BasicBlock` or `Bottleneck`.
        width: features of the first stage, doubled by each stage after it.
        stem: 'imagenet' is 7x7 stride 2 and max-pooling; 'cifar' is 3x3 stride 1.
        shortcut: `projection` or `padding`.
    """

    depths: Sequence[int]
    block: type[nn.Module]
    width: int = 64
    stem: str = "imagenet"
    shortcut: Callable[..., Array] = projection

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        norm = partial(_norm, use_running_average=not train)
        if self.stem == "imagenet":
            x = _conv(self.width, (7, 7), (2, 2), padding=((3, 3), (3, 3)), name="stem_conv")(x)
            x = nn.relu(norm(name="stem_norm")(x))
            x = nn.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        else:
            x = _conv(self.width, (3, 3), padding=((1, 1), (1, 1)), name="stem_conv")(x)
            x = nn.relu(norm(name="stem_norm")(x))
        for i, depth in enumerate(self.depths):
            for j in range(depth):
                stride = 2 if i > 0 and j == 0 else 1
                block = self.block(
                    self.width * 2**i, stride, self.shortcut, name=f"stage{i + 1}_block{j + 1}"
                )
                x = block(x, train)
        return x


# Table 1 of the paper: blocks per stage.
IMAGENET = {
    "resnet18": ((2, 2, 2, 2), BasicBlock),
    "resnet34": ((3, 4, 6, 3), BasicBlock),
    "resnet50": ((3, 4, 6, 3), Bottleneck),
    "resnet101": ((3, 4, 23, 3), Bottleneck),
    "resnet152": ((3, 8, 36, 3), Bottleneck),
}
# Section 4.2: 6n + 2 layers.
CIFAR = {f"resnet{6 * n + 2}": n for n in (3, 5, 7, 9, 18)}


def resnet(
    depths: tuple[int, ...],
    block: type[nn.Module],
    num_classes: int,
    /,
    *,
    stem: Literal["imagenet", "cifar"] = "imagenet",
    width: Count = 64,
    drop_rate: Rate = 0.0,
) -> Classifier:
    """A residual network of the ImageNet family; `stem='cifar'` fits it to small images."""
    return Classifier(ResNet(depths, block, width, stem), Head(num_classes, drop_rate))


def resnet_cifar(n: int, num_classes: int, /, *, width: Count = 16) -> Classifier:
    """A residual network of the CIFAR family: 6n + 2 layers for 32x32 images."""
    backbone = ResNet((n, n, n), BasicBlock, width, stem="cifar", shortcut=padding)
    return Classifier(backbone, Head(num_classes))


for name, (depths, block) in IMAGENET.items():
    register("models", name)(partial(resnet, depths, block))
for name, n in CIFAR.items():
    register("models", name)(partial(resnet_cifar, n))
