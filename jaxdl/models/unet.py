"""U-Net: Convolutional Networks for Biomedical Image Segmentation. Ronneberger, Fischer, Brox 2015.

https://arxiv.org/abs/1505.04597
Differs from the paper: maps are padded by default, so that logits are as large as the image, of
any size; `padding='VALID'` is the paper's form, where they are of its middle (572 -> 388).
"""

from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp

from jaxdl.config import Count, Rate
from jaxdl.nn.activation import Activation, relu
from jaxdl.nn.dense import he_normal
from jaxdl.nn.head import MapHead, Segmenter
from jaxdl.nn.kernel_norm import ConvBuilder, plain
from jaxdl.nn.layers import Layers
from jaxdl.nn.norm import Norm, no_norm
from jaxdl.nn.pool import Pool, max_pool
from jaxdl.registry import register
from jaxdl.types import Array

# A kernel of 2x2 at stride 2: one output hears one of the four taps that the fan in counts.
_one_of_four = nn.initializers.variance_scaling(4.0, "fan_in", "normal")


class UNet(nn.Module):
    """Down and up again with a map of each size handed across: (b, h, w, c) -> (b, h, w, width).

    Attributes:
        width: channels of the largest maps, doubled by each halving.
        depth: halvings.
        padding: 'SAME' or 'VALID'.
        drop_rate: at the end of the way down, on its two coarsest maps.
        layers: convolution, norm and activation.
        use_bias: of the 3x3 convolutions.
        pool: 2x2 stride 2.
    """

    width: int = 64
    depth: int = 4
    padding: str = "SAME"
    drop_rate: float = 0.0
    layers: Layers = Layers(norm=no_norm)
    use_bias: bool = True
    pool: Callable[..., Array] = max_pool

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        skips = []
        for i in range(self.depth + 1):
            x = self._pair(x, self.width * 2**i, f"down{i + 1}", train)
            if i >= self.depth - 1:
                x = nn.Dropout(self.drop_rate)(x, deterministic=not train)
            if i < self.depth:
                skips.append(x)
                x = self.pool(x, (2, 2), (2, 2), self.padding)
        for i, skip in reversed(list(enumerate(skips))):
            x = nn.ConvTranspose(
                self.width * 2**i,
                (2, 2),
                strides=(2, 2),
                kernel_init=_one_of_four,
                name=f"up{i + 1}_deconv",
            )(x)
            if self.padding == "VALID":
                high, wide = (
                    (n - m) // 2 for n, m in zip(skip.shape[1:3], x.shape[1:3], strict=True)
                )
                skip = skip[:, high : high + x.shape[1], wide : wide + x.shape[2]]
            x = x[:, : skip.shape[1], : skip.shape[2]]
            x = jnp.concatenate([skip, x], axis=-1)
            x = self._pair(x, self.width * 2**i, f"up{i + 1}", train)
        return x

    def _pair(self, x: Array, features: int, name: str, train: bool) -> Array:
        for j in (1, 2):
            x = self.layers.conv(
                features,
                (3, 3),
                padding=self.padding,
                use_bias=self.use_bias,
                kernel_init=he_normal,
                name=f"{name}_conv{j}",
            )(x)
            x = self.layers.activation(self.layers.norm(f"{name}_norm{j}")(x, train))
        return x


@register("models", image=(572, 572, 1), num_classes=2)
def unet(
    num_classes: int,
    /,
    *,
    width: Count = 64,
    depth: Count = 4,
    padding: Literal["SAME", "VALID"] = "SAME",
    activation: Activation = relu,
    norm: Norm | None = None,
    conv: ConvBuilder = plain,
    pool: Pool = max_pool,
    drop_rate: Rate = 0.5,
) -> Segmenter:
    """U-Net; where the network has no norm, its convolutions have a bias."""
    layers = Layers(conv, norm or no_norm, activation)
    backbone = UNet(width, depth, padding, drop_rate, layers, norm is None, pool)
    return Segmenter(backbone, MapHead(num_classes))
