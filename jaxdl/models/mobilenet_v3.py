"""Searching for MobileNetV3. Howard, Sandler, Chu, Chen and eight others 2019.

https://arxiv.org/abs/1905.02244
Differs from the authors' code: symmetric padding instead of TensorFlow's SAME, as torchvision
trains it. The dense layer after the pooling, which the paper draws as a 1x1 convolution, belongs
to the head, so that `features` are still a map.
"""

import dataclasses
from functools import partial
from typing import Annotated, Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import msgspec

from jaxdl.config import Positive, Rate
from jaxdl.nn.activation import Activation, hard_sigmoid, hard_silu, relu
from jaxdl.nn.head import Classifier
from jaxdl.nn.kernel_norm import ConvBuilder, plain
from jaxdl.nn.layers import ConvNorm, Layers, fan_out, round_channels
from jaxdl.nn.mbconv import MBConv
from jaxdl.nn.norm import Norm, batch_norm
from jaxdl.nn.squeeze import SqueezeExcite
from jaxdl.registry import register
from jaxdl.types import Array


class Row(NamedTuple):
    """One block: a row of the paper's tables 1 and 2."""

    kernel: int
    wide: int
    features: int
    squeeze: bool
    activation: Literal["RE", "HS"]
    halves: bool


# Table 1 and the head's hidden features.
LARGE = (
    Row(3, 16, 16, False, "RE", False),
    Row(3, 64, 24, False, "RE", True),
    Row(3, 72, 24, False, "RE", False),
    Row(5, 72, 40, True, "RE", True),
    Row(5, 120, 40, True, "RE", False),
    Row(5, 120, 40, True, "RE", False),
    Row(3, 240, 80, False, "HS", True),
    Row(3, 200, 80, False, "HS", False),
    Row(3, 184, 80, False, "HS", False),
    Row(3, 184, 80, False, "HS", False),
    Row(3, 480, 112, True, "HS", False),
    Row(3, 672, 112, True, "HS", False),
    Row(5, 672, 160, True, "HS", True),
    Row(5, 960, 160, True, "HS", False),
    Row(5, 960, 160, True, "HS", False),
)
# Table 2.
SMALL = (
    Row(3, 16, 16, True, "RE", True),
    Row(3, 72, 24, False, "RE", True),
    Row(3, 88, 24, False, "RE", False),
    Row(5, 96, 40, True, "HS", True),
    Row(5, 240, 40, True, "HS", False),
    Row(5, 240, 40, True, "HS", False),
    Row(5, 120, 48, True, "HS", False),
    Row(5, 144, 48, True, "HS", False),
    Row(5, 288, 96, True, "HS", True),
    Row(5, 576, 96, True, "HS", False),
    Row(5, 576, 96, True, "HS", False),
)
VARIANTS = {"mobilenet_v3_large": (LARGE, 1280), "mobilenet_v3_small": (SMALL, 1024)}
STRIDES = (2, 2, 2, 2, 2)
"""Of the stem and the four blocks that halve the map; 32 in all."""

AUTHORS_NORM = partial(batch_norm, momentum=0.99, epsilon=1e-3)


class MobileNetV3(nn.Module):
    """(b, h, w, c) -> (b, h / s, w / s, 6 * features of the last row), s the product of strides.

    Attributes:
        rows: the blocks.
        width: multiplies the features of every layer.
        strides: of the stem and of the blocks that halve the map.
        layers: convolution, norm and the activation of the rows marked HS; the others have ReLU.
    """

    rows: tuple[Row, ...]
    width: float = 1.0
    strides: tuple[int, ...] = STRIDES
    layers: Layers = Layers(norm=AUTHORS_NORM, activation=hard_silu)

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        scaled = lambda features: round_channels(features * self.width)
        layers_of = {"RE": dataclasses.replace(self.layers, activation=relu), "HS": self.layers}
        strides = iter(self.strides)
        x = ConvNorm(scaled(16), 3, next(strides), self.layers, name="stem")(x, train)
        for i, row in enumerate(self.rows):
            wide = scaled(row.wide)
            squeezed = partial(
                SqueezeExcite, round_channels(wide // 4), gate=hard_sigmoid, kernel_init=fan_out
            )
            x = MBConv(
                features=scaled(row.features),
                wide=wide,
                kernel=row.kernel,
                stride=next(strides) if row.halves else 1,
                layers=layers_of[row.activation],
                squeeze_excite=squeezed if row.squeeze else None,
                name=f"block{i + 1}",
            )(x, train)
        return ConvNorm(6 * x.shape[-1], 1, layers=self.layers, name="top")(x, train)


class HiddenHead(nn.Module):
    """Pooling, a dense layer, dropout, a dense layer: (b, h, w, c) or (b, d) -> logits (b, k)."""

    num_classes: int
    hidden: int
    activation: Activation = hard_silu
    drop_rate: float = 0.0

    @nn.compact
    def __call__(self, features: Array, train: bool = False) -> Array:
        x = jnp.mean(features, axis=(1, 2)) if features.ndim == 4 else features
        x = self.activation(nn.Dense(self.hidden, name="hidden")(x))
        x = nn.Dropout(self.drop_rate)(x, deterministic=not train)
        return nn.Dense(self.num_classes, name="logits")(x)


Strides = Annotated[tuple[int, ...], msgspec.Meta(min_length=5, max_length=5)]


def mobilenet_v3(
    variant: str,
    num_classes: int,
    /,
    *,
    width: Positive = 1.0,
    strides: Strides = STRIDES,
    drop_rate: Rate = 0.2,
    activation: Activation = hard_silu,
    norm: Norm = AUTHORS_NORM,
    conv: ConvBuilder = plain,
) -> Classifier:
    """MobileNetV3; `strides` may be changed for small images, the parameters stay."""
    rows, hidden = VARIANTS[variant]
    backbone = MobileNetV3(rows, width, strides, Layers(conv, norm, activation))
    head = HiddenHead(num_classes, round_channels(hidden * width), activation, drop_rate)
    return Classifier(backbone, head)


for name in VARIANTS:
    register("models", name)(partial(mobilenet_v3, name))
