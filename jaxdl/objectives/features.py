"""Pieces shared by objectives on features: one vector per example, and a mask of examples."""

import jax.numpy as jnp

from jaxdl.errors import UserError
from jaxdl.types import Array, Aux, Batch, mask_of


def pool_features(outputs: dict[str, Array]) -> Array:
    """Features as one vector an example, (b, d): a map (b, h, w, d) gives its mean.

    Raises:
        UserError: features of another kind, as of a model that speaks of each pixel or token.
    """
    features = outputs["features"]
    if isinstance(features, tuple) or features.ndim not in (2, 4):
        raise UserError("the model's features are no vector an example, nor one map an example")
    return jnp.mean(features, axis=(1, 2)) if features.ndim == 4 else features


def unmixed_mask(batch: Batch) -> Array:
    """Mask of examples with one class, (b,) float32: 0 for padding and for true mixtures."""
    if "lam" not in batch:
        return mask_of(batch)
    return mask_of(batch) * (batch["lam"] == 1)


def add_penalty(
    loss: Array, aux: Aux, penalty: tuple[Array, Array], *, weight: float, name: str
) -> tuple[Array, Aux]:
    """Add weight * mean penalty to a loss, as a term of its own, and to what it reports of itself.

    Args:
        loss: the scalar.
        aux: with `metrics['loss']`, whose quotient is the scalar.
        penalty: (sum, count).
        weight: of the penalty's mean.
        name: of the penalty, unweighted, among the metrics.
    """
    extra = weight * penalty[0] / jnp.maximum(penalty[1], 1.0)
    total, count = aux.metrics["loss"]
    metrics = aux.metrics | {"loss": (total + extra * count, count), name: penalty}
    terms = (aux.terms or {"loss": loss}) | {name: extra}
    return loss + extra, aux._replace(metrics=metrics, terms=terms)
