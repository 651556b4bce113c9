"""Backbones: one family a file, the paper at its head, its variants in one table."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxdl import registry
from jaxdl.config import Part
from jaxdl.room import open_room


def input_shape(name: str) -> tuple[int, ...]:
    """(h, w, c) of the images, or (t,) of the tokens, that the model `name` was made for."""
    metadata = registry.find("models", name).metadata
    return metadata.get("tokens") or metadata.get("image", (224, 224, 3))


def usual_classes(name: str) -> int:
    """Classes, or tokens of the vocabulary, that the model `name` was made for."""
    return registry.find("models", name).metadata.get("num_classes", 1000)


def input_specs(
    model: nn.Module, shape: Sequence[int], batch_size: int = 1
) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Shapes of a model's inputs: float32 images (h, w, c), or int32 tokens (t,)."""
    dtype = jnp.int32 if len(shape) == 1 else jnp.float32
    inputs = getattr(model, "inputs", ("image",))
    return tuple(jax.ShapeDtypeStruct((batch_size, *shape), dtype) for _ in inputs)


def list_models(pattern: str = "*") -> list[str]:
    """Names of the registered models that match a wildcard, such as 'resnet*', in natural order."""
    return [entry.name for entry in registry.entries("models", pattern)]


def create(name: str, num_classes: int, *, vocabulary: int | None = None, **args: Any) -> nn.Module:
    """The registered model `name` as a Linen module; nothing is computed yet.

    Args:
        name: one of `list_models()`.
        num_classes: of the head; of a language model, the tokens of its vocabulary.
        vocabulary: tokens that the model reads; by default those of a language model, and of
            another one those that it was made for.
        args: of the model, as a config gives them; checked as a config's are.
    """
    build = registry.bind("models", Part(name, args))
    usual = registry.find("models", name).metadata.get("vocabulary", num_classes)
    return registry.supply(build, num_classes=num_classes, vocabulary=vocabulary or usual)


open_room(__name__)
