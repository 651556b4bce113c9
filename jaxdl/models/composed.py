"""A network of one's own, stage by stage, from the blocks of the others.

    --config.model=composed
    --config.model.stages='[{"block": "mbconv", "features": 32, "repeat": 2, "stride": 2}, ...]'

The table of stages is the whole architecture, so that a search, a sweep or a person can change it;
the notation is that of EfficientNet's table 1, https://arxiv.org/abs/1905.11946. Whatever the
block, `features` channels come out, and the first block of a stage has the stage's stride.
"""

from collections.abc import Callable
from typing import Annotated, Any

import flax.linen as nn
import msgspec

from jaxdl import registry
from jaxdl.config import Count, Part, Rate
from jaxdl.errors import UserError
from jaxdl.models.convnext import ConvNeXtBlock
from jaxdl.models.resnet import SHORTCUTS, BasicBlock, Bottleneck
from jaxdl.nn.activation import Activation, relu
from jaxdl.nn.branches import Inception, Unit, same_size
from jaxdl.nn.gates import Gate, squeeze_excite
from jaxdl.nn.head import Classifier, Head
from jaxdl.nn.kernel_norm import ConvBuilder, plain
from jaxdl.nn.layers import ConvNorm, Layers
from jaxdl.nn.mbconv import MBConv
from jaxdl.nn.norm import Norm, batch_norm
from jaxdl.nn.pool import max_pool
from jaxdl.nn.separable import Separable
from jaxdl.nn.transformer import TransformerBlock
from jaxdl.registry import register
from jaxdl.types import Array


class Stage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Equal blocks in a row.

    Attributes:
        block: one of the `blocks`.
        features: channels that come out.
        repeat: how many blocks.
        stride: of the first of them.
        args: of the block.
    """

    block: str
    features: Count
    repeat: Count = 1
    stride: Count = 1
    args: dict[str, Any] = {}


# Small, for images of 32x32: a plain stem, then two kinds of residual blocks.
STAGES = (
    Stage("basic", 32, repeat=2),
    Stage("mbconv", 64, repeat=2, stride=2),
    Stage("mbconv", 128, repeat=2, stride=2),
)


class Composed(nn.Module):
    """A 3x3 stem, then the stages: (b, h, w, c) -> (b, h / s, w / s, c') for strides of s."""

    stages: tuple[Stage, ...]
    stem: int
    stem_stride: int
    layers: Layers

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        x = ConvNorm(self.stem, 3, self.stem_stride, self.layers, name="stem")(x, train)
        for i, stage in enumerate(self.stages, start=1):
            build = registry.bind("blocks", Part(stage.block, stage.args))
            for j in range(1, stage.repeat + 1):
                stride = stage.stride if j == 1 else 1
                block = registry.supply(
                    build,
                    features=stage.features,
                    stride=stride,
                    layers=self.layers,
                    name=f"stage{i}_block{j}",
                )
                x = block(x, train)
        return x


Stages = Annotated[tuple[Stage, ...], msgspec.Meta(min_length=1)]


@register("models", image=(32, 32, 3), num_classes=10)
def composed(
    num_classes: int,
    /,
    *,
    stages: Stages = STAGES,
    stem: Count = 32,
    stem_stride: Count = 1,
    activation: Activation = relu,
    norm: Norm = batch_norm,
    conv: ConvBuilder = plain,
    drop_rate: Rate = 0.0,
) -> Classifier:
    """A network of one's own: a table of stages, each a block, its features, repeats and stride."""
    for stage in stages:
        registry.bind("blocks", Part(stage.block, stage.args))
    backbone = Composed(stages, stem, stem_stride, Layers(conv, norm, activation))
    return Classifier(backbone, Head(num_classes, drop_rate))


class Entered(nn.Module):
    """A block that keeps its input's shape, behind a convolution where that shape must change.

    Attributes:
        features: channels that come out.
        stride: side of the convolution's window, and its stride.
        layers: of the convolution.
        block: what keeps the shape, called as (x, train).
    """

    features: int
    stride: int
    layers: Layers
    block: nn.Module

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        if self.stride > 1 or x.shape[-1] != self.features:
            pad = ((0, -x.shape[1] % self.stride), (0, -x.shape[2] % self.stride))
            x = ConvNorm(
                self.features, self.stride, self.stride, self.layers, pad, act=False, name="enter"
            )(x, train)
        return self.block(x, train)


@register("blocks", "conv")
def conv_block(
    features: int,
    stride: int,
    layers: Layers,
    name: str,
    /,
    *,
    kernel: Count = 3,
    groups: Count = 1,
) -> nn.Module:
    """Convolution, norm, activation."""
    return ConvNorm(features, kernel, stride, layers, groups=groups, name=name)


@register("blocks", "separable")
def separable(
    features: int,
    stride: int,
    layers: Layers,
    name: str,
    /,
    *,
    kernel: Count = 3,
    between: bool = True,
) -> nn.Module:
    """Depthwise, then pointwise: MobileNet's, or without `between` Xception's."""
    return Separable(features, kernel, stride, layers, between=between, name=name)


@register("blocks", "basic")
def basic(
    features: int,
    stride: int,
    layers: Layers,
    name: str,
    /,
    *,
    gate: Gate | None = None,
    drop_path: Rate = 0.0,
) -> nn.Module:
    """Two 3x3 convolutions beside a shortcut. https://arxiv.org/abs/1512.03385"""
    return BasicBlock(
        features,
        stride,
        SHORTCUTS["projection"],
        layers,
        gate=gate,
        drop_path=drop_path,
        name=name,
    )


@register("blocks", "bottleneck")
def bottleneck(
    features: int,
    stride: int,
    layers: Layers,
    name: str,
    /,
    *,
    groups: Count = 1,
    group_width: Count = 64,
    gate: Gate | None = None,
    drop_path: Rate = 0.0,
) -> nn.Module:
    """1x1, 3x3, 1x1 beside a shortcut, a quarter as wide inside. https://arxiv.org/abs/1512.03385"""
    if features % Bottleneck.expansion:
        raise UserError(f"a bottleneck's features are a multiple of 4, not {features}")
    return Bottleneck(
        features // Bottleneck.expansion,
        stride,
        SHORTCUTS["projection"],
        layers,
        groups,
        group_width,
        gate,
        drop_path,
        name=name,
    )


class _Widening(nn.Module):
    """An inverted bottleneck whose middle is so many times as wide as its input."""

    features: int
    stride: int
    layers: Layers
    expand: int
    kernel: int
    gate: Callable[[str], nn.Module] | None
    drop_path: float

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        gate = self.gate and (lambda name: self.gate(name))
        return MBConv(
            self.features,
            x.shape[-1] * self.expand,
            self.kernel,
            self.stride,
            self.layers,
            gate,
            self.drop_path,
            name="mbconv",
        )(x, train)


@register("blocks", "mbconv")
def mbconv(
    features: int,
    stride: int,
    layers: Layers,
    name: str,
    /,
    *,
    expand: Count = 4,
    kernel: Count = 3,
    gate: Gate | None = squeeze_excite,
    drop_path: Rate = 0.0,
) -> nn.Module:
    """Narrow ends, a wide depthwise middle, a gate. https://arxiv.org/abs/1801.04381"""
    return _Widening(features, stride, layers, expand, kernel, gate, drop_path, name=name)


@register("blocks", "inception")
def inception(features: int, stride: int, layers: Layers, name: str, /) -> nn.Module:
    """1x1, 3x3, two 3x3 and pooling side by side. https://arxiv.org/abs/1512.00567"""
    if features % 8:
        raise UserError(f"an inception block's features are a multiple of 8, not {features}")
    eighth = features // 8
    rows = (
        (Unit(2 * eighth),),
        (Unit(2 * eighth), Unit(4 * eighth, 3)),
        (Unit(eighth), Unit(eighth, 3), Unit(eighth, 3)),
        (same_size(max_pool), Unit(eighth)),
    )
    return Entered(features, stride, layers, Inception(rows, layers, parent=None), name=name)


@register("blocks", "convnext")
def convnext(
    features: int,
    stride: int,
    layers: Layers,
    name: str,
    /,
    *,
    layer_scale: float = 1e-6,
    drop_path: Rate = 0.0,
) -> nn.Module:
    """Depthwise 7x7, then two dense layers, beside a shortcut. https://arxiv.org/abs/2201.03545"""
    block = ConvNeXtBlock(layers, layer_scale, drop_path, parent=None)
    return Entered(features, stride, layers, block, name=name)


class _OverPositions(nn.Module):
    """A transformer's block on the positions of a map."""

    block: nn.Module

    def __call__(self, x: Array, train: bool = False) -> Array:
        tokens = x.reshape(x.shape[0], -1, x.shape[-1])
        return self.block(tokens, train).reshape(x.shape)


@register("blocks", "attention")
def attention(
    features: int,
    stride: int,
    layers: Layers,
    name: str,
    /,
    *,
    heads: Count = 4,
    hidden: Count | None = None,
    drop_rate: Rate = 0.0,
) -> nn.Module:
    """Each position reads all others, then two dense layers. https://arxiv.org/abs/1706.03762"""
    if features % heads:
        raise UserError(f"{heads} heads do not divide {features} features")
    block = TransformerBlock(heads, hidden or 2 * features, drop_rate=drop_rate, parent=None)
    return Entered(features, stride, layers, _OverPositions(block, parent=None), name=name)
