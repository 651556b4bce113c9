"""The baseline convolutional network: pairs of 3x3 convolutions, each pair halving the map.

The plain network against which residual and scaled ones are compared, in the manner of
Very Deep Convolutional Networks. Simonyan, Zisserman 2014. https://arxiv.org/abs/1409.1556
Differs: batch normalisation after each convolution, and global pooling in place of wide dense
layers, so that any input size works.
"""

from collections.abc import Callable
from typing import Literal

import flax.linen as nn

from jaxdl.config import Count, Rate
from jaxdl.nn.activation import Activation, relu
from jaxdl.nn.head import Classifier, Head
from jaxdl.nn.kernel_norm import ConvBuilder, plain
from jaxdl.nn.layers import Layers
from jaxdl.nn.norm import Norm, batch_norm
from jaxdl.nn.pool import Pool, max_pool
from jaxdl.registry import register
from jaxdl.types import Array


class CNN(nn.Module):
    """(b, h, w, c) -> (b, h / 2^(n-1), w / 2^(n-1), widths[-1]) for n widths.

    Without a pooling, the second convolution of each pair has stride 2.
    """

    widths: tuple[int, ...]
    drop_rate: float = 0.0
    layers: Layers = Layers()
    pool: Callable[..., Array] | None = max_pool

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        conv, norm, activation = self.layers.conv, self.layers.norm, self.layers.activation
        he = nn.initializers.he_normal()
        for i, width in enumerate(self.widths):
            halves = i < len(self.widths) - 1
            for j in range(2):
                stride = 2 if halves and j == 1 and self.pool is None else 1
                x = conv(
                    width,
                    (3, 3),
                    strides=(stride, stride),
                    use_bias=False,
                    kernel_init=he,
                    name=f"conv{i}_{j}",
                )(x)
                x = activation(norm(f"norm{i}_{j}")(x, train))
            if halves and self.pool:
                x = self.pool(x, (2, 2), (2, 2), "SAME")
            x = nn.Dropout(self.drop_rate)(x, deterministic=not train)
        return x


@register("models", image=(32, 32, 3), num_classes=10)
def cnn(
    num_classes: int,
    /,
    *,
    widths: tuple[Count, ...] = (32, 64, 128),
    drop_rate: Rate = 0.0,
    activation: Activation = relu,
    norm: Norm = batch_norm,
    conv: ConvBuilder = plain,
    pool: Pool = max_pool,
    downsample: Literal["pool", "stride"] = "pool",
) -> Classifier:
    """Two 3x3 convolutions a width, batch norm, ReLU, max-pooling between widths.

    `downsample='stride'` halves maps by the stride of a convolution, with as many parameters.
    """
    layers = Layers(conv, norm, activation)
    backbone = CNN(widths, drop_rate, layers, pool if downsample == "pool" else None)
    return Classifier(backbone, Head(num_classes))
