"""The inverted bottleneck of the mobile networks: narrow ends, a wide depthwise middle.

MobileNetV2: Inverted Residuals and Linear Bottlenecks. Sandler, Howard, Zhu, Zhmoginov, Chen 2018,
https://arxiv.org/abs/1801.04381; with squeeze-excite: MnasNet, https://arxiv.org/abs/1807.11626
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn

from jaxdl.nn.drop import DropPath
from jaxdl.nn.layers import Layers, depthwise_init, fan_out, symmetric
from jaxdl.types import Array


class MBConv(nn.Module):
    """1x1 widening, depthwise, attention if any, linear 1x1 narrowing, shortcut where shapes agree.

    (b, h, w, c) -> (b, h / stride, w / stride, features).

    Attributes:
        features: channels that come out.
        wide: channels of the middle; where they are the block's input, nothing is widened.
        kernel: side of the depthwise window.
        stride: of the depthwise convolution.
        layers: convolution, norm and activation; none follows the narrowing.
        squeeze_excite: (name=) -> layer on the wide map, after its activation; None for none.
        drop_path: probability that the branch beside the shortcut is dropped.
    """

    features: int
    wide: int
    kernel: int
    stride: int
    layers: Layers
    squeeze_excite: Callable[..., nn.Module] | None = None
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        norm, activation = self.layers.norm, self.layers.activation
        conv = partial(self.layers.conv, use_bias=False, kernel_init=fan_out)
        inputs, y = x.shape[-1], x
        if self.wide != inputs:
            y = conv(self.wide, (1, 1), name="expand_conv")(y)
            y = activation(norm("expand_norm")(y, train))
        y = conv(
            self.wide,
            (self.kernel, self.kernel),
            strides=(self.stride, self.stride),
            padding=symmetric(self.kernel),
            feature_group_count=self.wide,
            kernel_init=depthwise_init,
            name="depthwise_conv",
        )(y)
        y = activation(norm("depthwise_norm")(y, train))
        if self.squeeze_excite:
            y = self.squeeze_excite(name="squeeze_excite")(y)
        y = norm("project_norm")(conv(self.features, (1, 1), name="project_conv")(y), train)
        if self.stride == 1 and inputs == self.features:
            y = x + DropPath(self.drop_path)(y, train)
        return y
