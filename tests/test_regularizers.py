"""Regularizers: penalties and noise by hand, the KL by quadrature, in micro-batches, on devices."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.integrate
import scipy.stats
from zoo import initial, quick

from jaxdl import models, registry
from jaxdl.config import part
from jaxdl.errors import UserError
from jaxdl.metrics.classification import masked
from jaxdl.objectives.base import Model
from jaxdl.objectives.penalty import confidence_penalty, elastic_net, l1, l2
from jaxdl.objectives.supervised import supervised
from jaxdl.objectives.variational import kl_divergence, variational_dropout
from jaxdl.objectives.weight_noise import drop_connect, weight_noise
from jaxdl.train.gradients import accumulate_grads
from jaxdl.train.sharding import batch_sharding, make_mesh
from jaxdl.types import Aux, Objective

KEY = jax.random.key(4)
KERNEL = np.array([[1.0, -2.0], [0.5, 3.0]], np.float32)
BATCH = {
    "x": np.array([[1, 2], [0, 1], [3, -1], [1, 1]], np.float32),
    "mask": np.array([1, 1, 1, 0], np.float32),
}


def linear(kernel=KERNEL):
    """The mean, over valid examples, of the square of x W + b."""

    def loss(params, variables, batch, key):
        y = batch["x"] @ params["head"]["kernel"] + params["head"]["bias"][None]
        total, count = masked(jnp.sum(y**2, axis=-1), batch)
        metrics = {"loss": (total, count)}
        return total / jnp.maximum(count, 1), Aux(variables, metrics, {"logits": y, **params})

    def predict(params, variables, batch, key=None):
        return {"logits": batch["x"] @ params["head"]["kernel"], "key": key, **params}

    params = {"backbone": {"scale": jnp.ones(3)}, "head": {"kernel": kernel, "bias": jnp.ones(2)}}
    return Objective(lambda key, batch: (params, {}), loss, predict)


def taken(goal, batch=BATCH, n=1):
    params, variables = goal.init(KEY, batch)
    return jax.jit(accumulate_grads(n)(goal.loss))(params, variables, batch, KEY)


PENALTIES = {
    # sum |w| = 6.5, sum w^2 = 14.25, and the gradients
    l1: ({"weight": 0.1}, "l1", 6.5, 0.65, 0.1 * np.sign(KERNEL)),
    l2: ({"weight": 0.1}, "l2", 7.125, 0.7125, 0.1 * KERNEL),
    elastic_net: (
        {"weight": 0.1, "ratio": 4.0},
        "elastic_net",
        6.5 + 2 * 14.25,
        0.65 + 2.85,
        0.1 * np.sign(KERNEL) + 0.4 * KERNEL,
    ),
}


@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize("penalty", PENALTIES)
def test_penalties_by_hand_in_any_number_of_micro_batches(penalty, n):
    args, name, bare, weighted, slope = PENALTIES[penalty]
    (plain, _), before = taken(linear())
    (value, aux), after = taken(penalty(linear(), **args), n=n)  # the fourth is all padding
    np.testing.assert_allclose(value, plain + weighted, rtol=1e-6)
    total, count = aux.metrics["loss"]
    np.testing.assert_allclose((total / count, count), (value, 3), rtol=1e-6)
    np.testing.assert_allclose(aux.metrics[name][0] / aux.metrics[name][1], bare, rtol=1e-6)
    np.testing.assert_allclose(after["head"]["kernel"], before["head"]["kernel"] + slope, rtol=1e-5)
    np.testing.assert_allclose(after["head"]["bias"], before["head"]["bias"], rtol=1e-6)
    assert not np.any(after["backbone"]["scale"])


def test_what_a_penalty_matches_can_be_told():
    (value, _), grad = taken(l2(linear(), weight=1.0, match="head/bias"))
    (plain, _), before = taken(linear())
    np.testing.assert_allclose(value, plain + 1.0, rtol=1e-6)
    np.testing.assert_allclose(grad["head"]["bias"], before["head"]["bias"] + 1, rtol=1e-6)


def test_the_loss_is_the_sum_of_its_terms():
    (value, aux), _ = taken(l1(l2(linear()), weight=0.1))
    assert set(aux.terms) == {"loss", "l2", "l1"}
    np.testing.assert_allclose(sum(aux.terms.values()), value, rtol=1e-6)


REGULARIZERS = [l1, l2, elastic_net, drop_connect, weight_noise]
REGULARIZERS += [partial(variational_dropout, examples=10)]


@pytest.mark.parametrize("regularizer", REGULARIZERS)
def test_a_pattern_that_matches_nothing_is_refused_at_the_start(regularizer):
    with pytest.raises(UserError, match="matches no parameter.*head/kernel"):
        regularizer(linear(), match="head/kernels").init(KEY, BATCH)
    with pytest.raises(UserError, match="not a regular expression"):
        regularizer(linear(), match="(").init(KEY, BATCH)


def test_the_confidence_penalty_is_the_entropy():
    (plain, aux), _ = taken(linear())
    entropy = scipy.stats.entropy(np.exp(np.float64(aux.outputs["logits"][:3])), axis=1).mean()
    (value, aux), _ = taken(confidence_penalty(linear(), weight=0.5))
    np.testing.assert_allclose(value, plain - 0.5 * entropy, rtol=1e-5)
    total, count = aux.metrics["entropy"]
    np.testing.assert_allclose(total / count, entropy, rtol=1e-5)
    (summed, _), _ = taken(confidence_penalty(linear(), weight=0.5), n=2)
    np.testing.assert_allclose(summed, value, rtol=1e-6)
    maps = linear()._replace(
        loss=lambda *_: (0.0, Aux({}, {"loss": (0.0, 1.0)}, {"logits": jnp.ones((2, 3, 4))}))
    )
    with pytest.raises(UserError, match="each example"):
        confidence_penalty(maps).loss({}, {}, BATCH, KEY)


BIG = np.random.default_rng(0).normal(size=(300, 200)).astype(np.float32)
WIDE = {"x": np.ones((2, 300), np.float32)}


def seen(regularizer, **args):
    """The parameters that an objective sees: in training, with a key, and without one."""
    goal = regularizer(linear(BIG), **args)
    params, _ = goal.init(KEY, WIDE)
    params["head"]["bias"] = jnp.ones(200)
    train = lambda key: goal.loss(params, {}, WIDE, key)[1].outputs
    predict = lambda *key: {**goal.predict(params, {}, WIDE, *key), "key": None}
    return jax.jit(lambda k: (train(k), predict(k), predict()))(KEY)


@pytest.mark.parametrize("place", [0, 1], ids=["training", "prediction with a key"])
def test_connections_drop_and_keep_their_mean(place):
    outputs = seen(drop_connect, rate=0.3)
    kernel = np.asarray(outputs[place]["head"]["kernel"])
    dropped = kernel == 0
    assert dropped.mean() == pytest.approx(0.3, abs=0.01)
    np.testing.assert_allclose(kernel[~dropped], BIG[~dropped] / 0.7, rtol=1e-6)
    np.testing.assert_array_equal(outputs[place]["head"]["bias"], 1)
    np.testing.assert_array_equal(outputs[2]["head"]["kernel"], BIG)


def test_the_gradient_reaches_only_the_weights_that_stayed():
    goal = drop_connect(linear(BIG), rate=0.3)
    params, _ = goal.init(KEY, WIDE)
    params["head"]["bias"] = jnp.ones(200)
    (_, aux), grad = jax.jit(accumulate_grads(1)(goal.loss))(params, {}, WIDE, KEY)
    kernel, bias = aux.outputs["head"]["kernel"], grad["head"]["bias"]
    # Both inputs are ones: dL/dw' is the bias's for each row, and dw'/dw = keep / 0.7.
    expected = np.where(np.asarray(kernel) == 0, 0, np.asarray(bias)[None] / 0.7)
    np.testing.assert_allclose(grad["head"]["kernel"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("place", [0, 1], ids=["training", "prediction with a key"])
def test_weight_noise_has_its_deviation(place):
    outputs = seen(weight_noise, std=0.2)
    noise = np.asarray(outputs[place]["head"]["kernel"]) - BIG
    assert noise.std() == pytest.approx(0.2, rel=0.02) and abs(noise.mean()) < 0.005
    np.testing.assert_array_equal(outputs[2]["head"]["kernel"], BIG)


@pytest.mark.parametrize("alpha", [0.01, 0.1, 1.0, 20.0, 1000.0])
def test_the_kl_approximates_its_integral(alpha):
    # KL = E log|e| - log(alpha) / 2 + C with e ~ N(1, alpha); C = (gamma + log 2) / 2 makes it 0
    # for alpha without end: minus the mean of log|z| for a normal z.
    s = math.sqrt(alpha)
    density = lambda e: math.log(abs(e)) * math.exp(-((e - 1) ** 2) / (2 * alpha))
    parts = [(1 - 12 * s, 0.0), (0.0, 1 + 12 * s)] if 12 * s > 1 else [(1 - 12 * s, 1 + 12 * s)]
    mean = sum(scipy.integrate.quad(density, *ends, limit=500)[0] for ends in parts)
    mean /= s * math.sqrt(2 * math.pi)
    expected = mean - 0.5 * math.log(alpha) + (np.euler_gamma + math.log(2)) / 2
    # "extremely accurate", says the paper of its three constants
    assert float(kl_divergence(jnp.log(alpha))) == pytest.approx(expected, abs=0.01)


def test_variational_weights_by_hand():
    goal = variational_dropout(linear(BIG), examples=50, weight=0.5, initial=-3.0)
    params, _ = goal.init(KEY, WIDE)
    assert set(params) == {"backbone", "head", "variational"}
    noise = params["variational"]["head"]["kernel"]["log_sigma2"]
    np.testing.assert_array_equal(noise, np.full(BIG.shape, -3, np.float32))
    params["head"]["bias"] = jnp.ones(200)
    (value, aux), grad = jax.jit(accumulate_grads(1)(goal.loss))(params, {}, WIDE, KEY)
    sampled = np.asarray(aux.outputs["head"]["kernel"])
    assert (sampled - BIG).std() == pytest.approx(math.exp(-1.5), rel=0.02)
    # d w / d theta = 1, so that what differs is the KL's part; d w / d log sigma^2 = sigma e / 2
    assert np.all(np.isfinite(grad["variational"]["head"]["kernel"]["log_sigma2"]))
    slope = (sampled - BIG) / 2 * np.asarray(grad["head"]["bias"])[None]
    alpha = np.exp(-3.0) / (BIG.astype(np.float64) ** 2 + 1e-8)
    sigmoid = 1 / (1 + np.exp(-(1.8732 + 1.48695 * np.log(alpha))))
    kl = 0.63576 * (1 - sigmoid) + 0.5 * np.log1p(1 / alpha)
    slope += 0.01 * -(0.63576 * 1.48695 * sigmoid * (1 - sigmoid) + 0.5 / (1 + alpha))
    np.testing.assert_allclose(
        grad["variational"]["head"]["kernel"]["log_sigma2"], slope, rtol=1e-3, atol=1e-3
    )
    total, count = aux.metrics["kl"]
    np.testing.assert_allclose(total / count, kl.sum(), rtol=1e-5)
    plain = linear().loss(aux.outputs, {}, WIDE, KEY)[0]
    np.testing.assert_allclose(value, plain + 0.01 * kl.sum(), rtol=1e-5)
    drowned = np.log(alpha) > 3
    assert 0 < drowned.sum() < drowned.size
    np.testing.assert_allclose(aux.metrics["sparsity"][0], drowned.mean(), rtol=1e-5)
    pruned = goal.predict(params, {}, WIDE)["head"]["kernel"]
    np.testing.assert_array_equal(pruned, np.where(drowned, 0, BIG))
    assert np.any(goal.predict(params, {}, WIDE, KEY)["head"]["kernel"] != BIG)


def test_variational_dropout_finds_the_two_inputs_that_matter():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(256, 10)).astype(np.float32)
    # Noise that no input explains, so that least squares gives exactly 1, -2 and eight times 0.
    noise = generator.normal(size=(256, 1)).astype(np.float32)
    noise -= x @ np.linalg.lstsq(x, noise, rcond=None)[0]
    y = x[:, :1] - 2 * x[:, 1:2] + 0.3 * noise / noise.std()

    def loss(params, variables, batch, key):
        # -log p(y | x) for a known deviation of 0.3
        value = jnp.mean((batch["x"] @ params["head"]["kernel"] - batch["y"]) ** 2) / (2 * 0.3**2)
        count = jnp.asarray(256.0)
        return value, Aux({}, {"loss": (value * count, count)}, {})

    predict = lambda params, variables, batch, key=None: params["head"]["kernel"]
    first = {"head": {"kernel": 0.5 * generator.normal(size=(10, 1)).astype(np.float32)}}
    inner = Objective(lambda key, batch: (first, {}), loss, predict)
    goal = variational_dropout(inner, examples=256)
    batch, tx = {"x": x, "y": y}, optax.adam(optax.cosine_decay_schedule(0.02, 3000))

    @jax.jit
    def train():
        params, _ = goal.init(KEY, batch)

        def step(carry, key):
            params, state = carry
            grads, aux = jax.grad(goal.loss, has_aux=True)(params, {}, batch, key)
            updates, state = tx.update(grads, state)
            return (optax.apply_updates(params, updates), state), aux.metrics["sparsity"][0]

        keys = jax.random.split(KEY, 3000)
        (params, _), sparsity = jax.lax.scan(step, (params, tx.init(params)), keys)
        return goal.predict(params, {}, batch), sparsity[-1], params["variational"]

    kernel, sparsity, noise = train()
    assert sparsity == pytest.approx(0.8)
    np.testing.assert_allclose(kernel[:2, 0], [1, -2], atol=0.1)
    np.testing.assert_array_equal(kernel[2:], 0)
    # Of those that stay, the posterior's variance is that of Bayesian regression: 0.3^2 / sum x^2.
    expected = np.log(0.3**2 / np.sum(x[:, :2] ** 2, axis=0))
    np.testing.assert_allclose(noise["head"]["kernel"]["log_sigma2"][:2, 0], expected, atol=0.2)


def test_naming_it_twice_is_refused():
    twice = variational_dropout(variational_dropout(linear(), examples=3), examples=3)
    with pytest.raises(UserError, match="once"):
        twice.init(KEY, BATCH)


NAMES = [e.name for e in registry.entries("regularizers")]
OURS = ["l1", "l2", "elastic_net", "drop_connect", "weight_noise", "confidence_penalty"]


@pytest.mark.parametrize("name", [*OURS, "variational_dropout"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_around_a_network_on_one_device_and_on_eight(name, dtype):
    assert name in NAMES
    args = {"examples": 100} if name == "variational_dropout" else {}
    inner = supervised(Model(models.create("mlp", 10, widths=[8]), jnp.dtype(dtype)))
    goal = registry.bind("regularizers", part(name, **args))(inner)
    generator = np.random.default_rng(0)
    batch = {
        "image": generator.normal(size=(16, 8, 8, 1)).astype(np.float32),
        "label": generator.integers(0, 10, 16).astype(np.int32),
    }
    params, variables = initial(goal.init, KEY, batch)
    assert {"backbone", "head"} <= set(params)
    take = quick(jax.value_and_grad(goal.loss, has_aux=True))
    (one, aux), grads = take(params, variables, batch, KEY)
    (eight, _), _ = take(params, variables, jax.device_put(batch, batch_sharding(make_mesh())), KEY)
    np.testing.assert_allclose(one, eight, rtol=1e-5 if dtype == "float32" else 1e-2)
    assert all(g.dtype == jnp.float32 and np.all(np.isfinite(g)) for g in jax.tree.leaves(grads))
    total, count = aux.metrics["loss"]
    np.testing.assert_allclose(total / count, one, rtol=1e-5)
    assert set(aux.variables) == set(variables)
    assert goal.predict(params, variables, batch)["logits"].shape == (16, 10)
