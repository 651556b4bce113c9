"""Attention Is All You Need. Vaswani, Shazeer, Parmar, Uszkoreit, Jones, Gomez et al. 2017.

https://arxiv.org/abs/1706.03762. The encoder that classifies, the decoder that is a language
model, and the two together, of the same blocks. Defaults are the paper's base model, but for the
norms, which stand after the sums as in the paper while `placement='pre'` puts them before the
branches, with one more at the end of each stack.
Differs from the paper: projections have biases, dropout also acts between the dense layers, and
attention weights have a rate of their own. Embeddings of source and target and the output layer
are one matrix (section 3.4), which in the decoder alone `tied=False` separates.

Token 0 is padding: it is never attended to, and counts for nothing in a mean or a loss. What is
predicted at a place is its successor, so a target begins with a token that starts it.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp

from jaxdl.config import Count, Rate
from jaxdl.nn.activation import Activation, relu
from jaxdl.nn.attention import Attention, full
from jaxdl.nn.embed import TokenEmbed
from jaxdl.nn.head import Classifier, Head
from jaxdl.nn.norm import Norm, layer_norm
from jaxdl.nn.positions import Position, sinusoidal
from jaxdl.nn.stack import STACKED, stacked
from jaxdl.nn.transformer import TransformerBlock
from jaxdl.registry import register
from jaxdl.types import PADDING, Array

VOCABULARY = 37_000
"""Of the paper's English and German, section 5.1."""

Placement = Literal["pre", "post"]


def visible(tokens: Array) -> Array:
    """The mask of keys that are not padding: (b, t) -> (b, 1, 1, t)."""
    return (tokens != PADDING)[:, None, None, :]


class Stack(nn.Module):
    """Blocks, scanned, then a norm where the placement is 'pre': (b, t, d) -> (b, t, d).

    Attributes:
        depth: blocks.
        block: (placement=, name=) -> one of them.
        norm: (name) -> layer, one of the `norms`.
        placement: of the norms, see `TransformerBlock`.
    """

    depth: int
    block: Callable[..., nn.Module]
    norm: Callable[[str], nn.Module] = layer_norm
    placement: str = "post"
    has_blocks = True  # and so is none itself, see `nn/remat.py`

    @nn.compact
    def __call__(
        self,
        x: Array,
        train: bool,
        mask: Array,
        source: Array | None = None,
        source_mask: Array | None = None,
    ) -> Array:
        block = self.block(placement=self.placement, norm=self.norm, name=STACKED)
        call = lambda block, x, _: block(
            x, train, mask=mask, source=source, source_mask=source_mask
        )
        x = stacked(block, call, x, self.depth)
        return self.norm("norm")(x, train) if self.placement == "pre" else x


class Encoder(nn.Module):
    """Encoder of a sequence into one vector: (b, t) -> (b, d).

    Attributes:
        embed: tokens to vectors.
        encoder: bidirectional.
        pool: 'mean' over all that is not padding, or the 'first' token.
    """

    embed: nn.Module
    encoder: nn.Module
    pool: str = "mean"

    def tokens(self, tokens: Array, train: bool = False) -> Array:
        """The last block's vectors: (b, t) -> (b, t, d)."""
        return self.encoder(self.embed(tokens, train), train, visible(tokens))

    def __call__(self, tokens: Array, train: bool = False) -> Array:
        x = self.tokens(tokens, train)
        if self.pool == "first":
            return x[:, 0]
        valid = (tokens != PADDING)[..., None]
        count = jnp.maximum(jnp.sum(valid, axis=1), 1).astype(x.dtype)
        return jnp.sum(jnp.where(valid, x, 0), axis=1) / count


class Decoder(nn.Module):
    """A place knows itself and what is before it: (b, t) -> (b, t, d).

    Attributes:
        embed: tokens to vectors.
        decoder: causal.
    """

    embed: nn.Module
    decoder: nn.Module

    def __call__(self, tokens: Array, train: bool = False) -> Array:
        return self.decoder(self.embed(tokens, train), train, visible(tokens))


class EncoderDecoder(nn.Module):
    """A place of the target also knows the whole source: (b, s), (b, t) -> (b, t, d).

    Attributes:
        embed: tokens to vectors, of source and target.
        encoder: bidirectional.
        decoder: causal, and attends to what the encoder made.
    """

    embed: nn.Module
    encoder: nn.Module
    decoder: nn.Module

    def __call__(self, source: Array, tokens: Array, train: bool = False) -> Array:
        seen = visible(source)
        memory = self.encoder(self.embed(source, train), train, seen)
        return self.decoder(self.embed(tokens, train), train, visible(tokens), memory, seen)


class TokenClassifier(Classifier):
    """A classifier of token sequences."""

    inputs = ("tokens",)


class LanguageModel(nn.Module):
    """Logits of the successor of each token: (b, t) -> (b, t, vocabulary).

    Attributes:
        backbone: the batch's `reads` -> (b, t, d); its `embed` has the tokens' vectors.
        head: (b, t, d) -> (b, t, vocabulary); without it, those vectors are its kernel.
        reads: keys of a batch, in the order in which the backbone takes them.
    """

    backbone: nn.Module
    head: nn.Module | None = None
    inputs: tuple[str, ...] = ("tokens",)
    unit = "token"

    def features(self, *inputs: Array, train: bool = False) -> Array:
        """Input of the head: (b, t, d)."""
        return self.backbone(*inputs, train=train)

    def outputs(self, *inputs: Array, train: bool = False) -> dict[str, Array]:
        """All that one forward pass gives: 'features' and 'logits'."""
        features = self.features(*inputs, train=train)
        if self.head is None:
            logits = self.backbone.embed.logits(features)
        else:
            logits = self.head(features, train)
        return {"features": features, "logits": logits}

    def __call__(self, *inputs: Array, train: bool = False) -> Array:
        return self.outputs(*inputs, train=train)["logits"]


@register("models", tokens=(128,), num_classes=2, vocabulary=VOCABULARY)
def transformer_encoder(
    num_classes: int,
    vocabulary: int,
    /,
    *,
    width: Count = 512,
    depth: Count = 6,
    heads: Count = 8,
    hidden: Count = 2048,
    pool: Literal["mean", "first"] = "mean",
    position: Position = sinusoidal,
    placement: Placement = "post",
    activation: Activation = relu,
    norm: Norm = layer_norm,
    drop_rate: Rate = 0.1,
    drop_attention: Rate = 0.0,
    attention: Attention = full,
) -> Classifier:
    """The encoder, and a classifier of what it makes of a sequence.

    Args:
        num_classes: of sequences.
        vocabulary: tokens there are, padding included.
        width: numbers a token has.
        depth: blocks.
        heads: of each attention.
        hidden: numbers between the two dense layers of a block.
        pool: 'mean' over all that is not padding, or the 'first' token.
        position: how a token is told its place.
        placement: of the norms: before each branch, or after each sum.
        activation: between the two dense layers.
        norm: at the places that `placement` says.
        drop_rate: of embeddings and branches.
        drop_attention: of attention weights.
        attention: of each block, to itself and to a source.
    """
    embed = TokenEmbed(vocabulary, width, position("positions"), drop_rate)
    block = partial(
        TransformerBlock,
        heads,
        hidden,
        activation,
        drop_rate=drop_rate,
        drop_attention=drop_attention,
        attention=attention,
    )
    encoder = Encoder(embed, Stack(depth, block, norm, placement), pool)
    return TokenClassifier(encoder, Head(num_classes))


@register("models", tokens=(128,), num_classes=VOCABULARY)
def transformer_decoder(
    vocabulary: int,
    /,
    *,
    width: Count = 512,
    depth: Count = 6,
    heads: Count = 8,
    hidden: Count = 2048,
    tied: bool = True,
    position: Position = sinusoidal,
    placement: Placement = "post",
    activation: Activation = relu,
    norm: Norm = layer_norm,
    drop_rate: Rate = 0.1,
    drop_attention: Rate = 0.0,
    attention: Attention = full,
) -> LanguageModel:
    """The decoder without a source: a causal language model.

    Args as of `transformer_encoder`, and `tied`: the tokens' vectors are the output layer's kernel.
    """
    embed = TokenEmbed(vocabulary, width, position("positions"), drop_rate)
    block = partial(
        TransformerBlock,
        heads,
        hidden,
        activation,
        causal=True,
        drop_rate=drop_rate,
        drop_attention=drop_attention,
        attention=attention,
    )
    decoder = Decoder(embed, Stack(depth, block, norm, placement))
    return LanguageModel(decoder, None if tied else Head(vocabulary))


@register("models", tokens=(128,), num_classes=VOCABULARY)
def transformer(
    vocabulary: int,
    /,
    *,
    width: Count = 512,
    depth: Count = 6,
    heads: Count = 8,
    hidden: Count = 2048,
    position: Position = sinusoidal,
    placement: Placement = "post",
    activation: Activation = relu,
    norm: Norm = layer_norm,
    drop_rate: Rate = 0.1,
    drop_attention: Rate = 0.0,
    attention: Attention = full,
) -> LanguageModel:
    """Encoder and decoder of `depth` blocks each: (source, tokens) -> logits, one vocabulary.

    Args as of `transformer_encoder`.
    """
    embed = TokenEmbed(vocabulary, width, position("positions"), drop_rate)
    block = partial(
        TransformerBlock,
        heads,
        hidden,
        activation,
        drop_rate=drop_rate,
        drop_attention=drop_attention,
        attention=attention,
    )
    encoder = Stack(depth, block, norm, placement)
    decoder = Stack(depth, partial(block, causal=True), norm, placement)
    return LanguageModel(EncoderDecoder(embed, encoder, decoder), inputs=("source", "tokens"))
