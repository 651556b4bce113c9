"""Losses of segmentation masks: the battery, values by loops, the objective that uses them."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads

from jaxdl import models, registry
from jaxdl.config import part
from jaxdl.errors import UserError
from jaxdl.losses.overlap import dice, focal_tversky, generalized_dice, jaccard, tversky
from jaxdl.objectives.base import Model
from jaxdl.objectives.segmentation import segmentation
from jaxdl.train.gradients import accumulate_grads

MAP_LOSSES = [e.name for e in registry.entries("segmentation_losses")]
KEY = jax.random.key(0)
RANDOM = np.random.default_rng(0)
LOGITS = jnp.asarray(RANDOM.standard_normal((3, 4, 5, 4)), jnp.float32)
LABEL = RANDOM.integers(0, 3, (3, 4, 5)).astype(np.int32)  # class 3 is never true
WEIGHT = (RANDOM.random((3, 4, 5)) < 0.7).astype(np.float32)


def bound(name, **args):
    return registry.bind("segmentation_losses", part(name, **args))


def run(loss, *args, **kwargs):
    return np.asarray(jax.jit(functools.partial(loss, **kwargs))(*args))


@pytest.mark.parametrize("name", MAP_LOSSES)
def test_one_finite_float32_number_an_image(name):
    loss = bound(name)
    both = jax.jit(lambda x, w: (loss(x, LABEL, w), jax.grad(lambda x: loss(x, LABEL, w).sum())(x)))
    for logits in (LOGITS, LOGITS.astype(jnp.bfloat16), 1e4 * LOGITS, 0 * LOGITS):
        for weight in (WEIGHT, np.ones_like(WEIGHT), np.zeros_like(WEIGHT)):
            values, slope = both(logits, weight)
            assert values.shape == (3,) and values.dtype == jnp.float32
            assert np.all(np.isfinite(slope))
            assert np.all(values >= 0) and np.all(values <= 1)
    # All void: nothing is wrong, and nothing pulls.
    assert np.all(values == 0) and np.all(slope == 0)


@pytest.mark.parametrize("name", MAP_LOSSES)
def test_gradients_and_vmap(name):
    loss = jax.jit(bound(name))
    check_grads(
        lambda x: loss(x, LABEL, WEIGHT), (LOGITS,), order=1, modes=["rev"], atol=1e-2, rtol=1e-2
    )
    one = lambda x, y, w: loss(x[None], y[None], w[None])[0]
    alone = jax.jit(jax.vmap(one))(LOGITS, LABEL, WEIGHT)
    np.testing.assert_allclose(alone, loss(LOGITS, LABEL, WEIGHT), rtol=1e-6)


@pytest.mark.parametrize("name", MAP_LOSSES)
def test_void_pixels_never_matter(name):
    loss = bound(name)
    both = jax.jit(jax.value_and_grad(lambda x, y: loss(x, y, WEIGHT).sum()))
    value, slope = both(LOGITS, LABEL)
    void = WEIGHT == 0
    other, other_slope = both(
        jnp.where(void[..., None], jnp.nan, LOGITS), np.where(void, 255, LABEL)
    )
    assert value == other
    np.testing.assert_array_equal(slope, other_slope)
    assert np.all(slope[void] == 0) and np.any(slope != 0)


@pytest.mark.parametrize("name", MAP_LOSSES)
def test_the_order_of_images_pixels_and_classes_is_nothing(name):
    loss = jax.jit(bound(name))
    value = loss(LOGITS, LABEL, WEIGHT)
    images, classes = np.array([2, 0, 1]), np.array([1, 3, 0, 2])
    moved = loss(LOGITS[images], LABEL[images], WEIGHT[images])
    np.testing.assert_allclose(moved, value[images], rtol=1e-6)
    flipped = loss(LOGITS[:, ::-1], LABEL[:, ::-1], WEIGHT[:, ::-1])
    np.testing.assert_allclose(flipped, value, rtol=1e-5)
    renamed = loss(LOGITS[..., classes], np.argsort(classes)[LABEL].astype(np.int32), WEIGHT)
    np.testing.assert_allclose(renamed, value, rtol=1e-5)


def counts(i, c):
    """p and t of image i and class c at its valid pixels, in float64."""
    x = np.asarray(LOGITS[i], np.float64)[WEIGHT[i] > 0]
    p = np.exp(x) / np.exp(x).sum(-1, keepdims=True)
    return p[:, c], (LABEL[i][WEIGHT[i] > 0] == c).astype(np.float64)


def each_image(of_class, over=np.mean):
    return [over([of_class(*counts(i, c)) for c in range(4)]) for i in range(3)]


@pytest.mark.parametrize("smooth", [0.0, 1.0])
def test_values_by_loops(smooth):
    s = smooth
    expected = {
        dice: lambda p, t: 1 - (2 * (p * t).sum() + 2 * s) / (p.sum() + t.sum() + 2 * s),
        functools.partial(dice, squared=True): lambda p, t: (
            1 - (2 * (p * t).sum() + 2 * s) / ((p**2).sum() + (t**2).sum() + 2 * s)
        ),
        jaccard: lambda p, t: 1 - ((p * t).sum() + s) / ((p + t - p * t).sum() + s),
        functools.partial(tversky, alpha=0.2, beta=0.9): lambda p, t: (
            1
            - ((p * t).sum() + s)
            / ((p * t).sum() + 0.2 * (p * (1 - t)).sum() + 0.9 * ((1 - p) * t).sum() + s)
        ),
    }
    for loss, of_class in expected.items():
        values = run(loss, LOGITS, LABEL, WEIGHT, smooth=smooth)
        np.testing.assert_allclose(values, each_image(of_class), rtol=1e-5)
    # The root is taken of each class, before the mean.
    of_class = expected[jaccard]
    np.testing.assert_allclose(
        run(focal_tversky, LOGITS, LABEL, WEIGHT, alpha=1.0, beta=1.0, gamma=2.0, smooth=smooth),
        each_image(lambda p, t: np.sqrt(of_class(p, t))),
        rtol=1e-5,
    )


def test_generalized_dice_by_loops():
    expected = []
    for i in range(3):
        pairs = [counts(i, c) for c in range(4)]
        volumes = np.array([t.sum() for _, t in pairs])
        assert volumes[3] == 0 and np.all(volumes[:3] > 0)
        w = 1 / np.where(volumes > 0, volumes, volumes[:3].min()) ** 2
        both = sum(w[c] * (p * t).sum() for c, (p, t) in enumerate(pairs))
        sizes = sum(w[c] * (p + t).sum() for c, (p, t) in enumerate(pairs))
        expected.append(1 - 2 * both / sizes)
    np.testing.assert_allclose(run(generalized_dice, LOGITS, LABEL, WEIGHT), expected, rtol=1e-5)


@pytest.mark.parametrize(("alpha", "beta", "smooth"), [(0.5, 0.5, 1.0), (0.3, 0.7, 0.1)])
def test_those_that_optax_has(alpha, beta, smooth):
    t, ones = jax.nn.one_hot(LABEL, 4), np.ones_like(WEIGHT)
    theirs = optax.losses.dice_loss(LOGITS, t, alpha=alpha, beta=beta, smooth=smooth)
    ours = run(tversky, LOGITS, LABEL, ones, alpha=alpha, beta=beta, smooth=smooth)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    if alpha == beta:
        np.testing.assert_allclose(run(dice, LOGITS, LABEL, ones, smooth=smooth), theirs, rtol=1e-5)


def certain(label):
    return 200.0 * jax.nn.one_hot(label, 4)


@pytest.mark.parametrize("name", MAP_LOSSES)
def test_a_perfect_map_has_no_loss_and_a_disjoint_one_all(name):
    args = {} if name == "generalized_dice" else {"smooth": 0.0}
    loss = jax.jit(bound(name, **args))
    np.testing.assert_allclose(loss(certain(LABEL), LABEL, WEIGHT), 0.0, atol=1e-6)
    # Everywhere another of the three classes that are there: none of them has a pixel right. Class
    # 3 is neither there nor said: it has no error, as one of four.
    shifted = loss(certain((LABEL + 1) % 3), LABEL, WEIGHT)
    np.testing.assert_allclose(shifted, 1.0 if name == "generalized_dice" else 0.75, rtol=1e-5)


def test_alpha_is_of_false_positives():
    # One row of four pixels, class 0 true on the first two; class 0 said on three, then on one.
    label = np.array([[[0, 0, 1, 1]]], np.int32)
    too_much, too_little = np.array([[[0, 0, 0, 1]]]), np.array([[[0, 1, 1, 1]]])
    ones = np.ones((1, 1, 4), np.float32)
    value = lambda said, alpha, beta: run(
        tversky, 200.0 * jax.nn.one_hot(said, 2), label, ones, alpha=alpha, beta=beta, smooth=0.0
    )
    # Class 0: TP 2, FP 1, FN 0. Class 1: TP 1, FP 0, FN 1.
    np.testing.assert_allclose(
        value(too_much, 0.3, 0.7), ((0.3 / 2.3) + (0.7 / 1.7)) / 2, rtol=1e-5
    )
    np.testing.assert_allclose(
        value(too_little, 0.3, 0.7), ((0.7 / 1.7) + (0.3 / 2.3)) / 2, rtol=1e-5
    )
    # A class that is not there at all is a false positive alone: alpha 0 does not see it.
    lonely = run(
        tversky, certain(np.full((1, 1, 4), 3)), 0 * label, ones, alpha=0.0, beta=1.0, smooth=0.0
    )
    np.testing.assert_allclose(lonely, 1 / 4, rtol=1e-6)


def test_a_rare_class_weighs_as_much_as_a_common_one_in_generalized_dice():
    # 1 of 20 pixels is of class 1, and it is missed.
    label = np.zeros((1, 4, 5), np.int32)
    label[0, 0, 0] = 1
    ones, missed = np.ones((1, 4, 5), np.float32), 200.0 * jax.nn.one_hot(0 * label, 2)
    # w = (1/19^2, 1): 1 - 2 * 19/361 / ((19 + 20)/361 + 1)
    expected = 1 - 2 * 19 / 361 / (39 / 361 + 1)
    np.testing.assert_allclose(run(generalized_dice, missed, label, ones), expected, rtol=1e-5)


# The objective


def goal_of(**args):
    # A model of one weight a channel and class: (b, h, w, 3) -> (b, h, w, 4).
    answer = lambda params, variables, batch, key: ({"logits": batch["image"] @ params}, variables)
    return segmentation(SimpleNamespace(init=None, predict=None, train=answer), **args)


def batch_of(void):
    label = np.random.default_rng(2).integers(0, 4, (4, 4, 6)).astype(np.int32)
    label[void] = 255
    image = jax.random.normal(KEY, (4, 4, 6, 3))
    return {"image": image, "label": jnp.asarray(label), "mask": jnp.array([1.0, 1, 1, 0])}


UNEVEN = np.zeros((4, 4, 6), bool)
UNEVEN[0, 1:] = True  # 6 valid pixels
UNEVEN[1, :1] = True  # 18
VOID = UNEVEN.copy()
VOID[0] = True
PARAMS = jnp.asarray(RANDOM.standard_normal((3, 4)), jnp.float32)


@pytest.mark.parametrize("void", [np.zeros_like(UNEVEN), UNEVEN, VOID], ids=["full", "some", "all"])
def test_a_valid_pixel_carries_its_images_loss(void):
    batch = batch_of(void)
    goal = goal_of(segmentation_loss=dice, segmentation_weight=0.5)
    loss, aux = jax.jit(goal.loss)(PARAMS, {}, batch, KEY)
    plain, _ = jax.jit(goal_of().loss)(PARAMS, {}, batch, KEY)
    valid = (batch["label"] != 255) & (batch["mask"][:, None, None] > 0)
    images = run(dice, aux.outputs["logits"], batch["label"], valid.astype(jnp.float32))
    share = np.asarray(valid.sum(axis=(1, 2))) / int(valid.sum())
    np.testing.assert_allclose(loss, plain + 0.5 * (share * images).sum(), rtol=1e-5)
    if not void.any():
        np.testing.assert_allclose(loss, plain + 0.5 * images[:3].mean(), rtol=1e-5)
    total, count = aux.metrics["loss"]
    np.testing.assert_allclose(total / count, loss, rtol=1e-6)
    assert count == valid.sum() == aux.metrics["segmentation_loss"][1]
    np.testing.assert_allclose(
        aux.metrics["segmentation_loss"][0] / count, (share * images).sum(), 1e-5
    )
    np.testing.assert_allclose(sum(aux.terms.values()), loss, rtol=1e-6)


@pytest.mark.parametrize(
    "args", [{"segmentation_loss": dice}, {"segmentation_loss": generalized_dice, "loss": None}]
)
def test_accumulated_batches_are_one_batch(args):
    batch, goal = batch_of(UNEVEN), goal_of(**args)
    plain = jax.jit(jax.value_and_grad(goal.loss, has_aux=True))
    (one, aux), gradient = plain(PARAMS, {}, batch, KEY)
    (two, sums), other = jax.jit(accumulate_grads(2)(goal.loss))(PARAMS, {}, batch, KEY)
    np.testing.assert_allclose(one, two, rtol=1e-5)
    for name, pair in aux.metrics.items():
        np.testing.assert_allclose(sums.metrics[name], pair, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert any(np.any(g != 0) for g in jax.tree.leaves(gradient))


def test_the_map_loss_alone():
    batch = batch_of(np.zeros_like(UNEVEN))
    goal = goal_of(loss=None, segmentation_loss=generalized_dice)
    loss, aux = jax.jit(goal.loss)(PARAMS, {}, batch, KEY)
    ones = np.ones(batch["label"].shape, np.float32)
    images = run(generalized_dice, aux.outputs["logits"], batch["label"], ones)
    np.testing.assert_allclose(loss, images[:3].mean(), rtol=1e-5)


def test_a_batch_without_a_valid_pixel_is_nothing():
    batch = batch_of(np.ones_like(UNEVEN))
    goal = goal_of(segmentation_loss=dice)
    (loss, aux), gradient = jax.jit(jax.value_and_grad(goal.loss, has_aux=True))(
        PARAMS, {}, batch, KEY
    )
    assert loss == 0 and aux.metrics["loss"] == (0, 0)
    assert all(np.all(g == 0) for g in jax.tree.leaves(gradient))


def test_the_objective_from_a_config():
    chosen = part(
        "segmentation",
        loss=None,
        segmentation_loss=part("dice", squared=True),
        segmentation_weight=2.0,
    )
    module = models.create("unet", 4, width=2, depth=1, drop_rate=0.0)
    goal = registry.bind("objectives", chosen)(Model(module, jnp.dtype("float32")))
    batch = batch_of(UNEVEN)
    params, variables = jax.eval_shape(goal.init, KEY, batch)
    loss, aux = jax.eval_shape(goal.loss, params, variables, batch, KEY)
    assert loss.shape == () and set(aux.terms) == {"segmentation_loss"}
    with pytest.raises(UserError, match="needs a loss or a segmentation_loss"):
        goal_of(loss=None)
    with pytest.raises(UserError, match="unknown segmentation loss 'dic': did you mean 'dice'"):
        registry.bind("objectives", part("segmentation", segmentation_loss="dic"))
