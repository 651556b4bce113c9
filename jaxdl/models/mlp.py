"""A multilayer perceptron on flattened input, with a norm and dropout as options.

Learning representations by back-propagating errors. Rumelhart, Hinton, Williams 1986.
https://doi.org/10.1038/323533a0
"""

from collections.abc import Callable

import flax.linen as nn

from jaxdl.config import Count, Rate
from jaxdl.nn.activation import Activation, relu
from jaxdl.nn.head import Classifier, Head
from jaxdl.nn.norm import Norm
from jaxdl.registry import register
from jaxdl.types import Array


class MLP(nn.Module):
    """Dense layers, each with its activation: anything of shape (b, ...) -> (b, widths[-1])."""

    widths: tuple[int, ...]
    drop_rate: float = 0.0
    activation: Callable[[Array], Array] = relu
    norm: Callable[[str], nn.Module] | None = None

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        x = x.reshape(x.shape[0], -1)
        for i, width in enumerate(self.widths):
            x = nn.Dense(width, use_bias=self.norm is None, name=f"dense{i}")(x)
            if self.norm:
                x = self.norm(f"norm{i}")(x, train)
            x = nn.Dropout(self.drop_rate)(self.activation(x), deterministic=not train)
        return x


@register("models", image=(28, 28, 1), num_classes=10)
def mlp(
    num_classes: int,
    /,
    *,
    widths: tuple[Count, ...] = (512, 256),
    drop_rate: Rate = 0.0,
    activation: Activation = relu,
    norm: Norm | None = None,
) -> Classifier:
    """A multilayer perceptron: flatten, dense + activation for each width, logits.

    Where the network has no norm, the dense layers have a bias.
    """
    return Classifier(MLP(widths, drop_rate, activation, norm), Head(num_classes))
