"""SegNet: A Deep Convolutional Encoder-Decoder Architecture for Image Segmentation.

Badrinarayanan, Kendall, Cipolla 2015. https://arxiv.org/abs/1511.00561
The convolutions of VGG-16 and their mirror image; each pooling hands across where its maxima were.
The encoder's parameters are those of `vgg16_bn`, name by name. Differs from the authors' code: no
bias before a norm, and images of any size.
"""

import flax.linen as nn

from jaxdl.config import Count
from jaxdl.models.vgg import VARIANTS, stage, widths
from jaxdl.nn.activation import Activation, relu
from jaxdl.nn.dense import he_normal
from jaxdl.nn.head import MapHead, Segmenter
from jaxdl.nn.kernel_norm import ConvBuilder, plain
from jaxdl.nn.layers import Layers, symmetric
from jaxdl.nn.norm import Norm, batch_norm
from jaxdl.nn.upsample import max_pool_with_indices, unpool
from jaxdl.registry import register
from jaxdl.types import Array


class SegNet(nn.Module):
    """Encoder, decoder: (b, h, w, c) -> (b, h, w, width).

    Attributes:
        depths: convolutions in each stage of the encoder; the decoder has as many, less the last,
            which is the head's.
        width: channels of the first stage.
        layers: convolution, norm and activation.
    """

    depths: tuple[int, ...] = VARIANTS["vgg16"]
    width: int = 64
    layers: Layers = Layers()

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        rows = list(enumerate(zip(self.depths, widths(self.width), strict=True), 1))
        pooled = []
        for i, (depth, features) in rows:
            x = stage(x, i, depth, features, self.layers, False, train)
            size = x.shape[1:3]
            x, index = max_pool_with_indices(x)
            pooled.append((index, size))
        for i, (depth, features) in reversed(rows):
            x = unpool(x, *pooled.pop())
            finer = widths(self.width)[i - 2]
            # The last convolution of a stage narrows to the next; of the first, it is the head.
            outputs = (*[features] * (depth - 1), finer) if i > 1 else (features,) * (depth - 1)
            for j, out in enumerate(outputs, 1):
                x = self.layers.conv(
                    out,
                    (3, 3),
                    padding=symmetric(3),
                    use_bias=False,
                    kernel_init=he_normal,
                    name=f"up{i}_{j}_conv",
                )(x)
                x = self.layers.activation(self.layers.norm(f"up{i}_{j}_norm")(x, train))
        return x


@register("models", image=(360, 480, 3), num_classes=11)
def segnet(
    num_classes: int,
    /,
    *,
    width: Count = 64,
    activation: Activation = relu,
    norm: Norm = batch_norm,
    conv: ConvBuilder = plain,
) -> Segmenter:
    """SegNet, for 360x480 images of roads in the paper."""
    backbone = SegNet(width=width, layers=Layers(conv, norm, activation))
    return Segmenter(backbone, MapHead(num_classes, kernel=3))
