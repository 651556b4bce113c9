"""The split that every classifier keeps: a backbone that makes features, a head that reads them."""

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Initializer

from jaxdl.types import Array


class Head(nn.Module):
    """Global average pooling, dropout, one dense layer: (b, h, w, c) or (b, d) -> logits (b, k)."""

    num_classes: int
    drop_rate: float = 0.0
    kernel_init: Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, features: Array, train: bool = False) -> Array:
        x = jnp.mean(features, axis=(1, 2)) if features.ndim == 4 else features
        x = nn.Dropout(self.drop_rate)(x, deterministic=not train)
        return nn.Dense(self.num_classes, kernel_init=self.kernel_init, name="logits")(x)


class Classifier(nn.Module):
    """Backbone, then head; parameters are {'backbone', 'head'}.

    Transfer, freezing, few-shot learning and class activation maps all rest on this split.
    """

    backbone: nn.Module
    head: nn.Module

    def features(self, image: Array, train: bool = False) -> Array:
        """What the head reads: (b, h, w, c) -> (b, h', w', c') or (b, d)."""
        return self.backbone(image, train)

    def __call__(self, image: Array, train: bool = False) -> Array:
        return self.head(self.features(image, train), train)
