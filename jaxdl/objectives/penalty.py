"""Penalties: terms added to a loss that look at the parameters, or at the outputs, alone."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdl import tree
from jaxdl.config import NonNegative
from jaxdl.errors import UserError, choices
from jaxdl.metrics.classification import masked
from jaxdl.objectives.features import add_penalty
from jaxdl.optim.arguments import DECAYED
from jaxdl.registry import register
from jaxdl.types import Array, Aux, Batch, Objective, PyTree


def matching(params: PyTree, match: str) -> dict[str, Array]:
    """The parameters whose whole path matches a regular expression, by path.

    Raises:
        UserError: it is not a regular expression, or it matches nothing.
    """
    mask = tree.flatten(tree.select(params, match, "match"))
    found = {name: x for name, x in tree.flatten(params).items() if mask[name]}
    if not found:
        raise UserError(f"match='{match}' matches no parameter: {choices(match, mask)}")
    return found


def with_penalty(
    value: Array, aux: Aux, penalty: Array, *, weight: float, name: str
) -> tuple[Array, Aux]:
    """Add weight * penalty to a loss, to what it reports of itself, and to its terms.

    Args:
        value: the scalar.
        aux: with `metrics['loss']`, whose count says what the batch weighs.
        penalty: a scalar, the same whatever the batch weighs.
        weight: of the penalty.
        name: of the penalty, unweighted, among the metrics.
    """
    count = aux.metrics["loss"][1]
    return add_penalty(value, aux, (penalty * count, count), weight=weight, name=name)


def _of_weights(
    objective: Objective, name: str, weight: float, match: str, of_one: Callable[[Array], Array]
) -> Objective:
    """Add weight * the sum of a scalar of each matched parameter."""

    def init(key: Array, batch: Batch) -> tuple[PyTree, PyTree]:
        params, variables = objective.init(key, batch)
        matching(params, match)
        return params, variables

    def loss(params: PyTree, variables: PyTree, batch: Batch, key: Array):
        value, aux = objective.loss(params, variables, batch, key)
        penalty = sum(of_one(w.astype(jnp.float32)) for w in matching(params, match).values())
        return with_penalty(value, aux, penalty, weight=weight, name=name)

    return objective._replace(init=init, loss=loss)


@register("regularizers")
def l1(objective: Objective, /, *, weight: NonNegative = 1e-5, match: str = DECAYED) -> Objective:
    """Add weight * sum |w|: small weights are driven to 0, or about it.

    Regression Shrinkage and Selection via the Lasso. Tibshirani 1996.
    https://doi.org/10.1111/j.2517-6161.1996.tb02080.x. The gradient is a subgradient, so that a
    step-wise optimizer hovers around 0 within its step size, and nothing is exactly 0.

    Args:
        objective: what else is minimised.
        weight: of the sum.
        match: regular expression on the paths of parameters.
    """
    # R = weight sum |w|
    return _of_weights(objective, "l1", weight, match, lambda w: jnp.sum(jnp.abs(w)))


@register("regularizers")
def l2(objective: Objective, /, *, weight: NonNegative = 1e-4, match: str = DECAYED) -> Objective:
    """Add weight / 2 * sum w^2, whose gradient is weight * w.

    For plain gradient descent it is weight decay. With momentum it is what libraries call the
    weight decay of SGD; with Adam it is not that of AdamW, since the gradient that it adds is
    divided by the running root mean square: Decoupled Weight Decay Regularization. Loshchilov,
    Hutter 2017. https://arxiv.org/abs/1711.05101. Set the optimizer's own to 0, or both act.

    Args:
        objective: what else is minimised.
        weight: lambda.
        match: regular expression on the paths of parameters.
    """
    # R = weight / 2 sum w^2
    return _of_weights(objective, "l2", weight, match, lambda w: jnp.sum(w**2) / 2)


@register("regularizers")
def elastic_net(
    objective: Objective,
    /,
    *,
    weight: NonNegative = 1e-5,
    ratio: NonNegative = 1.0,
    match: str = DECAYED,
) -> Objective:
    """Add weight * sum (|w| + ratio / 2 * w^2): `l1` and `l2` as one.

    Regularization and Variable Selection via the Elastic Net. Zou, Hastie 2005.
    https://doi.org/10.1111/j.1467-9868.2005.00503.x

    Args:
        objective: what else is minimised.
        weight: of the sum.
        ratio: of the weight of `l2` to that of `l1`.
        match: regular expression on the paths of parameters.
    """
    # R = weight sum (|w| + ratio / 2 w^2)
    both = lambda w: jnp.sum(jnp.abs(w) + ratio / 2 * w**2)
    return _of_weights(objective, "elastic_net", weight, match, both)


@register("regularizers", unit="example")
def confidence_penalty(objective: Objective, /, *, weight: NonNegative = 0.1) -> Objective:
    """Subtract weight * the mean entropy of the predicted classes.

    Regularizing Neural Networks by Penalizing Confident Output Distributions. Pereyra, Tucker,
    Chorowski, Kaiser, Hinton 2017. https://arxiv.org/abs/1701.06548

    Args:
        objective: whose logits are (b, k).
        weight: beta.
    """

    def loss(params: PyTree, variables: PyTree, batch: Batch, key: Array):
        value, aux = objective.loss(params, variables, batch, key)
        logits = aux.outputs["logits"]
        if logits.ndim != 2:
            raise UserError("regularizer 'confidence_penalty' is for logits of each example")
        log_p = jax.nn.log_softmax(logits)
        # R = -beta H(p),  H(p) = -sum_k p_k log p_k
        total, count = masked(-jnp.sum(jnp.exp(log_p) * log_p, axis=-1), batch)
        entropy = total / jnp.maximum(count, 1.0)
        return with_penalty(value, aux, entropy, weight=-weight, name="entropy")

    return objective._replace(loss=loss)
