"""Variational dropout with a rate learned for each weight, many of which it removes.

Variational Dropout Sparsifies Deep Neural Networks. Molchanov, Ashukha, Vetrov 2017.
https://arxiv.org/abs/1701.05369, after Kingma, Salimans, Welling 2015,
https://arxiv.org/abs/1506.02557. (One mask for all times of a sequence, which shares the name, is
the dropout `shared`.) What differs: weights are sampled once a batch, where the paper samples the
sums of a layer for each example (local reparameterisation), which no layer has to know of here but
makes the gradient noisier; and the penalty's weight is constant, where its authors raise it from 0
over some epochs. A weight well below 1 at first, or trained weights to begin with, serve the same.
"""

import jax
import jax.numpy as jnp
from flax.traverse_util import unflatten_dict

from jaxdl import tree
from jaxdl.config import Count, NonNegative
from jaxdl.errors import UserError
from jaxdl.objectives.penalty import matching, with_penalty
from jaxdl.objectives.weight_noise import replaced
from jaxdl.registry import register
from jaxdl.types import Array, Batch, Objective, PyTree

VARIATIONAL = "variational"
"""The entry of the parameters that holds a `log_sigma2` for each weight."""


def log_alpha(theta: Array, log_sigma2: Array) -> Array:
    """log of the noise's variance over the weight's square, which for dropout is p / (1 - p)."""
    # log alpha = log sigma^2 - log theta^2
    return log_sigma2 - jnp.log(theta**2 + 1e-8)


def kl_divergence(log_alpha: Array) -> Array:
    """KL of each weight's posterior from the log-uniform prior, approximated as in the paper."""
    k1, k2, k3 = 0.63576, 1.87320, 1.48695
    # -KL = k1 sigmoid(k2 + k3 log alpha) - 0.5 log(1 + 1 / alpha) - k1
    gain = k1 * jax.nn.sigmoid(k2 + k3 * log_alpha) - 0.5 * jax.nn.softplus(-log_alpha) - k1
    return -gain


@register("regularizers")
def variational_dropout(
    objective: Objective,
    /,
    *,
    examples: Count,
    weight: NonNegative = 1.0,
    threshold: float = 3.0,
    initial: float = -10.0,
    match: str = r"(.*/)?kernel",
) -> Objective:
    """Weights w = theta + sigma * noise, with theta and log sigma^2 learned against the KL.

    In inference a weight whose log alpha is above the threshold, so that its noise drowns it, is 0;
    the metric `sparsity` is the fraction of those. A prediction with a key samples all weights.

    Args:
        objective: what else is minimised, by a mean over examples.
        examples: in the training split; the KL of all weights together weighs 1 / examples.
        weight: of the KL besides; 1 is the variational lower bound.
        threshold: of log alpha; 3 is a dropout rate of 0.95.
        initial: log sigma^2 of every weight before training.
        match: regular expression on the paths of the weights.
    """

    def init(key: Array, batch: Batch) -> tuple[PyTree, PyTree]:
        params, variables = objective.init(key, batch)
        if VARIATIONAL in params:
            raise UserError("regularizer 'variational_dropout' can be named once")
        noise = {
            (*name.split("/"), "log_sigma2"): jnp.full(w.shape, initial, jnp.float32)
            for name, w in matching(params, match).items()
        }
        return {**params, VARIATIONAL: unflatten_dict(noise)}, variables

    def loss(params: PyTree, variables: PyTree, batch: Batch, key: Array):
        key, own = jax.random.split(key)
        value, aux = objective.loss(_sampled(params, own), variables, batch, key)
        alphas = [log_alpha(*pair) for pair in _learned(params).values()]
        kl = sum(jnp.sum(kl_divergence(a)) for a in alphas)
        value, aux = with_penalty(value, aux, kl, weight=weight / examples, name="kl")
        drowned = sum(jnp.sum(a > threshold) for a in alphas)
        one = jnp.ones((), jnp.float32)
        sparsity = (drowned / tree.count(alphas), one)
        return value, aux._replace(metrics=aux.metrics | {"sparsity": sparsity})

    def predict(params: PyTree, variables: PyTree, batch: Batch, key: Array | None = None):
        if key is None:
            return objective.predict(_pruned(params, threshold), variables, batch)
        key, own = jax.random.split(key)
        return objective.predict(_sampled(params, own), variables, batch, key)

    return objective._replace(init=init, loss=loss, predict=predict)


def _learned(params: PyTree) -> dict[str, tuple[Array, Array]]:
    """Path of each weight -> (theta, log sigma^2)."""
    theta = tree.flatten(params)
    noise = tree.flatten(params[VARIATIONAL])
    names = {name.removesuffix("/log_sigma2"): x for name, x in noise.items()}
    return {name: (theta[name], x) for name, x in names.items()}


def _plain(params: PyTree, new: dict[str, Array]) -> PyTree:
    rest = {name: value for name, value in params.items() if name != VARIATIONAL}
    return replaced(rest, new)


def _sampled(params: PyTree, key: Array) -> PyTree:
    learned = _learned(params)

    def one(key: Array, theta: Array, log_sigma2: Array) -> Array:
        # w = theta + sigma e,  e ~ N(0, 1)
        return theta + jnp.exp(log_sigma2 / 2) * jax.random.normal(key, theta.shape, theta.dtype)

    keys = jax.random.split(key, len(learned))
    pairs = zip(learned.items(), keys, strict=True)
    return _plain(params, {name: one(k, *pair) for (name, pair), k in pairs})


def _pruned(params: PyTree, threshold: float) -> PyTree:
    keep = lambda theta, noise: jnp.where(log_alpha(theta, noise) > threshold, 0.0, theta)
    return _plain(params, {name: keep(*pair) for name, pair in _learned(params).items()})
