"""Retrieval metrics of features: classes of each example's nearest neighbours.

Hyperspherical or not, what matters is who is near: In Defense of the Triplet Loss for Person
Re-Identification. Hermans, Beyer, Leibe 2017. https://arxiv.org/abs/1703.07737
"""

import math
from functools import partial

import jax.numpy as jnp
import numpy as np

from jaxdl.config import Count
from jaxdl.metrics.base import Metric, Outputs
from jaxdl.registry import register
from jaxdl.types import Array, Batch


def fraction_with_a_mate(found: dict[str, np.ndarray], k: int = 1) -> float:
    """Fraction of the examples that have one of their class among their k nearest others.

    Of `features` (n, d) scaled to length 1 and `label` (n,), over the examples whose class has
    another example; NaN where there is none.
    """
    from sklearn.neighbors import NearestNeighbors  # a second that training need not wait for

    features, label = found["features"].astype(np.float64), found["label"]
    if len(label) < 2 or not np.isfinite(features).all():
        return math.nan
    features /= np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    search = NearestNeighbors(n_neighbors=min(k, len(label) - 1)).fit(features)
    # Without an argument no example counts as its own neighbour.
    near = search.kneighbors(return_distance=False)
    hit = np.any(label[near] == label[:, None], axis=1)
    has_mate = np.bincount(label)[label] > 1
    return float(np.mean(hit[has_mate])) if has_mate.any() else math.nan


def pooled(outputs: Outputs, batch: Batch) -> dict[str, Array]:
    """`features` (b, d), those of maps (b, h, w, d) averaged over places, and `label` (b,)."""
    x = outputs["features"]
    return {
        "features": jnp.mean(x, axis=tuple(range(1, x.ndim - 1))) if x.ndim > 2 else x,
        "label": batch["label"],
    }


@register("metrics")
def recall_at(*, k: Count = 1) -> Metric:
    """Recall@k of features: is one of the k nearest others of the same class?

    Hermans et al. 2017. https://arxiv.org/abs/1703.07737. Features of maps are averaged over
    places, and all are scaled to length 1. The whole split is searched.

    Args:
        k: neighbours that are looked at.
    """
    return Metric(pooled, partial(fraction_with_a_mate, k=k), "concat")
