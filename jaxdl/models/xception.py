"""Xception: Deep Learning with Depthwise Separable Convolutions. Chollet 2016.

https://arxiv.org/abs/1610.02357
As in the paper there is neither norm nor activation between the two halves of a separable
convolution. Differs from the author's Keras code as timm does, in symmetric padding and in the
norm's epsilon (1e-5, not 1e-3).
"""

from collections.abc import Callable, Sequence

import flax.linen as nn

from jaxdl.config import Count, Positive, Rate
from jaxdl.nn.activation import Activation, relu
from jaxdl.nn.branches import at_least, row, scaled, valid
from jaxdl.nn.head import Classifier, Head
from jaxdl.nn.kernel_norm import ConvBuilder, plain
from jaxdl.nn.layers import ConvNorm, Layers, symmetric
from jaxdl.nn.norm import Norm, batch_norm
from jaxdl.nn.pool import Pool, max_pool
from jaxdl.nn.separable import Separable
from jaxdl.registry import register
from jaxdl.types import Array

# Figure 5: features of the separable convolutions of each block, those that halve the map. The
# middle flow stands before the last of them.
ENTRY = ((128, 128), (256, 256), (728, 728))
MIDDLE = (728, 728, 728)
EXIT = (728, 1024)
TOP = (1536, 2048)


class Block(nn.Module):
    """Activations and separable convolutions, plus the shortcut.

    (b, h, w, c) -> (b, h / stride, w / stride, features[-1]).

    Attributes:
        features: of each separable convolution.
        stride: 2 ends with a pooling that halves the map; the shortcut is then a 1x1 convolution.
        layers: convolution, norm and activation.
        pool: for stride 2.
        first: the block begins without an activation, since the stem has ended with one.
    """

    features: Sequence[int]
    stride: int = 1
    layers: Layers = Layers()
    pool: Callable[..., Array] = max_pool
    first: bool = False

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        y = x
        for i, features in enumerate(self.features):
            y = y if self.first and i == 0 else self.layers.activation(y)
            y = Separable(features, layers=self.layers, act=False, name=f"separable{i + 1}")(
                y, train
            )
        if self.stride == 1:
            return x + y
        y = self.pool(y, (3, 3), (self.stride, self.stride), symmetric(3))
        unit = ConvNorm(self.features[-1], 1, self.stride, self.layers, act=False, name="shortcut")
        return unit(x, train) + y


class Xception(nn.Module):
    """Entry, middle and exit flow: (b, h, w, c) -> (b, h', w', 2048 * width), 10x10 of 299x299.

    Attributes:
        depth: blocks of the middle flow.
        width: multiplies the features of all convolutions.
        layers: convolution, norm and activation.
        pool: where blocks halve the map.
    """

    depth: int = 8
    width: float = 1.0
    layers: Layers = Layers()
    pool: Callable[..., Array] = max_pool

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        at_least(7, x, "xception")
        layers, width = self.layers, self.width
        x = row(x, (valid(32, 3, 2), valid(64, 3)), "stem", layers, width, train)
        blocks = [(f, 2) for f in ENTRY] + [(MIDDLE, 1)] * self.depth + [(EXIT, 2)]
        for i, (features, stride) in enumerate(blocks, start=1):
            wide = tuple(scaled(f, width) for f in features)
            x = Block(wide, stride, layers, self.pool, i == 1, name=f"block{i}")(x, train)
        for i, features in enumerate(TOP, start=1):
            x = Separable(scaled(features, width), layers=layers, name=f"top{i}")(x, train)
        return x


@register("models", image=(299, 299, 3))
def xception(
    num_classes: int,
    /,
    *,
    depth: Count = 8,
    width: Positive = 1.0,
    activation: Activation = relu,
    norm: Norm = batch_norm,
    conv: ConvBuilder = plain,
    pool: Pool = max_pool,
    drop_rate: Rate = 0.5,
) -> Classifier:
    """Inception taken to its end: a branch a channel. https://arxiv.org/abs/1610.02357"""
    backbone = Xception(depth, width, Layers(conv, norm, activation), pool)
    return Classifier(backbone, Head(num_classes, drop_rate))
