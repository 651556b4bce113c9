"""ImageNet Classification with Deep Convolutional Neural Networks.

Krizhevsky, Sutskever, Hinton 2012. https://papers.nips.cc/paper/4824
`alexnet_lrn` is this paper's network; its two towers are groups of the convolutions. Differs: the
images are 227x227, as 224 of the text does not give the 55x55 maps of its figure 2; weights start
by their fan in (those of the logits by 0.01, as all of the paper), and biases at 0.

`alexnet` has one tower and no local response normalisation: One weird trick for parallelizing
convolutional neural networks. Krizhevsky 2014, https://arxiv.org/abs/1404.5997. As in torchvision,
dropout stands before fc6 and fc7; in the 2012 network, behind them.

For images of 32x32: kernel=5, stride=1, pool_size=3, hidden=1024.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax.linen as nn

from jaxdl.config import Count, Positive, Rate
from jaxdl.nn.activation import Activation, relu
from jaxdl.nn.dense import dense, he_normal, near_zero
from jaxdl.nn.head import Classifier, Head, MapHead
from jaxdl.nn.kernel_norm import ConvBuilder, plain
from jaxdl.nn.layers import Layers, round_channels, symmetric
from jaxdl.nn.norm import Norm, local_response_norm, no_norm
from jaxdl.nn.pool import Pool, adaptive_avg_pool, max_pool
from jaxdl.registry import register
from jaxdl.types import Array

POOLED = (1, 2, 5)  # the layers after which maps shrink


class Variant(NamedTuple):
    """Differences between the two forms."""

    features: tuple[int, ...]
    groups: tuple[int, ...]
    padding: int  # of the first convolution
    drops_map: bool  # dropout before fc6 and fc7; else before fc7 and the logits
    norm: Callable[[str], nn.Module]
    size: int  # of the image


# Section 3.5 and figure 2 of 2012; figure 2 of 2014 with the widths of torchvision.
VARIANTS = {
    "alexnet": Variant((64, 192, 384, 256, 256), (1, 1, 1, 1, 1), 2, True, no_norm, 224),
    "alexnet_lrn": Variant(
        (96, 256, 384, 384, 256), (1, 2, 1, 2, 2), 0, False, local_response_norm, 227
    ),
}


class AlexNet(nn.Module):
    """Five convolutions, fc6 and fc7: (b, h, w, c) -> (b, hidden).

    Attributes:
        features: channels of the convolutions.
        groups: of the convolutions.
        kernel: of the first convolution, a side.
        stride: of the first convolution.
        padding: of the first convolution, on each side.
        pool_size: side of the map that fc6 reads; averages make it so.
        hidden: width of fc6 and fc7.
        convolutional: fc6 and fc7 are convolutions, (b, h, w, c) -> (b, h', w', hidden).
        drop_rates: before fc6 and before fc7.
        layers: the norm follows the activation of the first two convolutions.
        pool: 3x3 stride 2, so windows overlap.
    """

    features: tuple[int, ...]
    groups: tuple[int, ...]
    kernel: int = 11
    stride: int = 4
    padding: int = 2
    pool_size: int = 6
    hidden: int = 4096
    convolutional: bool = False
    drop_rates: tuple[float, float] = (0.0, 0.0)
    layers: Layers = Layers(norm=no_norm)
    pool: Callable[..., Array] = max_pool

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        kernels = (self.kernel, 5, 3, 3, 3)
        rows = zip(kernels, self.features, self.groups, strict=True)
        for i, (kernel, features, groups) in enumerate(rows, 1):
            x = self.layers.conv(
                features,
                (kernel, kernel),
                strides=(self.stride if i == 1 else 1,) * 2,
                padding=((self.padding,) * 2,) * 2 if i == 1 else symmetric(kernel),
                feature_group_count=groups,
                kernel_init=he_normal,
                name=f"conv{i}",
            )(x)
            x = self.layers.activation(x)
            if i <= 2:
                x = self.layers.norm(f"norm{i}")(x, train)
            if i in POOLED:
                x = self.pool(x, (3, 3), (2, 2))
        window = (self.pool_size, self.pool_size)
        if not self.convolutional:
            x = adaptive_avg_pool(x, window)
        for name, size, rate in zip(("fc6", "fc7"), (window, (1, 1)), self.drop_rates, strict=True):
            x = nn.Dropout(rate)(x, deterministic=not train)
            x = dense(x, self.hidden, size if self.convolutional else None, name)
            x = self.layers.activation(x)
        return x


def alexnet(
    variant: str,
    num_classes: int,
    /,
    *,
    width: Positive = 1.0,
    kernel: Count = 11,
    stride: Count = 4,
    pool_size: Count = 6,
    hidden: Count = 4096,
    convolutional: bool = False,
    activation: Activation = relu,
    norm: Norm = no_norm,
    conv: ConvBuilder = plain,
    pool: Pool = max_pool,
    drop_rate: Rate = 0.5,
) -> Classifier:
    """AlexNet; with `convolutional`, dense layers are convolutions and logits (b, h', w', k)."""
    features, groups, padding, drops_map, *_ = VARIANTS[variant]
    features = tuple(round_channels(width * f) for f in features)
    rates = (drop_rate, drop_rate, 0.0) if drops_map else (0.0, drop_rate, drop_rate)
    backbone = AlexNet(
        features,
        groups,
        kernel,
        stride,
        padding,
        pool_size,
        hidden,
        convolutional,
        rates[:2],
        Layers(conv, norm, activation),
        pool,
    )
    head = MapHead if convolutional else Head
    return Classifier(backbone, head(num_classes, rates[2], kernel_init=near_zero))


for name, variant in VARIANTS.items():
    build = partial(alexnet, name, norm=variant.norm)
    register("models", name, image=(variant.size, variant.size, 3))(build)
