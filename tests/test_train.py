"""The machine: sharded equals single, accumulated equals whole, and the step's arithmetic."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, Mesh

from jaxdl import models, tree
from jaxdl.nn.head import Classifier, Head
from jaxdl.objectives.base import Model, augmented
from jaxdl.objectives.supervised import supervised
from jaxdl.optim.averages import ema
from jaxdl.optim.sam import sam
from jaxdl.train.gradients import accumulate_grads, full_batch_grad
from jaxdl.train.precision import auto, bfloat16
from jaxdl.train.sharding import AXES, batch_sharding
from jaxdl.train.state import StateSpec, init_state
from jaxdl.train.step import compile_step, make_step

FLOAT32 = jnp.dtype(jnp.float32)


def mesh_of(data: int, fsdp: int = 1) -> Mesh:
    devices = np.asarray(jax.devices()[: data * fsdp]).reshape(data, fsdp)
    return Mesh(devices.reshape(*devices.shape, 1, 1), AXES, axis_types=(AxisType.Auto,) * 4)


class Dropped(nn.Module):
    """Convolution, batch norm, dropout: everything that could differ between devices."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(16, (3, 3), use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        x = nn.Dropout(0.3)(x, deterministic=not train)
        return nn.relu(nn.Dense(1024)(x.reshape(x.shape[0], -1)))


def goal_of(module, dtype=FLOAT32):
    return supervised(Model(module, dtype))


def batches(n, size=16, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(n):
        label = rng.integers(0, 10, size).astype(np.int32)
        image = rng.normal(size=(size, 8, 8, 3)) + label[:, None, None, None] / 2
        yield {"image": image.astype(np.float32), "label": label}


def train(goal, tx, mesh, steps, gradient=full_batch_grad, average=None, size=16, seed=0):
    spec = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in next(batches(1, size)).items()}
    key = jax.random.key(seed)
    state = init_state(goal, tx, key, spec, mesh, StateSpec(average=average is not None))
    step = compile_step(make_step(goal, tx, gradient, average=average), state)
    losses = []
    for batch in batches(steps, size):
        state, metrics = step(state, jax.device_put(batch, batch_sharding(mesh)))
        losses.append(float(metrics["loss"][0] / metrics["loss"][1]))
    return state, losses


@pytest.mark.parametrize("shape", [(8, 1), (4, 2)], ids=["data8", "data4-fsdp2"])
def test_eight_devices_agree_with_one(shape):
    goal = goal_of(Classifier(Dropped(), Head(10)))
    tx = optax.adam(1e-3)
    one, expected = train(goal, tx, mesh_of(1), 20, average=ema(decay=0.9))
    many, losses = train(goal, tx, mesh_of(*shape), 20, average=ema(decay=0.9))
    np.testing.assert_allclose(losses, expected, rtol=2e-5)
    assert np.mean(losses[-5:]) < 0.7 * losses[0]
    for name, leaf in tree.flatten(many.variables).items():
        np.testing.assert_allclose(leaf, tree.flatten(one.variables)[name], rtol=1e-3, atol=1e-4)


def test_fsdp_splits_what_is_large_and_the_moments_with_it():
    goal = goal_of(Classifier(Dropped(), Head(10)))
    state, _ = train(goal, optax.adam(1e-3), mesh_of(4, 2), 1)
    kernel = "backbone/Dense_0/kernel"
    for leaves in (state.params, state.opt_state[0].mu, state.opt_state[0].nu):
        leaf = tree.flatten(leaves)[kernel]
        assert leaf.sharding.shard_shape(leaf.shape) == (512, 1024)
    assert state.params["head"]["logits"]["bias"].sharding.is_fully_replicated


@pytest.mark.parametrize("n", [2, 4, 8])
def test_accumulating_equals_the_full_batch(n):
    goal = goal_of(models.create("mlp", 10, widths=(32,)))
    batch = jax.tree.map(jnp.asarray, next(batches(1, 32)))
    # A mask of uneven weight per micro-batch: the first 5 examples only, and some later ones.
    batch["mask"] = jnp.asarray([1.0] * 5 + [0.0] * 11 + [1.0, 0.0] * 8)
    params, variables = goal.init(jax.random.key(0), batch)
    args = (params, variables, batch, jax.random.key(1))
    (loss, aux), grads = jax.jit(full_batch_grad(goal.loss))(*args)
    (loss_n, aux_n), grads_n = jax.jit(accumulate_grads(n)(goal.loss))(*args)
    np.testing.assert_allclose(loss_n, loss, rtol=1e-6)
    chex.assert_trees_all_close(grads_n, grads, rtol=1e-6, atol=1e-7)
    chex.assert_trees_all_close(aux_n.metrics, aux.metrics, rtol=1e-6)


def test_accumulating_equals_the_full_batch_over_steps_and_devices():
    goal = goal_of(models.create("mlp", 10, widths=(32,)))
    tx = optax.sgd(0.1, momentum=0.9)
    full_batch_grad, _ = train(goal, tx, mesh_of(1), 10, size=32)
    parts, _ = train(goal, tx, mesh_of(4, 2), 10, accumulate_grads(4), size=32)
    chex.assert_trees_all_close(parts.params, full_batch_grad.params, rtol=1e-5, atol=1e-6)


def test_accumulating_passes_batch_statistics_on():
    goal = goal_of(Classifier(Dropped(), Head(10)))
    batch = jax.tree.map(jnp.asarray, next(batches(1, 16)))
    params, variables = goal.init(jax.random.key(0), batch)
    (_, aux), _ = jax.jit(accumulate_grads(2)(goal.loss))(
        params, variables, batch, jax.random.key(1)
    )
    expected = variables
    for half in (slice(0, None, 2), slice(1, None, 2)):
        micro = jax.tree.map(lambda x, h=half: x[h], batch)
        expected = goal.loss(params, expected, micro, jax.random.key(7))[1].variables
    chex.assert_trees_all_close(aux.variables, expected, rtol=1e-5, atol=1e-6)


def test_the_step_is_gradient_descent():
    goal = goal_of(models.create("mlp", 10, widths=(16,)))
    state, _ = train(goal, optax.sgd(0.5), mesh_of(1), 1)
    batch = next(batches(1))
    init_key, _ = jax.random.split(jax.random.key(0))
    params, _ = goal.init(init_key, batch)

    def loss(params):
        x = batch["image"].reshape(16, -1)
        h = jax.nn.relu(x @ params["backbone"]["dense0"]["kernel"])
        logits = h @ params["head"]["logits"]["kernel"]
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(16), batch["label"]])

    # Biases start at zero, so the forward pass by hand may leave them out; their update may not.
    grads = jax.grad(loss)(params)
    for path in (("backbone", "dense0"), ("head", "logits")):
        before, after, grad = (t[path[0]][path[1]]["kernel"] for t in (params, state.params, grads))
        np.testing.assert_allclose(after, before - 0.5 * grad, rtol=1e-5, atol=1e-6)


def test_sam_in_the_step_is_the_two_pass_update():
    goal = goal_of(Classifier(Dropped(), Head(10)))
    batch = jax.tree.map(jnp.asarray, next(batches(1)))
    tx, rho, rate = sam(optax.sgd(0.1), rho=0.1), 0.1, 0.1
    spec = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in batch.items()}
    state = init_state(goal, tx, jax.random.key(0), spec, mesh_of(1))
    key = jax.random.fold_in(state.key, 0)
    grad = jax.grad(lambda p: goal.loss(p, state.variables, batch, key)[0])
    first = grad(state.params)
    size = jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(first)))
    climbed = jax.tree.map(lambda p, g: p + rho * g / size, state.params, first)
    expected = jax.tree.map(lambda p, g: p - rate * g, state.params, grad(climbed))
    # The statistics are those of the first pass: the second one's are thrown away.
    statistics = goal.loss(state.params, state.variables, batch, key)[1].variables
    state, _ = compile_step(make_step(goal, tx), state)(state, batch)
    chex.assert_trees_all_close(state.params, expected, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(state.variables, statistics, rtol=1e-5, atol=1e-6)


def test_metrics_hold_the_norms():
    goal = goal_of(models.create("mlp", 10, widths=(16,)))
    batch = jax.tree.map(jnp.asarray, next(batches(1)))
    spec = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in batch.items()}
    tx = optax.sgd(0.5)
    state = init_state(goal, tx, jax.random.key(0), spec, mesh_of(1))
    grads = full_batch_grad(goal.loss)(state.params, state.variables, batch, state.key)[1]
    size = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(grads)))
    state, metrics = compile_step(make_step(goal, tx), state)(state, batch)
    np.testing.assert_allclose(metrics["gradient_norm"][0], size, rtol=1e-5)
    np.testing.assert_allclose(metrics["update_norm"][0], 0.5 * size, rtol=1e-5)
    assert metrics["loss"][1] == 16


def test_ema_follows_its_formula():
    goal = goal_of(models.create("mlp", 10, widths=(16,), norm="batch"))
    batch = jax.tree.map(jnp.asarray, next(batches(1)))
    spec = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in batch.items()}
    state = init_state(
        goal, optax.sgd(0.1), jax.random.key(0), spec, mesh_of(1), StateSpec(average=True)
    )
    step = jax.jit(make_step(goal, optax.sgd(0.1), average=ema(decay=0.5)))
    average = {"params": state.params, "variables": state.variables}
    for t in range(12):
        state, _ = step(state, batch)
        d = min(0.5, (1 + t) / (10 + t))
        new = {"params": state.params, "variables": state.variables}
        average = jax.tree.map(lambda a, x, d=d: d * a + (1 - d) * x, average, new)
        chex.assert_trees_all_close(state.average, average, rtol=1e-5, atol=1e-6)
    assert state.weights(average=True)[0] is state.average["params"]
    assert state.weights(average=False)[0] is state.params


def test_the_state_is_donated_and_nothing_retraces():
    goal = goal_of(models.create("mlp", 10, widths=(16,)))
    tx = optax.adam(optax.linear_schedule(1e-3, 0.0, 10))
    spec = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in next(batches(1)).items()}
    first = init_state(goal, tx, jax.random.key(0), spec, mesh_of(1))
    step = compile_step(chex.assert_max_traces(make_step(goal, tx), n=1), first)
    state = first
    for batch in batches(3):
        state, _ = step(state, jax.device_put(batch, batch_sharding(mesh_of(1))))
    assert all(x.is_deleted() for x in jax.tree.leaves(first.params))


def test_augmentation_is_for_training_and_preprocessing_for_all():
    seen = []

    def double(key, batch):
        seen.append(key is None)
        return {**batch, "image": batch["image"] * 2}

    goal = goal_of(models.create("mlp", 10, widths=()))
    batch = jax.tree.map(jnp.asarray, next(batches(1)))
    params, variables = goal.init(jax.random.key(0), batch)
    logits = goal.predict(params, variables, batch)["logits"]
    both = augmented(goal, [double], [double])
    np.testing.assert_allclose(both.predict(params, variables, batch)["logits"], 2 * logits, 1e-5)
    out = both.loss(params, variables, batch, jax.random.key(0))[1].outputs["logits"]
    np.testing.assert_allclose(out, 4 * logits, rtol=1e-5)
    assert seen == [True, False, True]  # predict; then loss: augment, preprocess


def test_bfloat16_keeps_float32_weights_and_learns():
    goal = goal_of(Classifier(Dropped(), Head(10)), jnp.dtype(jnp.bfloat16))
    state, losses = train(goal, optax.adam(1e-3), mesh_of(8), 20)
    assert {x.dtype for x in jax.tree.leaves((state.params, state.variables))} == {FLOAT32}
    assert np.mean(losses[-5:]) < 0.7 * losses[0]


def test_precision_by_name():
    assert auto().dtype == FLOAT32  # on CPU
    assert bfloat16().dtype == jnp.bfloat16
