"""A ConvNet for the 2020s. Liu, Mao, Wu, Feichtenhofer, Darrell, Xie 2022.

https://arxiv.org/abs/2201.03545
As torchvision and the authors have it. The norm after the pooling belongs to the head.
"""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from jaxdl.config import Count, Positive, Rate
from jaxdl.nn.activation import Activation, gelu
from jaxdl.nn.drop import DropPath
from jaxdl.nn.head import Classifier
from jaxdl.nn.kernel_norm import ConvBuilder, plain
from jaxdl.nn.layers import Layers, symmetric
from jaxdl.nn.norm import Norm, layer_norm
from jaxdl.registry import register
from jaxdl.types import Array

# The authors' truncation at 2, a hundred standard deviations away, truncates nothing.
_narrow = nn.initializers.normal(0.02)


class ConvNeXtBlock(nn.Module):
    """Depthwise 7x7, norm, two dense layers, scaled, plus the input: (b, h, w, c) -> same.

    Attributes:
        layers: convolution, norm, and the activation between the dense layers.
        layer_scale: what each channel of the branch is first multiplied by.
        drop_path: probability that the branch is dropped.
    """

    layers: Layers
    layer_scale: float
    drop_path: float

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        c = x.shape[-1]
        dense = partial(nn.Dense, kernel_init=_narrow)
        y = self.layers.conv(
            c,
            (7, 7),
            padding=symmetric(7),
            feature_group_count=c,
            kernel_init=_narrow,
            name="depthwise",
        )(x)
        y = self.layers.norm("norm")(y, train)
        y = self.layers.activation(dense(4 * c, name="dense1")(y))
        y = dense(c, name="dense2")(y)
        # y = x + gamma F(x), https://arxiv.org/abs/2103.17239
        gamma = self.param("layer_scale", nn.initializers.constant(self.layer_scale), (c,))
        return x + DropPath(self.drop_path)(y * gamma.reshape(1, 1, 1, c), train)


class ConvNeXt(nn.Module):
    """Patches, stages that each halve the map before they start: (b, h, w, c) -> (b, h', w', c').

    Attributes:
        depths: blocks of each stage.
        width: features of the first stage, doubled by each stage after it.
        patch: side of the stem's patches.
        layers: convolution, norm and activation.
        layer_scale: of each block.
        drop_path: probability that the last block's branch is dropped; grows linearly to it.
    """

    depths: tuple[int, ...]
    width: int = 96
    patch: int = 4
    layers: Layers = Layers(norm=layer_norm, activation=gelu)
    layer_scale: float = 1e-6
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        norm, done = self.layers.norm, 0
        patches = lambda features, side, name: self.layers.conv(
            features,
            (side, side),
            strides=(side, side),
            padding="VALID",
            kernel_init=_narrow,
            name=name,
        )
        x = norm("stem_norm")(patches(self.width, self.patch, "stem_patches")(x), train)
        for i, depth in enumerate(self.depths):
            if i > 0:
                x = norm(f"downsample{i}_norm")(x, train)
                x = patches(self.width * 2**i, 2, f"downsample{i}_patches")(x)
            for j in range(depth):
                x = ConvNeXtBlock(
                    self.layers,
                    self.layer_scale,
                    self.drop_path * done / max(1, sum(self.depths) - 1),
                    name=f"stage{i + 1}_block{j + 1}",
                )(x, train)
                done += 1
        return x


class NormHead(nn.Module):
    """Pooling, norm, dropout, a dense layer: (b, h, w, c) or (b, d) -> logits (b, k)."""

    num_classes: int
    norm: Norm = layer_norm
    drop_rate: float = 0.0

    @nn.compact
    def __call__(self, features: Array, train: bool = False) -> Array:
        x = jnp.mean(features, axis=(1, 2)) if features.ndim == 4 else features
        x = self.norm("norm")(x, train)
        x = nn.Dropout(self.drop_rate)(x, deterministic=not train)
        return nn.Dense(self.num_classes, kernel_init=_narrow, name="logits")(x)


# Blocks and features: section 3. Stochastic depth: table 5 of the appendix, for ImageNet-1k.
VARIANTS = {
    "convnext_tiny": ((3, 3, 9, 3), 96, 0.1),
    "convnext_small": ((3, 3, 27, 3), 96, 0.4),
    "convnext_base": ((3, 3, 27, 3), 128, 0.5),
    "convnext_large": ((3, 3, 27, 3), 192, 0.5),
}


def convnext(
    num_classes: int,
    /,
    *,
    depths: tuple[int, ...],
    width: Count,
    drop_path: Rate,
    patch: Count = 4,
    layer_scale: Positive = 1e-6,
    drop_rate: Rate = 0.0,
    activation: Activation = gelu,
    norm: Norm = layer_norm,
    conv: ConvBuilder = plain,
) -> Classifier:
    """ConvNeXt; `patch` 1 or 2 fits it to small images."""
    layers = Layers(conv, norm, activation)
    backbone = ConvNeXt(depths, width, patch, layers, layer_scale, drop_path)
    return Classifier(backbone, NormHead(num_classes, norm, drop_rate))


for name, (depths, width, drop_path) in VARIANTS.items():
    register("models", name)(partial(convnext, depths=depths, width=width, drop_path=drop_path))
