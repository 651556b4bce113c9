"""Fully Convolutional Networks for Semantic Segmentation. Long, Shelhamer, Darrell 2014.

https://arxiv.org/abs/1411.4038
VGG-16 whose dense layers are convolutions; scores of coarse maps are upsampled by 2 and added to
those of finer ones. Differs from the authors' code: where it pads the image by 100 pixels and cuts
the result, here the 7x7 convolution is padded and poolings count their last, incomplete window,
so that maps lie on the image from its upper left corner, for images of any size. The scores of
the coarsest map start near zero rather than at zero, or the backbone would have no gradient.

The backbone's parameters are those of `vgg16` with `convolutional`, name by name;
`jaxdl.nn.dense.to_convolutional` makes them of those of `vgg16`.
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn

from jaxdl.config import Count, Rate
from jaxdl.models.vgg import VARIANTS as VGG
from jaxdl.models.vgg import stage, widths
from jaxdl.nn.activation import Activation, relu
from jaxdl.nn.conv import Conv
from jaxdl.nn.dense import dense, near_zero
from jaxdl.nn.head import Segmenter
from jaxdl.nn.kernel_norm import ConvBuilder, plain
from jaxdl.nn.layers import Layers
from jaxdl.nn.norm import Norm, no_norm
from jaxdl.nn.pool import Pool, max_pool
from jaxdl.nn.upsample import Upsample, bilinear
from jaxdl.registry import register
from jaxdl.types import Array

# Section 4.2: the finer maps, after which stages, whose scores are added.
VARIANTS = {"fcn32s": (), "fcn16s": (4,), "fcn8s": (3, 4)}


class FCN(nn.Module):
    """(b, h, w, c) -> a map after each of `skips`, fc7 last: (b, h / 2^i, w / 2^i, features).

    Sizes are rounded up.

    Attributes:
        skips: stages, from 1, whose pooled maps are given too.
        width: channels of the first stage.
        hidden: width of fc6 and fc7.
        drop_rate: between fc6 and fc7.
        layers: convolution, norm and activation.
        use_bias: of the convolutions.
        pool: 2x2 stride 2.
    """

    skips: tuple[int, ...]
    width: int = 64
    hidden: int = 4096
    drop_rate: float = 0.0
    layers: Layers = Layers(norm=no_norm)
    use_bias: bool = True
    pool: Callable[..., Array] = max_pool

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> tuple[Array, ...]:
        maps = []
        rows = zip(VGG["vgg16"], widths(self.width), strict=True)
        for i, (depth, features) in enumerate(rows, 1):
            x = stage(x, i, depth, features, self.layers, self.use_bias, train)
            x = self.pool(x, (2, 2), (2, 2), "SAME")
            if i in self.skips:
                maps.append(x)
        x = self.layers.activation(dense(x, self.hidden, (7, 7), "fc6", padding="SAME"))
        x = nn.Dropout(self.drop_rate)(x, deterministic=not train)
        return (*maps, self.layers.activation(dense(x, self.hidden, (1, 1), "fc7")))


class FCNHead(nn.Module):
    """Maps of strides ..., 16, 32 -> logits (b, h, w, k), h and w rounded up to the finest stride.

    Attributes:
        num_classes: k.
        drop_rate: before the coarsest scores.
    """

    num_classes: int
    drop_rate: float = 0.0

    @nn.compact
    def __call__(self, features: tuple[Array, ...], train: bool = False) -> Array:
        *skips, x = features
        score = partial(Conv, self.num_classes, (1, 1))
        x = nn.Dropout(self.drop_rate)(x, deterministic=not train)
        x = score(kernel_init=near_zero, name="score_fc7")(x)
        stride = 32
        for number, skip in zip((4, 3), reversed(skips), strict=False):
            # s = up(s) + W pool_i; new scores start at zero, so that the network is the coarser one
            x = Upsample(2, name=f"upsample{number}")(x)[:, : skip.shape[1], : skip.shape[2]]
            x = x + score(kernel_init=nn.initializers.zeros, name=f"score_pool{number}")(skip)
            stride //= 2
        return bilinear(x, (stride * x.shape[1], stride * x.shape[2]))


def fcn(
    skips: tuple[int, ...],
    num_classes: int,
    /,
    *,
    width: Count = 64,
    hidden: Count = 4096,
    activation: Activation = relu,
    norm: Norm | None = None,
    conv: ConvBuilder = plain,
    pool: Pool = max_pool,
    drop_rate: Rate = 0.5,
) -> Segmenter:
    """A fully convolutional VGG-16; where the network has no norm, its convolutions have a bias."""
    layers = Layers(conv, norm or no_norm, activation)
    backbone = FCN(skips, width, hidden, drop_rate, layers, norm is None, pool)
    return Segmenter(backbone, FCNHead(num_classes, drop_rate))


for name, skips in VARIANTS.items():
    register("models", name, num_classes=21)(partial(fcn, skips))
