"""Backbones: one family a file, the paper at its head, its variants in one table."""

from typing import Any

from flax import linen as nn

from jaxdl import registry
from jaxdl.config import Part


def input_shape(name: str) -> tuple[int, ...]:
    """(h, w, c) of the images, or (t,) of the tokens, that the model `name` was made for."""
    facts = registry.find("models", name).facts
    return facts.get("tokens") or facts.get("image", (224, 224, 3))


def create(name: str, num_classes: int, **args: Any) -> nn.Module:
    """The registered model `name` as a Linen module; nothing is computed yet."""
    return registry.bind("models", Part(name, args))(num_classes)
