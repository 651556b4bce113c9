"""Attention over channels and positions, by name: a layer maps x (b, h, w, c) to its shape."""

from collections.abc import Callable
from typing import Annotated

import flax.linen as nn

from jaxdl.config import Count, Positive
from jaxdl.nn.activation import Activation, relu, sigmoid
from jaxdl.nn.layers import round_channels
from jaxdl.nn.squeeze import SqueezeExcite
from jaxdl.registry import Of, register

Attention = Annotated[Callable[[str], nn.Module], Of("attentions")]


@register("attentions", "squeeze_excite")
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
