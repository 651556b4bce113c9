"""The baseline convolutional network: pairs of 3x3 convolutions, each pair halving the map.

The plain network against which residual and scaled ones are compared, in the manner of
Very Deep Convolutional Networks. Simonyan, Zisserman 2014. https://arxiv.org/abs/1409.1556
Differs: batch normalisation after each convolution, and global pooling in place of wide dense
layers, so that any input size works.
"""

import flax.linen as nn

from jaxdl.config import Count, Rate
from jaxdl.nn.conv import Conv
from jaxdl.nn.head import Classifier, Head
from jaxdl.registry import register
from jaxdl.types import Array


class CNN(nn.Module):
    """(b, h, w, c) -> (b, h / 2^(n-1), w / 2^(n-1), widths[-1]) for n widths."""

    widths: tuple[int, ...]
    drop_rate: float = 0.0

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        he = nn.initializers.he_normal()
        for i, width in enumerate(self.widths):
            for j in range(2):
                x = Conv(width, (3, 3), use_bias=False, kernel_init=he, name=f"conv{i}_{j}")(x)
                x = nn.BatchNorm(use_running_average=not train, momentum=0.9, name=f"norm{i}_{j}")(
                    x
                )
                x = nn.relu(x)
            if i < len(self.widths) - 1:
                x = nn.max_pool(x, window_shape=(2, 2), strides=(2, 2), padding="SAME")
            x = nn.Dropout(self.drop_rate)(x, deterministic=not train)
        return x


@register("models")
def cnn(
    num_classes: int, /, *, widths: tuple[Count, ...] = (32, 64, 128), drop_rate: Rate = 0.0
) -> Classifier:
    """Two 3x3 convolutions a width, batch norm, ReLU, max-pooling between widths."""
    return Classifier(CNN(widths, drop_rate), Head(num_classes))
