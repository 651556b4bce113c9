"""Rematerialisation: the same gradients from less that is kept, in any model."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo import initial, quick

from jaxdl import models
from jaxdl.objectives.base import Model
from jaxdl.objectives.language import language
from jaxdl.objectives.supervised import supervised
from jaxdl.perf.memory import activation_bytes

FLOAT32 = jnp.dtype(jnp.float32)
MODELS = {
    "cnn": {"widths": (8, 8), "drop_rate": 0.2},
    "resnet18": {"width": 8},
    "vit_tiny_patch16_224": {"depth": 3, "width": 24, "drop_rate": 0.1, "drop_path": 0.3},
    "transformer_decoder": {"vocabulary": 11, "width": 16, "depth": 2, "heads": 2, "hidden": 32},
    "googlenet": {"width": 0.125},
}


def parts(name, remat):
    args = dict(MODELS[name])
    if name == "transformer_decoder":
        args.pop("vocabulary")
        batch = {"tokens": jnp.asarray(np.random.default_rng(0).integers(1, 11, (4, 7)))}
        return language(Model(models.create(name, 11, **args), FLOAT32, remat=remat)), batch
    size = 64 if name == "googlenet" else 32
    image = np.random.default_rng(0).normal(size=(4, size, size, 3)).astype(np.float32)
    batch = {"image": jnp.asarray(image), "label": jnp.arange(4)}
    return supervised(Model(models.create(name, 10, **args), FLOAT32, remat=remat)), batch


def spec_of(batch):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)


@pytest.mark.parametrize("name", [n for n in MODELS if n != "googlenet"])
@pytest.mark.parametrize("policy", ["blocks", "products"])
def test_gradients_and_statistics_are_the_same(name, policy):
    results = []
    for remat in (None, policy):
        goal, batch = parts(name, remat)
        params, variables = initial(goal.init, jax.random.key(0), batch)
        grads, aux = quick(jax.grad(goal.loss, has_aux=True))(
            params, variables, batch, jax.random.key(3)
        )
        results.append((grads, aux.variables, aux.metrics))
    chex.assert_trees_all_close(*results, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("name", MODELS)
def test_less_is_kept(name):
    kept = {}
    for remat in (None, "products", "blocks"):
        goal, batch = parts(name, remat)
        params, variables = jax.eval_shape(goal.init, jax.random.key(0), spec_of(batch))
        state = State(params, variables)
        kept[remat] = activation_bytes(goal, state, spec_of(batch))
    assert kept["blocks"] < 0.75 * kept[None]
    assert kept["blocks"] <= kept["products"] <= kept[None]


class State:
    def __init__(self, params, variables):
        self.params, self.all_variables = params, variables
        self.key = jax.eval_shape(lambda: jax.random.key(0))
