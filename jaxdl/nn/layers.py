"""Layers that a convolutional network may swap by name, and the unit most of them are made of."""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
from flax.typing import Initializer

from jaxdl.nn.activation import relu
from jaxdl.nn.kernel_norm import plain
from jaxdl.nn.norm import batch_norm
from jaxdl.types import Array

fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""He initialisation by the outgoing connections: https://arxiv.org/abs/1502.01852"""
# torchvision counts the outputs of all channels: in the deepest blocks of mobile networks the maps
# then vary by less than the norm's epsilon.
depthwise_init = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
"""The same for depthwise kernels, as in timm: the fan-in of an output is k * k."""


@dataclasses.dataclass(frozen=True)
class Layers:
    """The interchangeable layers of a convolutional network.

    Attributes:
        conv: (features, kernel_size, strides=, padding=, ...) -> layer, one of the `convs`.
        norm: (name) -> layer called as (x, train), one of the `norms`.
        activation: x -> y, one of the `activations`.
    """

    conv: Callable[..., nn.Module] = plain
    norm: Callable[[str], nn.Module] = batch_norm
    activation: Callable[[Array], Array] = relu


def round_channels(channels: float, divisor: int = 8) -> int:
    """To the nearest multiple of the divisor, never below it, nor below 90% of the wish.

    The rule of the mobile networks' authors: https://arxiv.org/abs/1801.04381
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def symmetric(kernel: int, rate: int = 1) -> tuple[tuple[int, int], tuple[int, int]]:
    """Padding that keeps the size at stride 1, the same on both sides at any stride."""
    return ((rate * (kernel - 1) // 2,) * 2,) * 2


class ConvNorm(nn.Module):
    """Convolution without bias, norm, activation: (b, h, w, c) -> (b, h', w', features).

    Attributes:
        features: channels that come out.
        kernel: window, a side or (height, width).
        stride: of both axes.
        layers: what the three are.
        padding: a string or pairs; without it, symmetric, so that the stride alone shrinks.
        groups: of the convolution.
        act: False leaves the activation out.
        kernel_init: of the convolution.
    """

    features: int
    kernel: int | tuple[int, int]
    stride: int = 1
    layers: Layers = Layers()
    padding: str | tuple[tuple[int, int], ...] | None = None
    groups: int = 1
    act: bool = True
    kernel_init: Initializer = fan_out

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        window = (self.kernel, self.kernel) if isinstance(self.kernel, int) else self.kernel
        padding = self.padding
        if padding is None:
            padding = tuple(((k - 1) // 2, (k - 1) // 2) for k in window)
        x = self.layers.conv(
            self.features,
            window,
            strides=(self.stride, self.stride),
            padding=padding,
            feature_group_count=self.groups,
            use_bias=False,
            kernel_init=self.kernel_init,
            name="conv",
        )(x)
        x = self.layers.norm("norm")(x, train)
        return self.layers.activation(x) if self.act else x
