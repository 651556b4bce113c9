"""Signals through deep stacks: what is known of each activation and initializer must show."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import models
from jaxdl.config import part
from jaxdl.objectives.base import Model
from jaxdl.objectives.supervised import supervised
from jaxdl.research.signal_flow import compare_activations, layer_gradients, text, verdict


def test_activations_at_their_own_initializers():
    sigmoid, tanh, relu, dying = compare_activations(
        ["sigmoid", "tanh", "relu", part("leaky_relu", slope=0.0)], initializer="he"
    )
    assert sigmoid.verdict == "vanishing"  # slope at most 1/4, twenty times
    assert sigmoid.mean > 1 and abs(tanh.mean) < 0.1  # only one of the two is centred
    assert relu.verdict == "steady" and 0.3 < relu.spread < 3
    # y = max(x, 0) twice over
    np.testing.assert_allclose(relu[1:], dying[1:], rtol=1e-5)
    assert 0.4 < relu.saturated < 0.6 and sigmoid.saturated < 0.05


def test_the_scale_of_the_kernels_decides():
    small = compare_activations(["relu"], initializer=part("normal", stddev=0.02))[0]
    large = compare_activations(["relu"], initializer=part("normal", stddev=0.3))[0]
    # each layer multiplies by stddev * sqrt(width / 2): 0.226 and 3.39, nineteen times over
    np.testing.assert_allclose(np.log10(small.gradient), 19 * np.log10(0.2263), rtol=0.05)
    np.testing.assert_allclose(np.log10(large.gradient), 19 * np.log10(3.394), rtol=0.05)
    assert (small.verdict, large.verdict) == ("vanishing", "exploding")
    assert "vanishing" in text([small]) and "exploding" in text([large])


def test_identity_with_orthogonal_kernels_loses_nothing():
    flow = compare_activations(["identity"], initializer="orthogonal")[0]
    np.testing.assert_allclose([flow.spread, flow.gradient], 1, rtol=1e-3)
    assert flow.dead == flow.saturated == 0


@pytest.mark.parametrize(
    ("activation", "batch_norm", "expected"),
    [("sigmoid", False, "vanishing"), ("relu", False, "steady"), ("sigmoid", True, "steady")],
)
def test_the_gradients_of_a_real_network(activation, batch_norm, expected):
    norm = "batch" if batch_norm else "none"
    args = {"widths": [64] * 12, "activation": activation, "norm": norm}
    goal = supervised(Model(models.create("mlp", 10, **args), jnp.dtype("float32")))
    batch = {
        "image": jax.random.normal(jax.random.key(0), (64, 8, 8, 1)),
        "label": jnp.arange(64) % 10,
    }
    params, variables = goal.init(jax.random.key(1), batch)
    found = layer_gradients(goal, params, variables, batch, jax.random.key(2))
    assert len(found) == 13 and next(iter(found)) == "backbone/dense0/kernel"
    assert verdict(list(found.values())) == expected


def test_stacked_blocks_come_one_by_one():
    model = models.create("vit_tiny_patch16_224", 3, depth=2, patch_size=8, width=48)
    goal = supervised(Model(model, jnp.dtype("float32")))
    batch = {"image": jnp.ones((2, 16, 16, 3)), "label": jnp.arange(2)}
    params, variables = goal.init(jax.random.key(1), batch)
    found = layer_gradients(goal, params, variables, batch, jax.random.key(2))
    assert sum(name.endswith("[1]") for name in found) == 4  # qkv, out and two dense layers


def test_verdicts():
    assert verdict([1e-9, 1.0]) == "vanishing" and verdict([1e9, 1.0]) == "exploding"
    assert verdict([1.0, np.nan, 1.0]) == "exploding" and verdict([0.1, 1.0]) == "steady"
