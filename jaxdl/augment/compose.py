"""Augmentations made of others: one after the other, now and then, or one of several.

As `RandomApply` and `RandomChoice` of torchvision, but for each example by itself.
https://docs.pytorch.org/vision/stable/transforms.html
"""

from collections.abc import Callable
from typing import Annotated

import jax
import jax.numpy as jnp

from jaxdl.augment.batch import Probability, sides
from jaxdl.config import NonNegative
from jaxdl.errors import UserError
from jaxdl.registry import Of, register
from jaxdl.types import Array, Batch

Augmentation = Annotated[Callable, Of("augmentations")]


@register("augmentations")
def in_order(key: Array, batch: Batch, /, *, augmentations: tuple[Augmentation, ...] = ()) -> Batch:
    """One augmentation after the other, each with a key of its own.

    Args:
        augmentations: what is done, in order.
    """
    for augmentation, k in zip(
        augmentations, jax.random.split(key, len(augmentations)), strict=True
    ):
        batch = augmentation(k, batch)
    return batch


@register("augmentations")
def sometimes(
    key: Array, batch: Batch, /, *, augmentation: Augmentation, probability: Probability
) -> Batch:
    """An augmentation that is done to each example with some probability.

    It is computed for all examples and then chosen from, so that it saves no time.

    Args:
        augmentation: what is done.
        probability: of doing it, for each example by itself.
    """
    inner, whether = jax.random.split(key)
    changed = augmentation(inner, batch)
    chosen = jax.random.bernoulli(whether, probability, batch["image"].shape[:1])
    return _choice("sometimes", batch, [batch, changed], chosen.astype(jnp.int32))


@register("augmentations")
def one_of(
    key: Array,
    batch: Batch,
    /,
    *,
    augmentations: tuple[Augmentation, ...],
    weights: tuple[NonNegative, ...],
) -> Batch:
    """One of several augmentations for each example, drawn by weight.

    All are computed for all examples and then chosen from.

    Args:
        augmentations: what there is to choose from.
        weights: one number for each, in proportion to how often it is drawn; [] for equal ones.
    """
    if not augmentations:
        raise UserError("augmentation 'one_of' needs at least one of the augmentations")
    weights = weights or (1.0,) * len(augmentations)
    if len(weights) != len(augmentations) or sum(weights) == 0:
        raise UserError(
            f"augmentation 'one_of' has {len(augmentations)} augmentations and needs a weight for "
            f"each, one above 0: {list(weights)}"
        )
    which, *keys = jax.random.split(key, len(augmentations) + 1)
    results = [a(k, batch) for a, k in zip(augmentations, keys, strict=True)]
    odds = jnp.log(jnp.array(weights, jnp.float32))
    chosen = jax.random.categorical(which, odds, shape=batch["image"].shape[:1])
    return _choice("one_of", batch, results, chosen)


def _choice(name: str, batch: Batch, results: list[Batch], chosen: Array) -> Batch:
    # A result that mixes examples says so in keys that the others lack: their `lam` is 1.
    whole = {}
    if any("lam" in r for r in results):
        whole["mixed_label"] = batch["label"]
        whole["lam"] = jnp.ones(batch["label"].shape[:1], jnp.float32)
    results = [{**whole, **r} for r in results]
    merged = {}
    for k, first in results[0].items():
        for other in results:
            if k not in other or other[k].shape != first.shape or other[k].dtype != first.dtype:
                raise UserError(
                    f"augmentation '{name}' chooses between results of one shape and type, and "
                    f"'{k}' differs: put what changes it outside"
                )
        merged[k] = first
        for i, other in enumerate(results[1:], 1):
            merged[k] = jnp.where(sides(chosen == i, first), other[k], merged[k])
    return merged
