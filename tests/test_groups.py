"""Which leaves move and how fast: freezing, rates by path, layer-wise decay, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_train import batches, goal_of

from jaxdl import models, tree
from jaxdl.errors import UserError
from jaxdl.objectives.base import Model, frozen
from jaxdl.optim.adamw import adamw
from jaxdl.optim.groups import group_rates, grouped, layer_rates
from jaxdl.optim.sgd import sgd

PARAMS = {
    "backbone": {"conv": {"kernel": jnp.ones((3, 3, 1, 2)), "bias": jnp.ones(2)}},
    "head": {"logits": {"kernel": jnp.ones((2, 5)), "bias": jnp.ones(5)}},
}


def moved(tx, params=PARAMS):
    ones = jax.tree.map(jnp.ones_like, params)
    updates, state = jax.jit(tx.update)(ones, tx.init(params), params)
    return {k: np.unique(v).tolist() for k, v in tree.flatten(updates).items()}, state


def test_frozen_leaves_neither_move_nor_decay_nor_take_memory():
    tx = grouped(adamw(0.1, weight_decay=0.5), freeze="backbone/.*")
    updates, state = moved(tx)
    assert updates["backbone/conv/kernel"] == updates["backbone/conv/bias"] == [0.0]
    assert updates["head/logits/kernel"][0] < -0.14
    assert not any("backbone" in name for name in tree.flatten(state))


def test_rates_multiply_the_learning_rate_and_the_first_match_holds():
    lr_multipliers = {"head/.*": 10.0, ".*/kernel": 0.5}
    updates, _ = moved(grouped(sgd(0.5, momentum=0), lr_multipliers=lr_multipliers))
    assert updates == {
        "backbone/conv/bias": [-0.5],
        "backbone/conv/kernel": [-0.25],
        "head/logits/bias": [-5.0],
        "head/logits/kernel": [-5.0],
    }
    assert group_rates(PARAMS, {})["head"]["logits"]["bias"] == 1.0


def test_decoupled_decay_follows_the_rate():
    nothing = jax.tree.map(jnp.zeros_like, PARAMS)
    tx = grouped(adamw(0.1, weight_decay=0.5), lr_multipliers={"head/.*": 10.0})
    updates, _ = tx.update(nothing, tx.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates["head"]["logits"]["kernel"], -0.5, rtol=1e-6)
    np.testing.assert_allclose(updates["backbone"]["conv"]["kernel"], -0.05, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"freeze": "stem/.*"}, "config.freeze='stem/.*' matches no parameter"),
        ({"freeze": "("}, "config.freeze='(' is not a regular expression"),
        (
            {"lr_multipliers": {"heads/.*": 2.0}},
            "config.lr_multipliers='heads/.*' matches no parameter",
        ),
    ],
)
def test_a_pattern_that_matches_nothing_is_refused(options, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(").replace("*", r"\*")):
        grouped(sgd(0.1), **options).init(PARAMS)


def rates_of(name, image=(16, 16, 3), **args):
    module = models.create(name, 10, **args)
    model = Model(module, jnp.dtype(jnp.float32))
    spec = {"image": jax.ShapeDtypeStruct((1, *image), jnp.uint8)}
    order = model.calls(spec)
    batch = {"image": jax.ShapeDtypeStruct((1, *image), jnp.float32)}
    params = jax.eval_shape(model.init, jax.random.key(0), batch)[0]
    return tree.flatten(layer_rates(params, order, 0.5))


def test_layers_nearer_the_input_are_slower():
    lr_multipliers = rates_of("cnn", widths=(4, 4))  # four convolutions, then the head
    expected = {"conv0_0": 1 / 16, "conv0_1": 1 / 8, "conv1_0": 1 / 4, "conv1_1": 1 / 2}
    for name, rate in expected.items():
        assert lr_multipliers[f"backbone/{name}/kernel"] == rate
        assert lr_multipliers[f"backbone/{name.replace('conv', 'norm')}/scale"] == rate
    assert lr_multipliers["head/logits/kernel"] == lr_multipliers["head/logits/bias"] == 1.0


TOKENS = ("patch_embed", "class_token", "position_embed")


def test_each_stacked_block_is_a_layer():
    lr_multipliers = rates_of("vit_tiny_patch16_224", image=(32, 32, 3))
    # 0: patches, class token, positions; 1 to 12: blocks, the last norm with the twelfth; 13: head
    kernels = [v for k, v in lr_multipliers.items() if "/blocks/" in k and k.endswith("kernel")]
    for kernel in kernels:
        np.testing.assert_allclose(np.ravel(kernel), 0.5 ** (13 - np.arange(1, 13.0)))
    assert len(kernels) == 4
    first = {v for k, v in lr_multipliers.items() if k.split("/")[1] in TOKENS}
    assert first == {0.5**13}
    assert {v for k, v in lr_multipliers.items() if k.startswith("backbone/norm/")} == {0.5}


def test_frozen_parameters_have_no_gradient_and_cost_no_backward_pass():
    goal = goal_of(models.create("mlp", 10, widths=(16, 16)))
    batch = jax.tree.map(jnp.asarray, next(batches(1)))
    params, variables = goal.init(jax.random.key(0), batch)
    args = (params, variables, batch, jax.random.key(1))

    def gradient(goal):
        return jax.grad(lambda *a: goal.loss(*a)[0])

    grads = jax.jit(gradient(frozen(goal, "backbone/.*")))(*args)
    free = jax.jit(gradient(goal))(*args)
    np.testing.assert_allclose(
        grads["head"]["logits"]["kernel"], free["head"]["logits"]["kernel"], rtol=1e-6
    )
    assert all(not np.any(g) for g in jax.tree.leaves(grads["backbone"]))

    def multiplications(f):
        return str(jax.make_jaxpr(f)(*args)).count("dot_general")

    # Three layers forward; backward the head's own, and for the others theirs and their input's.
    assert multiplications(gradient(frozen(goal, "backbone/.*"))) == 4
    assert multiplications(gradient(goal)) == 8


def test_freezing_goes_with_clipping_and_momentum():
    tx = optax.chain(optax.clip_by_global_norm(1.0), grouped(sgd(0.1), freeze="head/.*"))
    updates, _ = moved(tx)
    assert updates["head/logits/bias"] == [0.0] and updates["backbone/conv/bias"][0] < 0
