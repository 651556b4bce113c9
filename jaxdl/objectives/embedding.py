"""Metric learning: features that are near for examples of one class and far for those of two.

FaceNet: A Unified Embedding for Face Recognition and Clustering. Schroff, Kalenichenko, Philbin
2015. https://arxiv.org/abs/1503.03832
Supervised Contrastive Learning. Khosla et al. 2020. https://arxiv.org/abs/2004.11362
"""

from collections.abc import Callable
from typing import Annotated

import jax.numpy as jnp

from jaxdl.config import NonNegative
from jaxdl.losses.pairs import pairs, squared_distances, unit, valid
from jaxdl.losses.triplet import triplet
from jaxdl.metrics.segmentation import weighted
from jaxdl.objectives.base import Model, on_target
from jaxdl.objectives.features import add_penalty, pool_features, unmixed_mask
from jaxdl.registry import Of, register
from jaxdl.types import Array, Aux, Batch, Objective, PyTree

Loss = Annotated[Callable[[Array, Array, Array], Array], Of("embedding_losses")]


@register("objectives", target=("classes",))
def embedding(
    model: Model, /, *, loss: Loss = triplet, normalize: bool = True, target: str = "label"
) -> Objective:
    """Minimise the mean over examples of a loss of their features.

    Pairs are made within a batch, micro-batches of an accumulated one included: then each example
    meets fewer others. An example without a partner has the loss 0 and counts in the mean. Mixed
    examples, whose `lam` is below 1, have no one class and count for nothing.

    The head takes no part and has no gradient: the logits that `predict` gives are those of its
    first weights. What has been learned is in `features`.

    Args:
        model: whose features are (b, d), or (b, h, w, d) and averaged over places.
        loss: of one anchor among the batch.
        normalize: scale features to length 1 before the loss sees them.
        target: key of the batch that is learned as the label.
    """

    def objective_loss(params: PyTree, variables: PyTree, batch: Batch, key: Array):
        outputs, variables = model.train(params, variables, batch, key)
        x, label, weight = _embedded(outputs, batch, normalize)
        total, count = weighted(loss(x, label, weight), weight)
        metrics = {"loss": (total, count), "nearest_neighbour": nearest_neighbour(x, label, weight)}
        return total / jnp.maximum(count, 1.0), Aux(variables, metrics, outputs)

    return on_target(Objective(model.init, objective_loss, model.predict), target)


@register("regularizers", target=("classes",))
def embedding_loss(
    objective: Objective,
    /,
    *,
    loss: Loss = triplet,
    weight: NonNegative = 1.0,
    normalize: bool = True,
) -> Objective:
    """Add a loss of the features to any objective: L + weight * mean over examples of it.

    Pairs, mixed examples and `normalize` are as in the objective `embedding`.

    Args:
        objective: whose outputs have features (b, d) or (b, h, w, d).
        loss: of one anchor among the batch.
        weight: of its mean; the metric 'embedding_loss' is without it.
        normalize: scale features to length 1 before the loss sees them.
    """

    def added(params: PyTree, variables: PyTree, batch: Batch, key: Array):
        value, aux = objective.loss(params, variables, batch, key)
        x, label, mask = _embedded(aux.outputs, batch, normalize)
        penalty = weighted(loss(x, label, mask), mask)
        return add_penalty(value, aux, penalty, weight=weight, name="embedding_loss")

    return objective._replace(loss=added)


def nearest_neighbour(x: Array, label: Array, weight: Array) -> tuple[Array, Array]:
    """Recall@1 within a batch as (sum, count): is the nearest other example of the same class?

    Counted over examples that have another of their class in the batch.

    Args:
        x: (b, d).
        label: (b,).
        weight: (b,), 0 for an example that counts for nothing.
    """
    same, other = pairs(label, weight)
    d = jnp.where(same | other, squared_distances(valid(x, weight)), jnp.inf)
    hit = label[jnp.argmin(d, axis=1)] == label
    return weighted(hit.astype(jnp.float32), jnp.any(same, axis=1).astype(jnp.float32))


def _embedded(outputs: dict[str, Array], batch: Batch, normalize: bool):
    weight = unmixed_mask(batch)
    x = valid(pool_features(outputs), weight)
    return unit(x) if normalize else x, batch["label"], weight
