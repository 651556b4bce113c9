"""Batch statistics of averaged weights: the mean over batches, whatever the momentum."""

import contextlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_train import FLOAT32

from jaxdl.assemble import assemble
from jaxdl.config import Config, Data, Evaluation, part
from jaxdl.nn.head import Classifier, Head
from jaxdl.nn.norm import batch_norm, batch_renorm
from jaxdl.objectives.base import Model
from jaxdl.objectives.supervised import supervised
from jaxdl.run import run
from jaxdl.session import final_state, training_batches, weights_of
from jaxdl.train.reestimate import make_reestimate


class Normed(nn.Module):
    norm: object

    @nn.compact
    def __call__(self, x, train=False):
        return self.norm("norm")(x.reshape(x.shape[0], -1), train)


def test_statistics_are_the_mean_over_the_batches():
    norm = lambda name: batch_norm(name, momentum=0.99)
    goal = supervised(Model(Classifier(Normed(norm), Head(10)), FLOAT32))
    rng = np.random.default_rng(0)
    images = [rng.normal(i, 1 + i, (8, 2, 2, 1)).astype(np.float32) for i in range(3)]
    batches = [{"image": x, "label": np.zeros(8, np.int32)} for x in images]
    params, variables = goal.init(jax.random.key(0), jax.tree.map(jnp.asarray, batches[0]))
    far = jax.tree.map(lambda x: x + 100, variables)  # what was there before does not matter
    found = make_reestimate(goal)(params, far, batches, jax.random.key(1))["batch_stats"]
    flat = [x.reshape(8, -1).astype(np.float64) for x in images]
    norm = found["backbone"]["norm"]
    np.testing.assert_allclose(norm["mean"], np.mean([x.mean(0) for x in flat], 0), rtol=1e-5)
    np.testing.assert_allclose(norm["var"], np.mean([x.var(0) for x in flat], 0), rtol=1e-4)


@pytest.mark.parametrize("norm", [batch_norm, batch_renorm])
def test_momentum_is_the_layers_own_again_afterwards(norm):
    goal = supervised(Model(Classifier(Normed(norm), Head(10)), FLOAT32))
    batch = {"image": jnp.ones((8, 2, 2, 1)), "label": jnp.zeros(8, jnp.int32)}
    params, variables = goal.init(jax.random.key(0), batch)
    before = goal.loss(params, variables, batch, jax.random.key(1))[1].variables
    make_reestimate(goal)(params, variables, [batch], jax.random.key(1))
    after = goal.loss(params, variables, batch, jax.random.key(1))[1].variables
    jax.tree.map(np.testing.assert_array_equal, before, after)


def test_averaged_weights_of_a_run_are_measured_with_statistics_of_their_own(tmp_path):
    config = Config(
        data=Data(batch_size=32),
        model=part("cnn", widths=[4, 4]),
        optimizer=part("sgd", learning_rate=0.05),
        schedule=part("constant"),
        average=part("swa", start="50%", every=5),
        duration="20 steps",
        evaluation=Evaluation(norm_batches=4),
    )
    run(config, tmp_path)
    plan = assemble(config)
    state = final_state(config, plan, tmp_path)
    params, variables = weights_of(config, plan, state)
    with contextlib.closing(training_batches(config, plan, 0, 4)) as batches:
        expected = plan.reestimate(params, state.variables, batches, state.key)
    jax.tree.map(np.testing.assert_array_equal, variables, expected)
    stale = state.average["variables"]["batch_stats"]["backbone"]["norm0_0"]["mean"]
    assert np.any(stale != variables["batch_stats"]["backbone"]["norm0_0"]["mean"])
