"""Densely Connected Convolutional Networks. Huang, Liu, van der Maaten, Weinberger 2016.

https://arxiv.org/abs/1608.06993
All are DenseNet-BC: bottlenecks (B) four times as wide as the growth rate, and transitions that
halve the features (C), as torchvision trains it.
"""

from functools import partial
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp

from jaxdl.config import Count, Rate
from jaxdl.errors import UserError
from jaxdl.nn.activation import Activation, relu
from jaxdl.nn.head import Classifier, Head
from jaxdl.nn.kernel_norm import ConvBuilder, plain
from jaxdl.nn.layers import Layers, symmetric
from jaxdl.nn.norm import Norm, batch_norm
from jaxdl.nn.pool import Pool, avg_pool, max_pool
from jaxdl.registry import register
from jaxdl.types import Array

_fan_in = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


def _norm_act_conv(
    x: Array, layers: Layers, features: int, kernel: int, norm: str, conv: str, train: bool
) -> Array:
    """The paper's composite function H, in the order of pre-activation networks."""
    x = layers.activation(layers.norm(norm)(x, train))
    return layers.conv(
        features,
        (kernel, kernel),
        padding=symmetric(kernel),
        use_bias=False,
        kernel_init=_fan_in,
        name=conv,
    )(x)


class DenseLayer(nn.Module):
    """1x1, 3x3, and what came in beside what comes out: (b, h, w, c) -> (b, h, w, c + growth)."""

    growth: int
    layers: Layers
    drop_rate: float = 0.0

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        y = _norm_act_conv(x, self.layers, 4 * self.growth, 1, "norm1", "conv1", train)
        y = _norm_act_conv(y, self.layers, self.growth, 3, "norm2", "conv2", train)
        y = nn.Dropout(self.drop_rate)(y, deterministic=not train)
        # x_l = [x_0, ..., x_(l-1), H(x_0, ..., x_(l-1))]
        return jnp.concatenate([x, y], axis=-1)


class Transition(nn.Module):
    """1x1 and pooling, half of everything: (b, h, w, c) -> (b, h / 2, w / 2, c / 2)."""

    layers: Layers

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        x = _norm_act_conv(x, self.layers, x.shape[-1] // 2, 1, "norm", "conv", train)
        return avg_pool(x, (2, 2), (2, 2))


class DenseNet(nn.Module):
    """Stem, dense blocks with transitions between them, norm: (b, h, w, c) -> (b, h', w', c').

    Attributes:
        depths: layers of each dense block.
        growth: features that a layer adds.
        width: features of the stem.
        stem: 'imagenet' is 7x7 stride 2 and pooling; 'cifar' is 3x3 stride 1.
        layers: convolution, norm and activation.
        pool: of the stem.
        drop_rate: after each layer.
    """

    depths: tuple[int, ...]
    growth: int = 32
    width: int = 64
    stem: str = "imagenet"
    layers: Layers = Layers()
    pool: Pool = max_pool
    drop_rate: float = 0.0

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        layers = self.layers
        kernel, stride = (7, 2) if self.stem == "imagenet" else (3, 1)
        x = layers.conv(
            self.width,
            (kernel, kernel),
            strides=(stride, stride),
            padding=symmetric(kernel),
            use_bias=False,
            kernel_init=_fan_in,
            name="stem_conv",
        )(x)
        if self.stem == "imagenet":
            x = layers.activation(layers.norm("stem_norm")(x, train))
            x = self.pool(x, (3, 3), (2, 2), symmetric(3))
        for i, depth in enumerate(self.depths):
            if i > 0:
                x = Transition(layers, name=f"transition{i}")(x, train)
            for j in range(depth):
                name = f"block{i + 1}_layer{j + 1}"
                x = DenseLayer(self.growth, layers, self.drop_rate, name=name)(x, train)
        return layers.activation(layers.norm("top_norm")(x, train))


# Table 1: layers of the dense blocks, growth rate, features of the stem; 161 is torchvision's.
VARIANTS = {
    "densenet121": ((6, 12, 24, 16), 32, 64),
    "densenet161": ((6, 12, 36, 24), 48, 96),
    "densenet169": ((6, 12, 32, 32), 32, 64),
    "densenet201": ((6, 12, 48, 32), 32, 64),
}


def densenet(
    depths: tuple[int, ...],
    growth: int,
    width: int,
    num_classes: int,
    /,
    *,
    stem: Literal["imagenet", "cifar"] = "imagenet",
    drop_rate: Rate = 0.0,
    activation: Activation = relu,
    norm: Norm = batch_norm,
    conv: ConvBuilder = plain,
    pool: Pool = max_pool,
) -> Classifier:
    """A DenseNet of the ImageNet family; `stem='cifar'` fits it to small images."""
    layers = Layers(conv, norm, activation)
    backbone = DenseNet(depths, growth, width, stem, layers, pool, drop_rate)
    return Classifier(backbone, Head(num_classes))


@register("models", image=(32, 32, 3), num_classes=10)
def densenet_cifar(
    num_classes: int,
    /,
    *,
    depth: Count = 100,
    growth: Count = 12,
    drop_rate: Rate = 0.0,
    activation: Activation = relu,
    norm: Norm = batch_norm,
    conv: ConvBuilder = plain,
) -> Classifier:
    """DenseNet-BC of section 3 for 32x32 images: three equal blocks, 6n + 4 layers in all.

    The paper drops 0.2 after each layer where it does not augment.
    """
    if depth < 10 or depth % 6 != 4:
        raise UserError(f"depth is {depth}, but a DenseNet-BC has 6n + 4 layers: 40, 100, 190, 250")
    depths = ((depth - 4) // 6,) * 3
    layers = Layers(conv, norm, activation)
    backbone = DenseNet(depths, growth, 2 * growth, "cifar", layers, drop_rate=drop_rate)
    return Classifier(backbone, Head(num_classes))


for name, variant in VARIANTS.items():
    register("models", name)(partial(densenet, *variant))
