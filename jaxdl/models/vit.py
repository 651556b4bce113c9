"""An Image is Worth 16x16 Words: Transformers for Image Recognition. Dosovitskiy et al. 2020.

https://arxiv.org/abs/2010.11929. Tiny and small: Training data-efficient image transformers.
Touvron et al. 2020. https://arxiv.org/abs/2012.12877
Differs from the paper: no dropout and no hidden layer in the head, as later practice and timm have
it, and timm's initial values (normal, 0.02). Positions are as many as the image given to `init`
has patches: other sizes need no argument, and CIFAR needs `patch_size=4`.

The blocks are one block, scanned: its parameters are stacked along axis 0; see `nn/stack.py`.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp

from jaxdl.config import Count, Rate
from jaxdl.nn.activation import Activation, gelu
from jaxdl.nn.attention import Attention, full
from jaxdl.nn.embed import ClassToken, PatchEmbed
from jaxdl.nn.head import Classifier, Head
from jaxdl.nn.kernel_norm import ConvBuilder, plain
from jaxdl.nn.layers import Layers
from jaxdl.nn.norm import Norm, layer_norm
from jaxdl.nn.positions import Position, learned
from jaxdl.nn.stack import STACKED, drop_path_rates, stacked
from jaxdl.nn.transformer import TransformerBlock
from jaxdl.registry import register
from jaxdl.types import Array

_init = nn.initializers.normal(0.02)


class ViT(nn.Module):
    """Patches, positions, blocks, norm: (b, h, w, c) -> (b, width).

    Attributes:
        patch_size: side of a patch.
        width: numbers a token has.
        depth: blocks.
        heads: of each block's attention.
        hidden: numbers between the two dense layers of a block.
        pool: 'token' reads the class token; 'avg' has none and averages the patches.
        layers: convolution, norm and activation.
        drop_rate: of positions and branches.
        drop_attention: of the attention weights.
        drop_path: probability that the last block's branches are dropped; grows linearly to it.
        attention: builds the blocks' attentions, one of the `attentions`.
        position: (name) -> layer that tells patches their places, one of the `positions`.
    """

    patch_size: int
    width: int
    depth: int
    heads: int
    hidden: int
    pool: str = "token"
    layers: Layers = Layers(norm=layer_norm, activation=gelu)
    drop_rate: float = 0.0
    drop_attention: float = 0.0
    drop_path: float = 0.0
    attention: Callable[..., nn.Module] = full
    position: Callable[[str], nn.Module] = learned

    @nn.compact
    def tokens(self, x: Array, train: bool = False) -> Array:
        """The last block's tokens under the last norm: (b, t, width), the class token first."""
        embed = PatchEmbed(self.width, self.patch_size, conv=self.layers.conv, name="patch_embed")
        x = embed(x)
        if self.pool == "token":
            x = ClassToken(name="class_token")(x)
        x = self.position("position_embed")(x)
        x = nn.Dropout(self.drop_rate)(x, deterministic=not train)
        block = TransformerBlock(
            self.heads,
            self.hidden,
            self.layers.activation,
            self.layers.norm,
            drop_rate=self.drop_rate,
            drop_attention=self.drop_attention,
            kernel_init=_init,
            attention=self.attention,
            name=STACKED,
        )
        call = lambda block, x, rate: block(x, train, path_rate=rate)
        rates = drop_path_rates(self.drop_path, self.depth)
        x = stacked(block, call, x, self.depth, rates)
        return self.layers.norm("norm")(x, train)

    def __call__(self, x: Array, train: bool = False) -> Array:
        tokens = self.tokens(x, train)
        return tokens[:, 0] if self.pool == "token" else jnp.mean(tokens, axis=1)


# Patch size, width, depth, heads: table 1 of the paper; tiny and small: table 1 of DeiT.
VARIANTS = {
    "vit_tiny_patch16_224": (16, 192, 12, 3),
    "vit_small_patch16_224": (16, 384, 12, 6),
    "vit_base_patch16_224": (16, 768, 12, 12),
    "vit_base_patch32_224": (32, 768, 12, 12),
    "vit_large_patch16_224": (16, 1024, 24, 16),
}


def vit(
    variant: str,
    num_classes: int,
    /,
    *,
    patch_size: Count | None = None,
    width: Count | None = None,
    depth: Count | None = None,
    heads: Count | None = None,
    hidden: Count | None = None,
    pool: Literal["token", "avg"] = "token",
    activation: Activation = gelu,
    norm: Norm = layer_norm,
    conv: ConvBuilder = plain,
    drop_rate: Rate = 0.0,
    drop_attention: Rate = 0.0,
    drop_path: Rate = 0.0,
    attention: Attention = full,
    position: Position = learned,
) -> Classifier:
    """A vision transformer; what is null is the variant's own, `hidden` four times the width."""
    own = zip((patch_size, width, depth, heads), VARIANTS[variant], strict=True)
    patch_size, width, depth, heads = (given or default for given, default in own)
    backbone = ViT(
        patch_size,
        width,
        depth,
        heads,
        hidden or 4 * width,
        pool,
        Layers(conv, norm, activation),
        drop_rate,
        drop_attention,
        drop_path,
        attention,
        position,
    )
    return Classifier(backbone, Head(num_classes, kernel_init=_init))


for name in VARIANTS:
    register("models", name)(partial(vit, name))
