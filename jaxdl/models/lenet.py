"""Gradient-Based Learning Applied to Document Recognition. LeCun, Bottou, Bengio, Haffner 1998.

https://doi.org/10.1109/5.726791
Differs from the paper: C3 sees all six maps of S2 (the paper connects a hand-made subset to save
time), the subsampling layers have no trained scale, and the output is a softmax layer rather than
radial basis functions to fixed codes. Images smaller than the 32x32 of the paper are padded to it.

`lenet1989`: Backpropagation Applied to Handwritten Zip Code Recognition. LeCun, Boser, Denker,
Henderson, Howard, Hubbard, Jackel 1989, https://doi.org/10.1162/neco.1989.1.4.541
Differs from the paper, which has 9,760 parameters for ours of 10,024 at 16x16x1: a map shares one
bias (the paper has one at each position), H2 sees all twelve maps of H1 (eight in the paper), maps
are padded with 0 (with the background, -1), weights start normal by the fan in (uniform within
2.4 / fan in), and the outputs are logits (scaled tanh, and squared errors).
"""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from jaxdl.nn.activation import Activation, scaled_tanh, tanh
from jaxdl.nn.head import Classifier, Head
from jaxdl.nn.kernel_norm import ConvBuilder, plain
from jaxdl.nn.layers import symmetric
from jaxdl.nn.pool import Pool, avg_pool
from jaxdl.registry import register
from jaxdl.types import Array


class LeNet5(nn.Module):
    """C1 S2 C3 S4 C5 F6: (b, h, w, c) -> (b, 84)."""

    activation: Callable[[Array], Array] = tanh
    pool: Callable[..., Array] = avg_pool
    conv: Callable[..., nn.Module] = plain

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        grow = [max(0, 32 - size) for size in x.shape[1:3]]
        x = jnp.pad(x, ((0, 0), *((g // 2, g - g // 2) for g in grow), (0, 0)))
        x = self.activation(self.conv(6, (5, 5), padding="VALID", name="c1")(x))
        x = self.pool(x, (2, 2), (2, 2))
        x = self.activation(self.conv(16, (5, 5), padding="VALID", name="c3")(x))
        x = self.pool(x, (2, 2), (2, 2))
        x = x.reshape(x.shape[0], -1)
        x = self.activation(nn.Dense(120, name="c5")(x))
        return self.activation(nn.Dense(84, name="f6")(x))


class LeNet1989(nn.Module):
    """H1 H2 H3, convolutions of stride 2 in place of pooling: (b, h, w, c) -> (b, 30)."""

    activation: Callable[[Array], Array] = scaled_tanh
    conv: Callable[..., nn.Module] = plain

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        for name in ("h1", "h2"):
            conv = self.conv(12, (5, 5), strides=(2, 2), padding=symmetric(5), name=name)
            x = self.activation(conv(x))
        x = x.reshape(x.shape[0], -1)
        return self.activation(nn.Dense(30, name="h3")(x))


@register("models", image=(32, 32, 1), num_classes=10)
def lenet5(
    num_classes: int,
    /,
    *,
    activation: Activation = tanh,
    pool: Pool = avg_pool,
    conv: ConvBuilder = plain,
) -> Classifier:
    """LeNet-5: two convolutions and three dense layers, 61,706 parameters at 32x32x1."""
    return Classifier(LeNet5(activation, pool, conv), Head(num_classes))


@register("models", image=(16, 16, 1), num_classes=10)
def lenet1989(
    num_classes: int, /, *, activation: Activation = scaled_tanh, conv: ConvBuilder = plain
) -> Classifier:
    """The first LeNet: two convolutions and two dense layers. https://doi.org/10.1162/neco.1989.1.4.541"""
    return Classifier(LeNet1989(activation, conv), Head(num_classes))
