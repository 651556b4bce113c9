"""Mixed precision: the loss scale's arithmetic, skipped steps, modules and steps in float32."""

import json

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_train import FLOAT32, Dropped, batches, goal_of, mesh_of

from jaxdl import models, registry, tree
from jaxdl.assemble import assemble
from jaxdl.config import Config, Data, Gradient, Log, part
from jaxdl.errors import UserError
from jaxdl.nn.head import Classifier, Head
from jaxdl.objectives.base import Model
from jaxdl.objectives.supervised import supervised
from jaxdl.run import run
from jaxdl.rundir.progress import Diverged
from jaxdl.train.gradients import full_batch_grad, scaled
from jaxdl.train.precision import LossScale, Scale, bfloat16, first_scale, float16, next_scale
from jaxdl.train.state import StateSpec, init_state
from jaxdl.train.step import compile_step, make_step
from jaxdl.types import Aux

RULE = LossScale(initial=8.0, growth=2.0, interval=3, minimum=2.0, maximum=16.0)


def scales(rule, finite):
    scale = first_scale(rule)
    for ok in finite:
        scale = next_scale(rule, scale, jnp.asarray(ok))
        yield float(scale.value)


def test_the_scale_grows_after_an_interval_and_stays_within_bounds():
    # 3 finite steps double it; at 16 it stays; each overflow halves it; at 2 it stays.
    finite = [1, 1, 1, 1, 1, 1, 0, 1, 1, 0, 0, 0, 0, 1, 1, 1]
    expected = [8, 8, 16, 16, 16, 16, 8, 8, 8, 4, 2, 2, 2, 2, 2, 4]
    assert list(scales(RULE, [bool(f) for f in finite])) == expected


def test_a_static_scale_stands_still():
    assert set(scales(LossScale(64.0), [True, False] * 5000)) == {64.0}


def test_a_scale_never_leaves_float32():
    last = list(scales(float16().loss_scale._replace(interval=1), [True] * 40))[-1]
    assert last == 2.0**24


@pytest.mark.parametrize("args", [{"scale": 0.5}, {"scale": 1e9}, {"growth": 1.0}, {"interval": 0}])
def test_a_scale_out_of_range_is_refused(args):
    with pytest.raises(UserError, match="|".join(args)):
        registry.bind("precisions", part("float16", **args))()


def faint(params, variables, batch, key):
    """A loss whose gradient, 1e-6 x for x of 1e-3, is less than float16 can say."""
    value = jnp.sum(params["w"].astype(jnp.float16) * batch["x"].astype(jnp.float16))
    aux = Aux({}, {"loss": (jnp.float32(0), jnp.float32(1))}, {})
    return value.astype(jnp.float32) * 1e-6, aux


def test_scaling_rescues_gradients_that_float16_would_lose():
    params, batch = {"w": jnp.ones(4)}, {"x": jnp.full(4, 1e-3)}
    lost = jax.grad(lambda p: faint(p, {}, batch, None)[0])(params)["w"]
    assert jnp.all(lost == 0)
    take = scaled(full_batch_grad, jnp.float32(2**15))(faint)
    (value, _), grads = take(params, {}, batch, None)
    np.testing.assert_allclose(grads["w"], 1e-9, rtol=2e-3)
    np.testing.assert_allclose(value, 4e-9, rtol=2e-3)


def started(goal, tx, options):
    batch = jax.tree.map(jnp.asarray, next(batches(1)))
    spec = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in batch.items()}
    return init_state(goal, tx, jax.random.key(0), spec, mesh_of(1), options), batch


def test_a_step_whose_gradient_is_not_finite_changes_nothing_and_is_counted():
    goal, tx = goal_of(Classifier(Dropped(), Head(10))), optax.adam(1e-2)
    state, batch = started(goal, tx, StateSpec(average=True, loss_scale=RULE))
    step = compile_step(
        make_step(goal, tx, average=lambda t: jnp.float32(0.1), loss_scale=RULE), state
    )
    state, metrics = step(state, batch)
    assert metrics["skipped"][0] == 0 and metrics["loss"][1] == 16
    before = jax.tree.map(np.asarray, state.replace(key=jax.random.key_data(state.key)))
    poisoned = {**batch, "image": batch["image"].at[3, 2, 1].set(jnp.nan)}
    state, metrics = step(state, poisoned)
    after = jax.tree.map(np.asarray, state.replace(key=jax.random.key_data(state.key)))
    assert int(after.step) == int(before.step) + 1 and after.loss_scale.value == 4.0
    for field in ("params", "variables", "opt_state", "average"):
        chex.assert_trees_all_equal(getattr(after, field), getattr(before, field))
    assert metrics["skipped"] == (1.0, 1.0) and metrics["loss"] == (0.0, 0.0)
    chex.assert_tree_all_finite(metrics)
    state, metrics = step(state, batch)
    assert metrics["skipped"][0] == 0 and state.opt_state[0].count == 2


class Rooted(nn.Module):
    """Features with one leaf, `root`, whose derivative at 0 is infinite; the loss is finite."""

    @nn.compact
    def __call__(self, x, train=False):
        root = self.param("root", nn.initializers.zeros, (1, 10))
        return nn.Dense(10)(x.reshape(x.shape[0], -1)) + jnp.sqrt(root)


def test_one_leaf_that_is_not_finite_is_enough_to_skip_a_step():
    goal, tx = goal_of(Classifier(Rooted(), Head(10))), optax.sgd(1e-2)
    state, batch = started(goal, tx, StateSpec())
    before = jax.tree.map(np.asarray, state.params)
    state, metrics = compile_step(make_step(goal, tx, skip_nonfinite=True), state)(state, batch)
    assert metrics["skipped"] == (1.0, 1.0)
    chex.assert_trees_all_equal(jax.tree.map(np.asarray, state.params), before)


def test_a_run_that_only_skips_ends_and_says_why(tmp_path):
    config = Config(
        model=part("mlp", widths=[8]),
        optimizer=part("sgd", learning_rate=1e30),
        schedule=part("constant"),
        gradient=Gradient(max_skipped=5),
        preprocess=(part("normalize", std=[1e-30]),),
        duration="200 steps",
    )
    with pytest.raises(Diverged, match="last 5 steps, up to step .* were not finite"):
        run(config, tmp_path)


def products(jaxpr):
    """Types of the operands of all matrix products and convolutions, inside out."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            yield tuple(v.aval.dtype for v in equation.invars)
        for value in equation.params.values():
            for inner in value if isinstance(value, list | tuple) else [value]:
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from products(inner)


def test_chosen_modules_compute_in_float32():
    module = models.create("mlp", 10, widths=(16, 16))
    batch = jax.tree.map(jnp.asarray, next(batches(1)))
    counts = {}
    for pattern in (None, "head", "backbone/dense1"):
        goal = supervised(Model(module, jnp.dtype(jnp.bfloat16), float32=pattern))
        params, variables = goal.init(jax.random.key(0), batch)
        traced = jax.make_jaxpr(goal.loss)(params, variables, batch, jax.random.key(1))
        kinds = [k[0].name for k in products(traced.jaxpr)]
        assert all(len(set(k)) == 1 for k in products(traced.jaxpr))
        counts[pattern] = (kinds.count("bfloat16"), kinds.count("float32"))
    assert counts == {None: (3, 0), "head": (2, 1), "backbone/dense1": (2, 1)}


@pytest.mark.parametrize(
    ("pattern", "message"), [("heads", "matches no module: did you mean"), ("(", "expression")]
)
def test_a_pattern_that_means_no_module_is_refused(pattern, message):
    model = Model(models.create("mlp", 10, widths=()), bfloat16().dtype, float32=pattern)
    batch = {"image": jnp.zeros((2, 8, 8, 3))}
    params, _ = model.init(jax.random.key(0), batch)
    with pytest.raises(UserError, match=message):
        model.predict(params, {}, batch)


def test_outputs_of_a_precise_head_are_exactly_float32():
    module = models.create("mlp", 10, widths=())
    batch = jax.tree.map(jnp.asarray, next(batches(1)))
    exact = Model(module, FLOAT32)
    params, _ = exact.init(jax.random.key(0), batch)
    logits = Model(module, bfloat16().dtype, float32=".*").predict(params, {}, batch)["logits"]
    rounded = {**batch, "image": batch["image"].astype(jnp.bfloat16).astype(jnp.float32)}
    expected = exact.predict(params, {}, rounded)["logits"]
    np.testing.assert_allclose(logits, expected, rtol=1e-6, atol=1e-6)


def losses(tmp_path, name, **fields):
    config = Config(
        data=Data(batch_size=32),
        model=part("mlp", widths=[16]),
        duration="6 steps",
        log=Log(every=1, sinks=()),
        **fields,
    )
    run(config, tmp_path / name)
    text = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
    lines = [json.loads(line) for line in text]
    return [line["train/loss"] for line in lines if "train/loss" in line]


def test_half_precision_can_begin_after_some_steps(tmp_path):
    exact = losses(tmp_path, "exact", precision=part("float32"))
    late = losses(tmp_path, "late", precision=part("bfloat16", start=3))
    assert late[:3] == exact[:3] and late[3:] != exact[3:]
    np.testing.assert_allclose(late, exact, rtol=2e-2)
    # Stopped in the first phase, and resumed in the second.
    config = assemble(Config(precision=part("bfloat16", start="50%"), duration="10 steps"))
    assert [start for start, _ in config.phases] == [0, 5]


def test_float16_trains_with_a_scaled_loss(tmp_path):
    half = losses(tmp_path, "half", precision=part("float16"))
    exact = losses(tmp_path, "exact", precision=part("float32"))
    np.testing.assert_allclose(half, exact, rtol=2e-2)


def test_the_state_of_a_scale_is_two_numbers():
    state, _ = started(
        goal_of(models.create("mlp", 10, widths=())), optax.sgd(0.1), StateSpec(loss_scale=RULE)
    )
    assert isinstance(state.loss_scale, Scale)
    assert {k for k in tree.flatten(state) if "loss_scale" in k} == {
        "loss_scale/value", "loss_scale/good",
    }  # fmt: skip
