"""Contrastive loss of pairs: like examples together, unlike ones a margin apart.

Dimensionality Reduction by Learning an Invariant Mapping. Hadsell, Chopra, LeCun 2006.
https://doi.org/10.1109/CVPR.2006.100
The paper's Y is 1 for a pair of unlike examples; here labels are classes, and a pair is alike where
its labels are equal. Pairs are all pairs of the batch.
"""

import jax.numpy as jnp

from jaxdl.config import Positive
from jaxdl.losses.pairs import distances, mean_where, pairs, valid
from jaxdl.registry import register
from jaxdl.types import Array


@register("embedding_losses")
def contrastive(
    features: Array, label: Array, weight: Array, /, *, margin: Positive = 1.0
) -> Array:
    """Contrastive loss: pairs alike together, others a margin apart.

    d^2 / 2 of a pair alike, max(0, margin - d)^2 / 2 of one that is not; d is Euclidean.

    Args:
        features: (b, d).
        label: (b,) integers.
        weight: (b,), 0 for an example that counts for nothing.
        margin: the distance from which on unlike examples leave each other alone.

    Returns:
        (b,) float32, for each example the mean over its pairs; 0 where it has none.
    """
    same, other = pairs(label, weight)
    d = distances(valid(features, weight))
    values = jnp.where(same, d**2, jnp.maximum(margin - d, 0.0) ** 2) / 2
    return mean_where(values, same | other)
