"""MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications.

Howard, Zhu, Chen, Kalenichenko, Wang, Weyand, Andreetto, Adam 2017.
https://arxiv.org/abs/1704.04861
Differs from the paper: ReLU6 for ReLU, as in the authors' code. The width multiplier alpha is the
argument `width`, the resolution multiplier is the size of the image. `strides` may be changed so
that small images keep a map worth convolving; the parameters do not depend on them.
"""

from functools import partial
from typing import Annotated, Literal

import flax.linen as nn
import msgspec

from jaxdl.config import Positive, Rate
from jaxdl.nn.activation import Activation, relu6
from jaxdl.nn.head import Classifier, Head
from jaxdl.nn.kernel_norm import ConvBuilder, plain
from jaxdl.nn.layers import ConvNorm, Layers, round_channels
from jaxdl.nn.norm import Norm, batch_norm
from jaxdl.nn.separable import Separable
from jaxdl.registry import register
from jaxdl.types import Array

# Table 1: features and blocks between two changes of the map's size. Its strides follow separately.
STAGES = ((64, 1), (128, 2), (256, 2), (512, 6), (1024, 2))
STRIDES = (2, 1, 2, 2, 2, 2)
"""Of the stem and the five stages; 32 in all."""

# Of the authors' trained weights: https://keras.io/api/applications/mobilenet
AUTHORS = {
    "padding": "same",
    "norm": partial(batch_norm, momentum=0.99, epsilon=1e-3),
    "drop_rate": 1e-3,
}
# timm's mobilenetv1_100, trained with symmetric padding; and a quarter of its width as the authors
# trained it.
VARIANTS = {"mobilenet_v1": {}, "mobilenet_v1_025": AUTHORS | {"width": 0.25}}


class MobileNetV1(nn.Module):
    """(b, h, w, c) -> (b, h / s, w / s, 1024 * width), s the product of the strides.

    Attributes:
        width: multiplies the features of every layer.
        strides: of the stem and of the five stages' first blocks.
        padding: of the 3x3 convolutions, 'SAME' or None for symmetric.
        layers: convolution, norm and activation.
    """

    width: float = 1.0
    strides: tuple[int, ...] = STRIDES
    padding: str | None = None
    layers: Layers = Layers(activation=relu6)

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        stem_stride, *strides = self.strides
        features = round_channels(32 * self.width)
        x = ConvNorm(features, 3, stem_stride, self.layers, self.padding, name="stem")(x, train)
        for i, ((features, blocks), stride) in enumerate(zip(STAGES, strides, strict=True)):
            for j in range(blocks):
                x = Separable(
                    round_channels(features * self.width),
                    stride=stride if j == 0 else 1,
                    layers=self.layers,
                    padding=self.padding,
                    between=True,
                    name=f"stage{i + 1}_block{j + 1}",
                )(x, train)
        return x


Strides = Annotated[tuple[int, ...], msgspec.Meta(min_length=6, max_length=6)]


def mobilenet_v1(
    num_classes: int,
    /,
    *,
    width: Positive = 1.0,
    strides: Strides = STRIDES,
    padding: Literal["symmetric", "same"] = "symmetric",
    drop_rate: Rate = 0.0,
    activation: Activation = relu6,
    norm: Norm = batch_norm,
    conv: ConvBuilder = plain,
) -> Classifier:
    """MobileNet of any width; `padding='same'` is TensorFlow's, larger below and to the right."""
    layers = Layers(conv, norm, activation)
    backbone = MobileNetV1(width, strides, "SAME" if padding == "same" else None, layers)
    return Classifier(backbone, Head(num_classes, drop_rate))


for name, arguments in VARIANTS.items():
    register("models", name)(partial(mobilenet_v1, **arguments))
