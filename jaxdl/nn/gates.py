"""Attention over channels and positions, by name: a layer maps x (b, h, w, c) to its shape."""

import math
from collections.abc import Callable
from typing import Annotated

import flax.linen as nn
import jax.numpy as jnp

from jaxdl.config import Count, Positive
from jaxdl.nn.activation import Activation, relu, sigmoid
from jaxdl.nn.conv import Conv
from jaxdl.nn.layers import round_channels, symmetric
from jaxdl.nn.squeeze import SqueezeExcite
from jaxdl.registry import Of, register
from jaxdl.types import Array

Gate = Annotated[Callable[[str], nn.Module], Of("gates")]


class EfficientChannel(nn.Module):
    """A gate a channel, from the means of its neighbours: (b, h, w, c) -> same.

    Attributes:
        gamma: what the logarithm of the channels is divided by for the number of neighbours.
        b: what is added to the logarithm before.
    """

    gamma: float
    b: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        # k = |log2(c) / gamma + b / gamma|, made odd;  y = x * sigmoid(conv1d_k(mean_hw(x)))
        k = int(abs((math.log2(x.shape[-1]) + self.b) / self.gamma))
        k = max(3, k if k % 2 else k + 1)
        means = jnp.mean(x, axis=(1, 2))[:, None, :, None]  # (b 1 c 1), channels along an axis
        conv = Conv(1, (1, k), padding="SAME", use_bias=False, name="neighbours")
        s = conv(means).reshape(x.shape[0], 1, 1, -1)
        return x * nn.sigmoid(s)


class ChannelAttention(nn.Module):
    """A gate a channel, from its mean and its largest value: (b, h, w, c) -> same."""

    ratio: float
    activation: Callable[[Array], Array]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        # y = x * sigmoid(MLP(mean_hw(x)) + MLP(max_hw(x))), one MLP for both
        reduce = nn.Dense(max(1, int(x.shape[-1] * self.ratio)), use_bias=False, name="reduce")
        expand = nn.Dense(x.shape[-1], use_bias=False, name="expand")
        mlp = lambda s: expand(self.activation(reduce(s)))
        mean, largest = (f(x, axis=(1, 2), keepdims=True) for f in (jnp.mean, jnp.max))
        return x * nn.sigmoid(mlp(mean) + mlp(largest))


class SpatialAttention(nn.Module):
    """A gate a position, from its channels' mean and largest value: (b, h, w, c) -> same."""

    kernel: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        # y = x * sigmoid(conv([mean_c(x), max_c(x)]))
        maps = [f(x, axis=-1, keepdims=True) for f in (jnp.mean, jnp.max)]
        window = (self.kernel, self.kernel)
        conv = Conv(1, window, padding=symmetric(self.kernel), name="conv")
        return x * nn.sigmoid(conv(jnp.concatenate(maps, axis=-1)))


class ChannelThenSpatial(nn.Module):
    """The gates of channels, then those of positions: (b, h, w, c) -> same."""

    ratio: float
    kernel: int
    activation: Callable[[Array], Array]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = ChannelAttention(self.ratio, self.activation, name="channel")(x)
        return SpatialAttention(self.kernel, name="spatial")(x)


@register("gates", "squeeze_excite")
def squeeze_excite(
    name: str,
    /,
    *,
    ratio: Positive = 1 / 16,
    divisor: Count = 8,
    activation: Activation = relu,
    gate: Activation = sigmoid,
) -> nn.Module:
    """A gate a channel, from all channel means. https://arxiv.org/abs/1709.01507"""
    width = lambda channels: round_channels(channels * ratio, divisor)
    return SqueezeExcite(width, activation, gate, name=name)


@register("gates", "eca")
def eca(name: str, /, *, gamma: Positive = 2.0, b: float = 1.0) -> nn.Module:
    """ECA-Net: a gate a channel, from its neighbours' means. https://arxiv.org/abs/1910.03151

    Channels have no order at first; training gives them one.
    """
    return EfficientChannel(gamma, b, name=name)


@register("gates", "channel")
def channel(name: str, /, *, ratio: Positive = 1 / 16, activation: Activation = relu) -> nn.Module:
    """CBAM's first half, a gate a channel from means and maxima. https://arxiv.org/abs/1807.06521"""
    return ChannelAttention(ratio, activation, name=name)


@register("gates", "spatial")
def spatial(name: str, /, *, kernel: Count = 7) -> nn.Module:
    """CBAM's second half, a gate a position. https://arxiv.org/abs/1807.06521

    Differs from the authors' code: a bias where that has a batch norm, as the paper's equation 3.
    """
    return SpatialAttention(kernel, name=name)


@register("gates", "cbam")
def cbam(
    name: str,
    /,
    *,
    ratio: Positive = 1 / 16,
    kernel: Count = 7,
    activation: Activation = relu,
) -> nn.Module:
    """CBAM: gates of channels, then of positions. https://arxiv.org/abs/1807.06521"""
    return ChannelThenSpatial(ratio, kernel, activation, name=name)
