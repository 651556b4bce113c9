"""Depthwise separable convolution. Sifre 2014, https://www.di.ens.fr/data/publications/papers/phd_sifre.pdf

One filter a channel, then a 1x1 convolution over the channels: k^2 c + c f weights, not k^2 c f.
"""

import flax.linen as nn

from jaxdl.nn.layers import Layers, depthwise_init, fan_out, symmetric
from jaxdl.types import Array


class Separable(nn.Module):
    """Depthwise convolution, pointwise convolution, norm: (b, h, w, c) -> (b, h', w', features).

    Attributes:
        features: channels that come out.
        kernel: side of the depthwise window.
        stride: of the depthwise convolution.
        layers: convolution, norm and activation.
        padding: of the depthwise convolution; without it, symmetric.
        between: a norm and an activation after the depthwise convolution too, as in MobileNet;
            Xception has none.
        act: False leaves the last activation out.
        multiplier: filters a channel.
    """

    features: int
    kernel: int = 3
    stride: int = 1
    layers: Layers = Layers()
    padding: str | tuple[tuple[int, int], ...] | None = None
    between: bool = False
    act: bool = True
    multiplier: int = 1

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        layers = self.layers
        x = layers.conv(
            x.shape[-1] * self.multiplier,
            (self.kernel, self.kernel),
            strides=(self.stride, self.stride),
            padding=symmetric(self.kernel) if self.padding is None else self.padding,
            feature_group_count=x.shape[-1],
            use_bias=False,
            kernel_init=depthwise_init,
            name="depthwise_conv",
        )(x)
        if self.between:
            x = layers.activation(layers.norm("depthwise_norm")(x, train))
        x = layers.conv(
            self.features, (1, 1), use_bias=False, kernel_init=fan_out, name="pointwise_conv"
        )(x)
        x = layers.norm("pointwise_norm")(x, train)
        return layers.activation(x) if self.act else x
