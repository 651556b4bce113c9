"""Triplet loss: an anchor nearer to its own class than to others, by a margin.

FaceNet: A Unified Embedding for Face Recognition and Clustering. Schroff, Kalenichenko, Philbin
2015. https://arxiv.org/abs/1503.03832
In Defense of the Triplet Loss for Person Re-Identification. Hermans, Beyer, Leibe 2017.
https://arxiv.org/abs/1703.07737 (mining 'hard' and 'all'; the soft margin)
"""

from typing import Literal

import jax
import jax.numpy as jnp

from jaxdl.config import Positive
from jaxdl.losses.pairs import distances, mean_where, pairs, squared_distances, valid
from jaxdl.registry import register
from jaxdl.types import Array

DISTANCES = {"squared": squared_distances, "euclidean": distances}


@register("embedding_losses")
def triplet(
    features: Array,
    label: Array,
    weight: Array,
    /,
    *,
    margin: Positive | None = 0.2,
    mining: Literal["semi_hard", "hard", "all"] = "semi_hard",
    distance: Literal["squared", "euclidean"] = "squared",
) -> Array:
    """Triplet loss, with the triplets mined from the batch.

    max(0, d(anchor, positive) - d(anchor, negative) + margin)

    Args:
        features: (b, d), in FaceNet of length 1.
        label: (b,) integers.
        weight: (b,), 0 for an example that counts for nothing.
        margin: null for the soft margin, log(1 + exp(d(a, p) - d(a, n))).
        mining: the triplets of an anchor.
            'semi_hard': with each positive, the nearest of the negatives that are farther than it,
            or the farthest negative where none is. 'hard': the farthest positive with the nearest
            negative. 'all': every positive with every negative, those without a loss too.
            All but 'hard' take memory of b^3 numbers.
        distance: FaceNet's is squared, Hermans' is not.

    Returns:
        (b,) float32, for each anchor the mean over its triplets; 0 where it has none.
    """
    d = DISTANCES[distance](valid(features, weight))
    same, other = pairs(label, weight)

    def loss(positive: Array, negative: Array) -> Array:
        gap = positive - negative
        return jax.nn.softplus(gap) if margin is None else jax.nn.relu(gap + margin)

    if mining == "all":
        chosen = same[:, :, None] & other[:, None, :]
        return mean_where(loss(d[:, :, None], d[:, None, :]), chosen, axis=(1, 2))
    farthest = lambda chosen: jnp.max(jnp.where(chosen, d, 0.0), axis=1)
    most = jax.lax.stop_gradient(jnp.max(d)) + 1.0
    if mining == "hard":
        nearest = jnp.min(jnp.where(other, d, most), axis=1)
        some = jnp.any(same, axis=1) & jnp.any(other, axis=1)
        return jnp.where(some, loss(farthest(same), nearest), 0.0)
    beyond = other[:, None, :] & (d[:, None, :] > d[:, :, None])
    nearest = jnp.min(jnp.where(beyond, d[:, None, :], most), axis=2)
    negative = jnp.where(jnp.any(beyond, axis=2), nearest, farthest(other)[:, None])
    return mean_where(loss(d, negative), same & jnp.any(other, axis=1, keepdims=True))
