"""The split that every classifier keeps: a backbone that makes features, a head that reads them."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Initializer

from jaxdl.nn.conv import Conv
from jaxdl.types import Array


class Head(nn.Module):
    """Global average pooling, dropout, one dense layer: (b, h, w, c) or (b, d) -> logits (b, k).

    Vectors at places (b, t, d) are not pooled: their logits are (b, t, k).
    """

    num_classes: int
    drop_rate: float = 0.0
    kernel_init: Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, features: Array, train: bool = False) -> Array:
        x = jnp.mean(features, axis=(1, 2)) if features.ndim == 4 else features
        x = nn.Dropout(self.drop_rate)(x, deterministic=not train)
        return nn.Dense(self.num_classes, kernel_init=self.kernel_init, name="logits")(x)


class MapHead(nn.Module):
    """Dropout and one convolution, a window for each entry: (b, h, w, c) -> logits (b, h, w, k)."""

    num_classes: int
    drop_rate: float = 0.0
    kernel: int = 1
    kernel_init: Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, features: Array, train: bool = False) -> Array:
        x = nn.Dropout(self.drop_rate)(features, deterministic=not train)
        window = (self.kernel, self.kernel)
        return Conv(self.num_classes, window, kernel_init=self.kernel_init, name="logits")(x)


class Classifier(nn.Module):
    """Backbone, then head; parameters are {'backbone', 'head'}.

    Transfer, freezing, few-shot learning and class activation maps all rest on this split.
    Every model says its `inputs` from a batch, and the `unit` of its logits: 'example',
    'pixel' or 'token'.
    """

    backbone: nn.Module
    head: nn.Module
    inputs = ("image",)
    unit = "example"

    def features(self, image: Array, train: bool = False) -> Array:
        """Input of the head: (b, h, w, c) -> (b, h', w', c') or (b, d)."""
        return self.backbone(image, train)

    def outputs(self, image: Array, train: bool = False) -> dict[str, Array | tuple[Array, ...]]:
        """All that one forward pass gives: 'features' and 'logits'."""
        features = self.features(image, train)
        return {"features": features, "logits": self.head(features, train)}

    def __call__(self, image: Array, train: bool = False) -> Array:
        return self.outputs(image, train)["logits"]


class Segmenter(Classifier):
    """Backbone, then a head that speaks of each pixel: (b, h, w, c) -> logits (b, h, w, k).

    Features are the last map of a decoder, or a tuple of maps, fine to coarse, that the head
    joins. Rows and columns that a head gives beyond the image, below it and to its right, are cut
    off.
    """

    unit = "pixel"

    def outputs(self, image: Array, train: bool = False) -> dict[str, Array | tuple[Array, ...]]:
        """All that one forward pass gives: 'features' and 'logits'."""
        features = self.features(image, train)
        height, width = image.shape[1:3]
        return {"features": features, "logits": self.head(features, train)[:, :height, :width]}


class AuxiliaryClassifier(Classifier):
    """A classifier with further heads on maps inside its backbone, for training alone.

    The backbone has a method `taps(x, train)` -> (features, maps), one map for each head in
    `auxiliary`. `outputs` of a training pass have 'auxiliary_logits', a tuple of (b, k).
    """

    auxiliary: Sequence[nn.Module] = ()

    def outputs(self, image: Array, train: bool = False) -> dict[str, Array | tuple[Array, ...]]:
        """'features', 'logits' and, in training, 'auxiliary_logits'."""
        features, maps = self.backbone.taps(image, train)
        outputs = {"features": features, "logits": self.head(features, train)}
        if train or self.is_initializing():
            outputs["auxiliary_logits"] = tuple(
                head(m, train) for head, m in zip(self.auxiliary, maps, strict=True)
            )
        return outputs
