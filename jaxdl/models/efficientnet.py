"""EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks. Tan, Le 2019.

https://arxiv.org/abs/1905.11946
Differs from the authors' code: symmetric padding instead of TensorFlow's SAME, as torchvision and
timm train it. The head starts by its fan in: the authors' fan out is much the same for 1000
classes, but with ten training would start at a loss of 3.2, where a guess has 2.3. `strides` may
be changed so that small images keep a map worth convolving; the parameters do not depend on them.
"""

import math
from functools import partial
from typing import Annotated, Literal, NamedTuple

import flax.linen as nn
import msgspec

from jaxdl.config import Positive, Rate
from jaxdl.errors import UserError
from jaxdl.nn.activation import Activation, silu
from jaxdl.nn.head import Classifier, Head
from jaxdl.nn.kernel_norm import ConvBuilder, plain
from jaxdl.nn.layers import Layers, fan_out, round_channels, symmetric
from jaxdl.nn.mbconv import MBConv
from jaxdl.nn.norm import Norm, batch_norm
from jaxdl.nn.squeeze import SqueezeExcite
from jaxdl.registry import register
from jaxdl.types import Array


class Stage(NamedTuple):
    """One row of the paper's table 1."""

    expand: int
    kernel: int
    features: int
    blocks: int


# Table 1: EfficientNet-B0. Its strides follow separately.
STAGES = (
    Stage(1, 3, 16, 1),
    Stage(6, 3, 24, 2),
    Stage(6, 5, 40, 2),
    Stage(6, 3, 80, 3),
    Stage(6, 5, 112, 3),
    Stage(6, 5, 192, 4),
    Stage(6, 3, 320, 1),
)
STRIDES = (2, 1, 2, 2, 2, 1, 2, 1)
"""Of the stem and the seven stages; 32 in all."""

# Width, depth, training resolution, dropout: the authors' efficientnet_builder.py.
VARIANTS = {
    "efficientnet_b0": (1.0, 1.0, 224, 0.2),
    "efficientnet_b1": (1.0, 1.1, 240, 0.2),
    "efficientnet_b2": (1.1, 1.2, 260, 0.3),
    "efficientnet_b3": (1.2, 1.4, 300, 0.3),
    "efficientnet_b4": (1.4, 1.8, 380, 0.4),
    "efficientnet_b5": (1.6, 2.2, 456, 0.4),
    "efficientnet_b6": (1.8, 2.6, 528, 0.5),
    "efficientnet_b7": (2.0, 3.1, 600, 0.5),
}
# torchvision's: the authors' 0.99 and 1e-3 only from B5 on.
AUTHORS_NORM = partial(batch_norm, momentum=0.99, epsilon=1e-3)
NORMS = {f"efficientnet_b{i}": AUTHORS_NORM if i >= 5 else batch_norm for i in range(8)}


class EfficientNet(nn.Module):
    """(b, h, w, c) -> (b, h / s, w / s, 1280 * width), s the product of the strides.

    Args:
        width: multiplies the features of every stage.
        depth: multiplies the blocks of every stage, rounded up.
        strides: of the stem and of the seven stages' first blocks.
        drop_path: probability that the last block's branch is dropped; grows linearly to it.
        layers: convolution, norm and activation.
    """

    width: float = 1.0
    depth: float = 1.0
    strides: tuple[int, ...] = STRIDES
    drop_path: float = 0.2
    layers: Layers = Layers(activation=silu)

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        norm, activation = self.layers.norm, self.layers.activation
        conv = partial(self.layers.conv, use_bias=False, kernel_init=fan_out)
        stem_stride, *strides = self.strides
        stem = round_channels(32 * self.width)
        x = conv(stem, (3, 3), strides=(stem_stride,) * 2, padding=symmetric(3), name="stem_conv")(
            x
        )
        x = activation(norm("stem_norm")(x, train))

        repeats = [math.ceil(stage.blocks * self.depth) for stage in STAGES]
        done = 0
        for i, (stage, stride, repeat) in enumerate(zip(STAGES, strides, repeats, strict=True)):
            for j in range(repeat):
                inputs = x.shape[-1]
                squeezed = max(1, inputs // 4)
                x = MBConv(
                    features=round_channels(stage.features * self.width),
                    wide=inputs * stage.expand,
                    kernel=stage.kernel,
                    stride=stride if j == 0 else 1,
                    layers=self.layers,
                    squeeze_excite=partial(
                        SqueezeExcite, squeezed, activation, kernel_init=fan_out
                    ),
                    drop_path=self.drop_path * done / sum(repeats),
                    name=f"stage{i + 1}_block{j + 1}",
                )(x, train)
                done += 1

        x = conv(4 * round_channels(320 * self.width), (1, 1), name="top_conv")(x)
        return activation(norm("top_norm")(x, train))


class Scale(NamedTuple):
    """Scaling of a network relative to EfficientNet-B0.

    Attributes:
        width: multiplies the features of every stage.
        depth: multiplies the blocks of every stage.
        resolution: multiplies the side of the image, 224.
    """

    width: float
    depth: float
    resolution: float


Strategy = Literal["compound", "depth", "width", "resolution"]


def compound(
    phi: float,
    strategy: Strategy = "compound",
    alpha: float = 1.2,
    beta: float = 1.1,
    gamma: float = 1.15,
) -> Scale:
    """The scale at which a network costs about 2^phi times B0: the paper's equation 3.

    The other strategies spend as much on one dimension alone (section 3, table 7). The published
    B1 to B7 were set by hand near the rule, and the paper tells no phi. By their resolutions phi is
    0.5, 1, 2, 4, 5, 6 and 7 to the nearest half; their widths are the rule's to 0.1, but their
    depths fall behind from B4 on: 1.8, 2.2, 2.6, 3.1 where it says 2.1, 2.5, 3.0, 3.6.

    Args:
        phi: 0 is B0; below 0 is smaller.
        strategy: what grows: all three together, or one.
        alpha, beta, gamma: growth of depth, width, resolution with phi; used by 'compound'.

    Raises:
        UserError: alpha * beta^2 * gamma^2 is not about 2, or one of them is below 1.
    """
    # depth costs its multiple, width and resolution the square of theirs
    cost = alpha * beta**2 * gamma**2
    if min(alpha, beta, gamma) < 1 or not 1.8 <= cost <= 2.2:
        raise UserError(
            f"alpha * beta^2 * gamma^2 = {cost:.2f}, but alpha, beta, gamma >= 1 must give about 2"
        )
    match strategy:
        case "depth":
            return Scale(1.0, 2.0**phi, 1.0)
        case "width":
            return Scale(2.0 ** (phi / 2), 1.0, 1.0)
        case "resolution":
            return Scale(1.0, 1.0, 2.0 ** (phi / 2))
    # d = alpha^phi, w = beta^phi, r = gamma^phi
    return Scale(beta**phi, alpha**phi, gamma**phi)


Strides = Annotated[tuple[int, ...], msgspec.Meta(min_length=8, max_length=8)]


def efficientnet(
    variant: str,
    num_classes: int,
    /,
    *,
    strides: Strides = STRIDES,
    drop_rate: Rate | None = None,
    drop_path: Rate = 0.2,
    width: Positive | None = None,
    depth: Positive | None = None,
    activation: Activation = silu,
    norm: Norm = batch_norm,
    conv: ConvBuilder = plain,
) -> Classifier:
    """EfficientNet at one of the paper's scales; what is left as null is the variant's own."""
    variant_width, variant_depth, _, variant_drop_rate = VARIANTS[variant]
    layers = Layers(conv, norm, activation)
    backbone = EfficientNet(
        width or variant_width, depth or variant_depth, strides, drop_path, layers
    )
    rate = variant_drop_rate if drop_rate is None else drop_rate
    return Classifier(backbone, Head(num_classes, rate))


@register("models", "efficientnet")
def scaled(
    num_classes: int,
    /,
    *,
    phi: float = 0.0,
    strategy: Strategy = "compound",
    alpha: Positive = 1.2,
    beta: Positive = 1.1,
    gamma: Positive = 1.15,
    strides: Strides = STRIDES,
    drop_rate: Rate = 0.2,
    drop_path: Rate = 0.2,
    activation: Activation = silu,
    norm: Norm = batch_norm,
    conv: ConvBuilder = plain,
) -> Classifier:
    """EfficientNet at any scale phi; the images are for the data to enlarge, see `compound`."""
    scale = compound(phi, strategy, alpha, beta, gamma)
    layers = Layers(conv, norm, activation)
    backbone = EfficientNet(scale.width, scale.depth, strides, drop_path, layers)
    return Classifier(backbone, Head(num_classes, drop_rate))


for name, (_, _, size, _) in VARIANTS.items():
    build = partial(efficientnet, name, norm=NORMS[name])
    register("models", name, image=(size, size, 3))(build)
