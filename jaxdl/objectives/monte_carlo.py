"""Predictions that drop at random too, averaged: dropout as an approximate Bayesian posterior.

Dropout as a Bayesian Approximation. Gal, Ghahramani 2015. https://arxiv.org/abs/1506.02142
Mutual information as uncertainty of the weights: Bayesian Active Learning for Classification and
Preference Learning. Houlsby, Huszar, Ghahramani, Lengyel 2011. https://arxiv.org/abs/1112.5745
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdl.config import Count, Seed
from jaxdl.registry import register
from jaxdl.types import Array, Batch, Objective, PyTree

Outputs = dict[str, Array]


def mean_prediction(
    one: Callable[[Array], Outputs], keys: Array, first: Outputs | None = None
) -> Outputs:
    """The mean over several predictions, made one after the other, and how far they differ.

    Args:
        one: key -> outputs, with `logits` (..., k).
        keys: one for each prediction.
        first: one more prediction, if there is one.

    Returns:
        `logits` (..., k), the log of the mean probability; in nats, `entropy` (...) of the mean,
        and `mutual_information` (...), that less the mean of the entropies: 0 where all agree.
        `features` are the mean of those, where there are any.
    """

    def add(sums: PyTree, outputs: Outputs) -> PyTree:
        log_p = jax.nn.log_softmax(outputs["logits"].astype(jnp.float32))
        more = (_entropy(log_p), outputs.get("features"))
        return jnp.logaddexp(sums[0], log_p), jax.tree.map(jnp.add, sums[1], more)

    shapes = jax.eval_shape(one, keys[0])
    shape = shapes["logits"].shape
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes.get("features"))
    sums = jnp.full(shape, -jnp.inf), (jnp.zeros(shape[:-1]), nothing)
    n = len(keys)
    if first is not None:
        sums, n = add(sums, first), n + 1
    (log_p, means), _ = jax.lax.scan(lambda sums, key: (add(sums, one(key)), None), sums, keys)
    entropy, features = jax.tree.map(lambda x: x / n, means)
    # p = 1/n sum_i p_i,  I = H(p) - 1/n sum_i H(p_i)
    log_p = log_p - jnp.log(n)
    total = _entropy(log_p)
    outputs = {
        "logits": log_p,
        "entropy": total,
        "mutual_information": jnp.maximum(total - entropy, 0.0),
    }
    return outputs if features is None else {**outputs, "features": features}


def _entropy(log_p: Array) -> Array:
    # H(p) = -sum_k p_k log p_k
    return jnp.sum(jax.scipy.special.entr(jnp.exp(log_p)), axis=-1)


@register("predictors")
def mc_dropout(objective: Objective, /, *, samples: Count = 20, seed: Seed = 0) -> Objective:
    """Predict the mean probability over passes in which dropout and its like stay at work.

    Besides `logits` there are `entropy` and `mutual_information` for each example, pixel or token.
    All batches are seen under the same draws, so that an evaluation can be repeated. In a model
    where nothing drops, all passes agree.

    Args:
        objective: whose `predict` takes a key.
        samples: passes; they run one after the other, in the memory of one.
        seed: of the draws, where the caller gives no key.
    """

    def predict(params: PyTree, variables: PyTree, batch: Batch, key: Array | None = None):
        keys = jax.random.split(jax.random.key(seed) if key is None else key, samples)
        return mean_prediction(lambda k: objective.predict(params, variables, batch, k), keys)

    return objective._replace(predict=predict)
