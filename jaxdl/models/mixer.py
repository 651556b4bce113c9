"""MLP-Mixer: An all-MLP Architecture for Vision. Tolstikhin et al. 2021. https://arxiv.org/abs/2105.01601

Differs from the authors' code: the head starts by its fan in, where theirs starts at zero and so
gives the network below it no gradient at the first step. The image size is fixed by `init`: the
layers across tokens have as many inputs as there are patches.

The blocks are one block, scanned: its parameters are stacked along axis 0.
"""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from jaxdl.config import Count, Rate
from jaxdl.nn.activation import Activation, gelu
from jaxdl.nn.drop import DropPath
from jaxdl.nn.embed import PatchEmbed
from jaxdl.nn.head import Classifier, Head
from jaxdl.nn.kernel_norm import ConvBuilder, plain
from jaxdl.nn.layers import Layers
from jaxdl.nn.mlp import MlpBlock
from jaxdl.nn.norm import Norm, layer_norm
from jaxdl.nn.stack import STACKED, drop_path_rates, stacked
from jaxdl.registry import register
from jaxdl.types import Array


class MixerBlock(nn.Module):
    """Two dense layers across tokens, then two across features: (b, t, d) -> (b, t, d).

    Attributes:
        across_tokens: numbers between the layers of the first pair.
        across_features: the same of the second.
        layers: norm and activation.
        drop_rate: after each dense layer.
    """

    across_tokens: int
    across_features: int
    layers: Layers
    drop_rate: float = 0.0

    @nn.compact
    def __call__(self, x: Array, train: bool, path_rate: Array | None = None) -> Array:
        norm, bias_init = self.layers.norm, nn.initializers.normal(1e-6)
        mlp = lambda hidden, name: MlpBlock(
            hidden, self.layers.activation, self.drop_rate, bias_init=bias_init, name=name
        )

        def add(x: Array, y: Array) -> Array:
            if path_rate is not None:
                y = DropPath()(y, train, path_rate)
            return x + y

        y = norm("norm1")(x, train).swapaxes(1, 2)  # (b, d, t)
        x = add(x, mlp(self.across_tokens, "token_mlp")(y, train).swapaxes(1, 2))
        return add(x, mlp(self.across_features, "feature_mlp")(norm("norm2")(x, train), train))


class Mixer(nn.Module):
    """Patches, blocks, norm, the mean over tokens: (b, h, w, c) -> (b, width).

    Attributes:
        patch_size: side of a patch.
        width: numbers a token has.
        depth: blocks.
        across_tokens: see `MixerBlock`.
        across_features: see `MixerBlock`.
        layers: convolution, norm and activation.
        drop_rate: after each dense layer.
        drop_path: probability that the last block's branches are dropped; grows linearly to it.
    """

    patch_size: int
    width: int
    depth: int
    across_tokens: int
    across_features: int
    layers: Layers = Layers(norm=layer_norm, activation=gelu)
    drop_rate: float = 0.0
    drop_path: float = 0.0

    @nn.compact
    def tokens(self, x: Array, train: bool = False) -> Array:
        """The last block's tokens under the last norm: (b, t, width)."""
        embed = PatchEmbed(self.width, self.patch_size, conv=self.layers.conv, name="patch_embed")
        block = MixerBlock(
            self.across_tokens, self.across_features, self.layers, self.drop_rate, name=STACKED
        )
        call = lambda block, x, rate: block(x, train, rate)
        rates = drop_path_rates(self.drop_path, self.depth)
        x = stacked(block, call, embed(x), self.depth, rates)
        return self.layers.norm("norm")(x, train)

    def __call__(self, x: Array, train: bool = False) -> Array:
        return jnp.mean(self.tokens(x, train), axis=1)


# Patch size, width, depth: table 1 of the paper. Across tokens width / 2, across features 4 width.
VARIANTS = {
    "mixer_s32_224": (32, 512, 8),
    "mixer_s16_224": (16, 512, 8),
    "mixer_b16_224": (16, 768, 12),
    "mixer_l16_224": (16, 1024, 24),
}


def mixer(
    variant: str,
    num_classes: int,
    /,
    *,
    patch_size: Count | None = None,
    width: Count | None = None,
    depth: Count | None = None,
    across_tokens: Count | None = None,
    across_features: Count | None = None,
    activation: Activation = gelu,
    norm: Norm = layer_norm,
    conv: ConvBuilder = plain,
    drop_rate: Rate = 0.0,
    drop_path: Rate = 0.0,
) -> Classifier:
    """An MLP-Mixer; what is null is the variant's own, or follows from the width as in table 1."""
    own = zip((patch_size, width, depth), VARIANTS[variant], strict=True)
    patch_size, width, depth = (given or default for given, default in own)
    backbone = Mixer(
        patch_size,
        width,
        depth,
        across_tokens or width // 2,
        across_features or 4 * width,
        Layers(conv, norm, activation),
        drop_rate,
        drop_path,
    )
    return Classifier(backbone, Head(num_classes))


for name in VARIANTS:
    register("models", name)(partial(mixer, name))
