"""Weights that are disturbed in training: dropped, or with noise upon them.

One draw serves a whole batch, or micro-batch: drawing for each example would need as many copies
of the weights. In inference the weights are whole, which is their mean; a prediction with a key
disturbs them, as a training step does. The disturbance is of the float32 parameters, before the
cast to the compute type.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdl import tree
from jaxdl.config import Positive, Rate
from jaxdl.objectives.penalty import matching
from jaxdl.optim.arguments import DECAYED
from jaxdl.registry import register
from jaxdl.types import Array, Batch, Objective, PyTree


def replaced(params: PyTree, new: dict[str, Array]) -> PyTree:
    """The same tree with other leaves at the paths that are given."""
    return jax.tree.map(lambda name, x: new.get(name, x), tree.names(params), params)


def _disturbed(
    objective: Objective, match: str, disturb: Callable[[Array, Array], Array]
) -> Objective:
    """The same objective of disturb(key, w), for each matched parameter with a key of its own."""

    def drawn(params: PyTree, key: Array) -> PyTree:
        chosen = matching(params, match)
        keys = jax.random.split(key, len(chosen))
        pairs = zip(chosen.items(), keys, strict=True)
        return replaced(params, {name: disturb(k, w) for (name, w), k in pairs})

    def init(key: Array, batch: Batch) -> tuple[PyTree, PyTree]:
        params, variables = objective.init(key, batch)
        matching(params, match)
        return params, variables

    def loss(params: PyTree, variables: PyTree, batch: Batch, key: Array):
        key, own = jax.random.split(key)
        return objective.loss(drawn(params, own), variables, batch, key)

    def predict(params: PyTree, variables: PyTree, batch: Batch, key: Array | None = None):
        if key is not None:
            key, own = jax.random.split(key)
            params = drawn(params, own)
        return objective.predict(params, variables, batch, key)

    return objective._replace(init=init, loss=loss, predict=predict)


@register("regularizers")
def drop_connect(
    objective: Objective, /, *, rate: Rate = 0.5, match: str = r"(.*/)?kernel"
) -> Objective:
    """Each weight is zero with probability `rate`, and the others are scaled up by as much.

    Regularization of Neural Networks using DropConnect. Wan, Zeiler, Zhang, LeCun, Fergus 2013.
    https://proceedings.mlr.press/v28/wan13.html. The paper draws for each example, in dense layers
    alone (`match='head/.*kernel'`, say), and infers by a normal distribution of each layer's sums,
    where this takes the mean weights.

    Args:
        objective: what is minimised.
        rate: probability of dropping.
        match: regular expression on the paths of parameters.
    """

    def dropped(key: Array, w: Array) -> Array:
        # w' = w * keep / (1 - p)
        return jnp.where(jax.random.bernoulli(key, 1 - rate, w.shape), w / (1 - rate), 0.0)

    return _disturbed(objective, match, dropped)


@register("regularizers")
def weight_noise(
    objective: Objective, /, *, std: Positive = 0.01, match: str = DECAYED
) -> Objective:
    """Add Gaussian noise to each weight.

    Speech Recognition with Deep Recurrent Neural Networks. Graves, Mohamed, Hinton 2013.
    https://arxiv.org/abs/1303.5778. There it is 0.075, drawn anew for each sequence.

    Args:
        objective: what is minimised.
        std: standard deviation of the noise.
        match: regular expression on the paths of parameters.
    """
    # w' = w + std e,  e ~ N(0, 1)
    return _disturbed(
        objective, match, lambda key, w: w + std * jax.random.normal(key, w.shape, w.dtype)
    )
