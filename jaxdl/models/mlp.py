"""A multilayer perceptron on flattened input, with batch normalisation and dropout as options.

Learning representations by back-propagating errors. Rumelhart, Hinton, Williams 1986.
https://doi.org/10.1038/323533a0
"""

import flax.linen as nn

from jaxdl.config import Count, Rate
from jaxdl.nn.head import Classifier, Head
from jaxdl.registry import register
from jaxdl.types import Array


class MLP(nn.Module):
    """Dense layers with ReLU: anything of shape (b, ...) -> (b, widths[-1])."""

    widths: tuple[int, ...]
    drop_rate: float = 0.0
    batch_norm: bool = False

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        x = x.reshape(x.shape[0], -1)
        for i, width in enumerate(self.widths):
            x = nn.Dense(width, use_bias=not self.batch_norm, name=f"dense{i}")(x)
            if self.batch_norm:
                x = nn.BatchNorm(use_running_average=not train, momentum=0.9, name=f"norm{i}")(x)
            x = nn.Dropout(self.drop_rate)(nn.relu(x), deterministic=not train)
        return x


@register("models")
def mlp(
    num_classes: int,
    /,
    *,
    widths: tuple[Count, ...] = (512, 256),
    drop_rate: Rate = 0.0,
    batch_norm: bool = False,
) -> Classifier:
    """A multilayer perceptron: flatten, dense + ReLU for each width, logits."""
    return Classifier(MLP(widths, drop_rate, batch_norm), Head(num_classes))
