"""Averaged predictions: means and uncertainties by hand, repeatable, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from zoo import initial, quick

from jaxdl import models, registry
from jaxdl.augment.flip import random_flip
from jaxdl.augment.mixing import mixup
from jaxdl.augment.normalize import normalize
from jaxdl.config import part
from jaxdl.errors import UserError
from jaxdl.objectives.base import Model, augmented
from jaxdl.objectives.monte_carlo import mc_dropout
from jaxdl.objectives.segmentation import segmentation
from jaxdl.objectives.supervised import supervised
from jaxdl.objectives.test_time_augmentation import over_views
from jaxdl.objectives.weight_noise import drop_connect
from jaxdl.train.sharding import batch_sharding, make_mesh
from jaxdl.types import Objective

KEY = jax.random.key(7)
BATCH = {
    "image": np.random.default_rng(0).integers(0, 256, (8, 8, 8, 1)).astype(np.uint8),
    "label": np.arange(8, dtype=np.int32),
}


def answering(predict):
    return Objective(None, None, lambda p, v, batch, key=None: {"logits": predict(batch, key)})


def test_passes_that_contradict_each_other_by_hand():
    # Each pass is sure of class 0 or of class 1, by a coin: H(p) is known, and all of it is doubt.
    coin = lambda batch, key: jax.random.bernoulli(key, 0.5, (4, 1))
    sure = lambda batch, key: jnp.where(
        coin(batch, key), jnp.array([[900.0, 0.0]]), jnp.array([[0.0, 900.0]])
    )
    outputs = jax.jit(mc_dropout(answering(sure), samples=200).predict)({}, {}, {})
    p = np.exp(outputs["logits"])
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(p * 200, np.round(p * 200), atol=1e-2)
    assert np.all(np.abs(p - 0.5) < 0.15) and len(np.unique(p)) > 1
    np.testing.assert_allclose(outputs["entropy"], scipy.stats.entropy(p, axis=1), rtol=1e-5)
    np.testing.assert_allclose(outputs["mutual_information"], outputs["entropy"], rtol=1e-5)


def test_passes_that_agree_leave_no_doubt_of_the_weights():
    logits = jnp.array([[1.0, 2.0, 0.0], [0.0, 0.0, 0.0]])
    outputs = jax.jit(mc_dropout(answering(lambda batch, key: logits)).predict)({}, {}, {})
    expected = scipy.special.log_softmax(logits, axis=1)
    np.testing.assert_allclose(outputs["logits"], expected, atol=1e-5)
    np.testing.assert_allclose(
        outputs["entropy"], scipy.stats.entropy(np.exp(expected), axis=1), rtol=1e-5
    )
    np.testing.assert_allclose(outputs["mutual_information"], 0, atol=1e-5)


@pytest.fixture(scope="module")
def network():
    model = Model(models.create("mlp", 10, widths=[32, 32], drop_rate=0.4), jnp.dtype("float32"))
    goal = augmented(supervised(model), preprocess=[lambda key, b: normalize(key, b)])
    return goal, *initial(goal.init, jax.random.key(0), BATCH)


def test_mc_dropout_is_the_mean_over_keys(network):
    goal, params, variables = network
    other = mc_dropout(goal, samples=5, seed=3)
    outputs = quick(other.predict)(params, variables, BATCH)
    one = quick(goal.predict)
    passes = [one(params, variables, BATCH, k) for k in jax.random.split(jax.random.key(3), 5)]
    p = np.stack([scipy.special.softmax(np.float64(o["logits"]), axis=1) for o in passes])
    assert np.ptp(p, axis=0).max() > 0.01
    np.testing.assert_allclose(np.exp(outputs["logits"]), p.mean(0), rtol=1e-4)
    entropy = scipy.stats.entropy(p.mean(0), axis=1)
    np.testing.assert_allclose(outputs["entropy"], entropy, rtol=1e-4)
    information = entropy - scipy.stats.entropy(p, axis=2).mean(0)
    np.testing.assert_allclose(outputs["mutual_information"], information, rtol=1e-2, atol=1e-5)
    features = np.mean([o["features"] for o in passes], axis=0)
    np.testing.assert_allclose(outputs["features"], features, rtol=1e-4, atol=1e-6)


def test_an_evaluation_can_be_repeated_on_any_devices(network):
    goal, params, variables = network
    run = lambda goal, batch, *key: quick(goal.predict)(params, variables, batch, *key)["logits"]
    goals = [mc_dropout(goal, samples=3), over_views(goal, augment=(random_flip,), samples=3)]
    for first in goals:
        logits = run(first, BATCH)
        np.testing.assert_array_equal(run(first, BATCH), logits)
        eight = run(first, jax.device_put(BATCH, batch_sharding(make_mesh())))
        np.testing.assert_allclose(eight, logits, atol=1e-5)
        assert np.any(run(first, BATCH, KEY) != logits)
    assert np.any(run(mc_dropout(goal, samples=3, seed=1), BATCH) != run(goals[0], BATCH))
    # Loss and init are what they were.
    assert goals[0].loss is goal.loss and goals[0].init is goal.init


def test_dropped_connections_are_dropped_here_too(network):
    goal, params, variables = network
    outputs = quick(mc_dropout(drop_connect(goal), samples=3).predict)(params, variables, BATCH)
    plain = quick(mc_dropout(goal, samples=3).predict)(params, variables, BATCH)
    assert np.mean(outputs["mutual_information"]) > np.mean(plain["mutual_information"])


def test_views_are_averaged_with_the_plain_one():
    # The logit is the image's first pixel: 0 plainly, ln 3 when it is flipped.
    image = np.zeros((4, 1, 2, 1), np.float32)
    image[:, :, 1] = np.log(3)
    logits = lambda batch, key: jnp.pad(batch["image"][:, 0, 0], ((0, 0), (1, 0)))
    goal = over_views(answering(logits), augment=(random_flip,), samples=300)
    p = np.exp(jax.jit(goal.predict)({}, {}, {"image": image})["logits"][:, 1])
    # (1/2 + 300 (1/2 1/2 + 1/2 3/4)) / 301, with a deviation of 0.125 / sqrt(300)
    np.testing.assert_allclose(p, 0.625, atol=0.03)
    assert len(np.unique(p)) > 1  # each example flips on its own
    flip = lambda key, batch: {**batch, "image": batch["image"][:, :, ::-1]}
    for augment, expected in [((flip,), (0.5 + 0.75) / 2), ((flip, flip), 0.5)]:
        goal = over_views(answering(logits), augment=augment, samples=1)
        outputs = jax.jit(goal.predict)({}, {}, {"image": image})
        np.testing.assert_allclose(np.exp(outputs["logits"][:, 1]), expected, rtol=1e-5)


def test_by_name(network):
    goal, params, variables = network
    views = part("test_time_augmentation", augment=["random_flip", part("random_crop", padding=1)])
    for predictor in (part("mc_dropout", samples=2), views):
        other = registry.bind("predictors", predictor)(goal)
        shapes = jax.eval_shape(other.predict, params, variables, BATCH)
        assert shapes["logits"].shape == (8, 10) and shapes["entropy"].shape == (8,)
    with pytest.raises(UserError, match="needs the argument 'augment'"):
        registry.bind("predictors", part("test_time_augmentation"))
    with pytest.raises(UserError, match="unknown augmentation 'flip'"):
        registry.bind("predictors", part("test_time_augmentation", augment=["flip"]))


def test_maps_and_mixtures_are_refused(network):
    goal, params, variables = network
    with pytest.raises(UserError, match="mixtures"):
        over_views(goal, augment=(mixup,)).predict(params, variables, BATCH)
    model = Model(models.create("unet", 3, width=2, depth=1, drop_rate=0.5), jnp.dtype("float32"))
    maps, batch = segmentation(model), {"image": np.ones((2, 8, 8, 1), np.float32)}
    weights = jax.eval_shape(maps.init, KEY, batch)
    with pytest.raises(UserError, match="each pixel or token"):
        jax.eval_shape(over_views(maps, augment=(random_flip,)).predict, *weights, batch)
    # Dropout moves nothing, so that maps can be averaged.
    shapes = jax.eval_shape(mc_dropout(maps).predict, *weights, batch)
    assert shapes["mutual_information"].shape == (2, 8, 8)
