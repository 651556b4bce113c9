"""MobileNetV2: Inverted Residuals and Linear Bottlenecks. Sandler, Howard, Zhu and two others 2018.

https://arxiv.org/abs/1801.04381
Differs from the authors' code: symmetric padding instead of TensorFlow's SAME, as torchvision
trains it. `strides` may be changed so that small images keep a map worth convolving; the
parameters do not depend on them.
"""

from typing import Annotated

import flax.linen as nn
import msgspec

from jaxdl.config import Positive, Rate
from jaxdl.nn.activation import Activation, relu6
from jaxdl.nn.head import Classifier, Head
from jaxdl.nn.kernel_norm import ConvBuilder, plain
from jaxdl.nn.layers import ConvNorm, Layers, round_channels
from jaxdl.nn.mbconv import MBConv
from jaxdl.nn.norm import Norm, batch_norm
from jaxdl.registry import register
from jaxdl.types import Array

# Table 2: expansion, features, blocks of the seven stages. Its strides follow separately.
STAGES = ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1))
STRIDES = (2, 1, 2, 2, 2, 1, 2, 1)
"""Of the stem and the seven stages; 32 in all."""


class MobileNetV2(nn.Module):
    """(b, h, w, c) -> (b, h / s, w / s, 1280 * max(1, width)), s the product of the strides.

    Attributes:
        width: multiplies the features of every layer, the last one's only where above 1.
        strides: of the stem and of the seven stages' first blocks.
        layers: convolution, norm and activation.
    """

    width: float = 1.0
    strides: tuple[int, ...] = STRIDES
    layers: Layers = Layers(activation=relu6)

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        stem_stride, *strides = self.strides
        features = round_channels(32 * self.width)
        x = ConvNorm(features, 3, stem_stride, self.layers, name="stem")(x, train)
        for i, ((expand, features, blocks), stride) in enumerate(zip(STAGES, strides, strict=True)):
            for j in range(blocks):
                x = MBConv(
                    features=round_channels(features * self.width),
                    wide=x.shape[-1] * expand,
                    kernel=3,
                    stride=stride if j == 0 else 1,
                    layers=self.layers,
                    name=f"stage{i + 1}_block{j + 1}",
                )(x, train)
        features = round_channels(1280 * max(1.0, self.width))
        return ConvNorm(features, 1, layers=self.layers, name="top")(x, train)


Strides = Annotated[tuple[int, ...], msgspec.Meta(min_length=8, max_length=8)]


@register("models")
def mobilenet_v2(
    num_classes: int,
    /,
    *,
    width: Positive = 1.0,
    strides: Strides = STRIDES,
    drop_rate: Rate = 0.2,
    activation: Activation = relu6,
    norm: Norm = batch_norm,
    conv: ConvBuilder = plain,
) -> Classifier:
    """MobileNetV2 of any width."""
    backbone = MobileNetV2(width, strides, Layers(conv, norm, activation))
    return Classifier(backbone, Head(num_classes, drop_rate))
