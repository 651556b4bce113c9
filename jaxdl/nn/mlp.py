"""The two dense layers of a transformer's block."""

from collections.abc import Callable

import flax.linen as nn
from flax.typing import Initializer

from jaxdl.nn.activation import gelu
from jaxdl.types import Array


class MlpBlock(nn.Module):
    """Dense, activation, dropout, dense, dropout, on the last axis: (..., d) -> (..., d).

    Attributes:
        hidden: numbers between the two.
        activation: between the two.
        drop_rate: after each.
        kernel_init: of both.
        bias_init: of both.
    """

    hidden: int
    activation: Callable[[Array], Array] = gelu
    drop_rate: float = 0.0
    kernel_init: Initializer = nn.initializers.xavier_uniform()
    bias_init: Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        dense = lambda features, name: nn.Dense(
            features, kernel_init=self.kernel_init, bias_init=self.bias_init, name=name
        )
        drop = nn.Dropout(self.drop_rate, deterministic=not train)
        y = drop(self.activation(dense(self.hidden, "dense1")(x)))
        return drop(dense(x.shape[-1], "dense2")(y))
