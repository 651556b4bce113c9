"""Networks put together from a table of stages, through configs and the shell."""

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo import initial, quick

from jaxdl import config_file, models, registry, tree
from jaxdl.errors import UserError
from jaxdl.main import main
from jaxdl.objectives.base import Model
from jaxdl.objectives.supervised import supervised

BLOCKS = [e.name for e in registry.entries("blocks")]
IMAGE = jnp.zeros((2, 14, 14, 3))


def stages(*rows):
    keys = ("block", "features", "repeat", "stride", "args")
    return [dict(zip(keys, row, strict=False)) for row in rows]


@pytest.mark.parametrize("block", BLOCKS)
def test_every_block_trains_at_any_stride_and_width(block):
    table = stages((block, 16, 1, 2), (block, 24, 2, 1), (block, 32, 1, 3))
    model = models.create("composed", 5, stages=table, stem=8)
    goal = supervised(Model(model, jnp.dtype("float32")))
    batch = {
        "image": jax.random.normal(jax.random.key(0), (4, 14, 14, 3)),
        "label": jnp.arange(4),
    }
    params, variables = initial(goal.init, jax.random.key(1), batch)
    features = jax.eval_shape(
        lambda v: model.apply(v, batch["image"], method="features"),
        {"params": params, **variables},
    )
    chex.assert_shape(features, (4, 3, 3, 32))  # 14, 7, 3: odd sizes are rounded up
    take = quick(jax.grad(goal.loss, has_aux=True))
    for name, gradient in tree.flatten(
        take(params, variables, batch, jax.random.key(2))[0]
    ).items():
        assert np.any(gradient) and np.isfinite(gradient).all(), name


def test_parameters_by_hand():
    model = models.create("composed", 10, stages=stages(("conv", 16, 2, 2)), stem=8)
    shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGE)
    convs = 9 * 3 * 8 + 9 * 8 * 16 + 9 * 16 * 16
    assert tree.count(shapes["params"]) == convs + 2 * (8 + 16 + 16) + 16 * 10 + 10


def test_a_stage_of_residual_blocks_is_that_of_a_residual_network():
    table = stages(("basic", 16, 3), ("basic", 32, 3, 2), ("basic", 64, 3, 2))
    shapes = jax.eval_shape(
        models.create("composed", 10, stages=table, stem=16).init, jax.random.key(0), IMAGE
    )
    other = models.create("resnet20", 10, shortcut="projection")
    wanted = jax.eval_shape(other.init, jax.random.key(0), IMAGE)
    assert tree.count(shapes) == tree.count(wanted)


def test_through_the_shell(capsys):
    table = stages(("bottleneck", 16, 1, 2, {"attention": {"name": "cbam", "args": {}}}))
    command = ["--config", "configs/cnn.py", "--config.model=composed", "--print-config"]
    assert main([*command, f"--config.model.stages={json.dumps(table)}"]) == 0
    config = config_file.from_json(capsys.readouterr().out)
    model = registry.bind("models", config.model)(10)
    names = tree.flatten(jax.eval_shape(model.init, jax.random.key(0), IMAGE)["params"])
    assert any("attention" in n for n in names)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (stages(("mbconf", 16)), "did you mean 'mbconv'"),
        (stages(("mbconv", 16, 1, 1, {"expnd": 2})), "did you mean 'expand'"),
        (stages(("mbconv", 0)), ">= 1"),
        ([{"block": "conv", "feature": 8}], "unknown field `feature`|required field"),
        (stages(("bottleneck", 18)), "multiple of 4"),
        (stages(("attention", 18)), "4 heads do not divide 18"),
        ([], "length >= 1"),
    ],
)
def test_mistakes_in_the_table(table, said):
    with pytest.raises(UserError, match=said):
        model = models.create("composed", 3, stages=table)
        jax.eval_shape(model.init, jax.random.key(0), IMAGE)
