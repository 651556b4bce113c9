"""Frozen batch statistics: read in training, never moved; all else still learns."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo import initial, quick

from jaxdl import models, tree
from jaxdl.objectives.base import Model
from jaxdl.objectives.supervised import supervised


@pytest.mark.parametrize("norm", ["batch", "batch_renorm", "sync_batch"])
def test_frozen_statistics(norm):
    module = models.create("cnn", 3, widths=[8, 8], norm=norm)
    image = jax.random.normal(jax.random.key(0), (6, 8, 8, 3)) + 2
    batch = {"image": image, "label": jnp.arange(6) % 3}
    frozen = Model(module, jnp.dtype("float32"), freeze_norms=".*")
    params, variables = initial(frozen.init, jax.random.key(1), batch)
    variables = jax.tree.map(lambda x: x + 0.3, variables)

    outputs, new = quick(frozen.train)(params, variables, batch, jax.random.key(2))
    chex.assert_trees_all_equal(new, variables)
    expected = quick(frozen.predict)(params, variables, batch)["logits"]
    np.testing.assert_allclose(outputs["logits"], expected, rtol=1e-5, atol=1e-6)

    goal = supervised(frozen)
    grads, _ = quick(jax.grad(goal.loss, has_aux=True))(params, variables, batch, jax.random.key(2))
    assert all(np.any(g) for g in tree.flatten(grads).values())


def test_statistics_move_unless_they_are_frozen():
    module = models.create("cnn", 3, widths=[8, 8])
    model = Model(module, jnp.dtype("float32"))
    batch = {"image": jax.random.normal(jax.random.key(0), (6, 8, 8, 3)) + 2}
    params, variables = initial(model.init, jax.random.key(1), batch)
    _, new = quick(model.train)(params, variables, batch, jax.random.key(2))
    for name, value in tree.flatten(new).items():
        assert not np.allclose(value, tree.flatten(variables)[name]), name
