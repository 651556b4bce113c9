"""Squeeze-and-Excitation Networks. Hu, Shen, Albanie, Sun, Wu 2017. https://arxiv.org/abs/1709.01507"""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Initializer

from jaxdl.types import Array


class SqueezeExcite(nn.Module):
    """Rescale each channel by a gate computed from the channel means: (b, h, w, c) -> same.

    Args:
        features: width of the bottleneck between the two dense layers, or a function that tells
            it from the channels.
        activation: the nonlinearity of the bottleneck (ReLU in the paper).
        gate: squashes the gate (sigmoid in the paper).
    """

    features: int | Callable[[int], int]
    activation: Callable[[Array], Array] = nn.relu
    gate: Callable[[Array], Array] = nn.sigmoid
    kernel_init: Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        # s = gate(W2 act(W1 mean_hw(x)));  y = s * x
        features = self.features(x.shape[-1]) if callable(self.features) else self.features
        s = jnp.mean(x, axis=(1, 2), keepdims=True)
        s = self.activation(nn.Dense(features, kernel_init=self.kernel_init, name="reduce")(s))
        s = nn.Dense(x.shape[-1], kernel_init=self.kernel_init, name="expand")(s)
        return x * self.gate(s)
