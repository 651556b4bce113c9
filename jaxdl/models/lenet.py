"""Gradient-Based Learning Applied to Document Recognition. LeCun, Bottou, Bengio, Haffner 1998.

https://doi.org/10.1109/5.726791
Differs from the paper: C3 sees all six maps of S2 (the paper connects a hand-made subset to save
time), the subsampling layers have no trained scale, and the output is a softmax layer rather than
radial basis functions to fixed codes. Images smaller than the 32x32 of the paper are padded to it.
"""

from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp

from jaxdl.nn.conv import Conv
from jaxdl.nn.head import Classifier, Head
from jaxdl.registry import register
from jaxdl.types import Array

ACTIVATIONS = {"tanh": nn.tanh, "relu": nn.relu}
POOLS = {"avg": nn.avg_pool, "max": nn.max_pool}


class LeNet5(nn.Module):
    """C1 S2 C3 S4 C5 F6: (b, h, w, c) -> (b, 84)."""

    activation: Callable[[Array], Array] = nn.tanh
    pool: Callable[..., Array] = nn.avg_pool

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        grow = [max(0, 32 - size) for size in x.shape[1:3]]
        x = jnp.pad(x, ((0, 0), *((g // 2, g - g // 2) for g in grow), (0, 0)))
        x = self.activation(Conv(6, (5, 5), padding="VALID", name="c1")(x))
        x = self.pool(x, window_shape=(2, 2), strides=(2, 2))
        x = self.activation(Conv(16, (5, 5), padding="VALID", name="c3")(x))
        x = self.pool(x, window_shape=(2, 2), strides=(2, 2))
        x = x.reshape(x.shape[0], -1)
        x = self.activation(nn.Dense(120, name="c5")(x))
        return self.activation(nn.Dense(84, name="f6")(x))


@register("models")
def lenet5(
    num_classes: int,
    /,
    *,
    activation: Literal["tanh", "relu"] = "tanh",
    pool: Literal["avg", "max"] = "avg",
) -> Classifier:
    """LeNet-5: two convolutions and three dense layers, 61,706 parameters at 32x32x1."""
    return Classifier(LeNet5(ACTIVATIONS[activation], POOLS[pool]), Head(num_classes))
