"""Very Deep Convolutional Networks for Large-Scale Image Recognition. Simonyan, Zisserman 2014.

https://arxiv.org/abs/1409.1556
Configurations A, B, D and E. Differs from the paper: weights start by their fan in (the paper
starts the deep networks from a trained shallow one), those of the logits by 0.01; maps of another
size than 7x7 are averaged to it before the dense layers, as torchvision does. The `_bn` forms are
torchvision's but for the bias of their convolutions, which the norm behind it takes away again.

For images of 32x32: pool_size=1, hidden=512.
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn

from jaxdl.config import Count, Rate
from jaxdl.nn.activation import Activation, relu
from jaxdl.nn.dense import dense, he_normal, near_zero
from jaxdl.nn.head import Classifier, Head, MapHead
from jaxdl.nn.kernel_norm import ConvBuilder, plain
from jaxdl.nn.layers import Layers, symmetric
from jaxdl.nn.norm import Norm, batch_norm, no_norm
from jaxdl.nn.pool import Pool, adaptive_avg_pool, max_pool
from jaxdl.registry import register
from jaxdl.types import Array

# Convolutions of the five stages: table 1 of the paper, columns A, B, D, E.
VARIANTS = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}


def widths(width: int) -> tuple[int, ...]:
    """Channels of the five stages, `width` those of the first: doubled up to eight times it."""
    return tuple(width * 2 ** min(i, 3) for i in range(5))


def stage(
    x: Array, number: int, depth: int, features: int, layers: Layers, use_bias: bool, train: bool
) -> Array:
    """`conv1_1`, `norm1_1`, ... of the module around it: (b, h, w, c) -> (b, h, w, features).

    Args:
        x: a map.
        number: of the stage, from 1.
        depth: convolutions.
        features: channels that come out.
        layers: convolution, norm, activation.
        use_bias: of the convolutions; a batch norm needs none.
        train: passed to the norms.
    """
    for j in range(1, depth + 1):
        x = layers.conv(
            features,
            (3, 3),
            padding=symmetric(3),
            use_bias=use_bias,
            kernel_init=he_normal,
            name=f"conv{number}_{j}",
        )(x)
        x = layers.activation(layers.norm(f"norm{number}_{j}")(x, train))
    return x


class VGG(nn.Module):
    """Five stages of 3x3 convolutions, each then halved; fc6 and fc7: (b, h, w, c) -> (b, hidden).

    Attributes:
        depths: convolutions in each stage.
        width: channels of the first stage.
        hidden: width of fc6 and fc7.
        pool_size: side of the map that fc6 reads; averages make it so.
        convolutional: fc6 and fc7 are convolutions, (b, h, w, c) -> (b, h', w', hidden).
        drop_rate: between fc6 and fc7.
        layers: convolution, norm and activation.
        use_bias: of the convolutions.
        pool: 2x2 stride 2.
    """

    depths: tuple[int, ...]
    width: int = 64
    hidden: int = 4096
    pool_size: int = 7
    convolutional: bool = False
    drop_rate: float = 0.0
    layers: Layers = Layers(norm=no_norm)
    use_bias: bool = True
    pool: Callable[..., Array] = max_pool

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        for i, (depth, features) in enumerate(zip(self.depths, widths(self.width), strict=True), 1):
            x = stage(x, i, depth, features, self.layers, self.use_bias, train)
            x = self.pool(x, (2, 2), (2, 2))
        window, pixel = ((self.pool_size,) * 2, (1, 1)) if self.convolutional else (None, None)
        if not self.convolutional:
            x = adaptive_avg_pool(x, (self.pool_size, self.pool_size))
        x = self.layers.activation(dense(x, self.hidden, window, "fc6"))
        x = nn.Dropout(self.drop_rate)(x, deterministic=not train)
        return self.layers.activation(dense(x, self.hidden, pixel, "fc7"))


def vgg(
    depths: tuple[int, ...],
    num_classes: int,
    /,
    *,
    width: Count = 64,
    hidden: Count = 4096,
    pool_size: Count = 7,
    convolutional: bool = False,
    activation: Activation = relu,
    norm: Norm | None = None,
    conv: ConvBuilder = plain,
    pool: Pool = max_pool,
    drop_rate: Rate = 0.5,
) -> Classifier:
    """VGG; with `convolutional`, dense layers are convolutions and logits (b, h', w', k).

    Where the network has no norm, the convolutions have a bias.
    """
    layers = Layers(conv, norm or no_norm, activation)
    backbone = VGG(
        depths,
        width,
        hidden,
        pool_size,
        convolutional,
        drop_rate,
        layers,
        use_bias=norm is None,
        pool=pool,
    )
    head = MapHead if convolutional else Head
    return Classifier(backbone, head(num_classes, drop_rate, kernel_init=near_zero))


for name, depths in VARIANTS.items():
    register("models", name)(partial(vgg, depths))
    register("models", f"{name}_bn")(partial(vgg, depths, norm=batch_norm))
