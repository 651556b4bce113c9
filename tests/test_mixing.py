"""Mixtures and erasures: pixels and labels by hand, shares and areas, and what is refused."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo import quick

from jaxdl import registry
from jaxdl.augment.erase import cutout, random_erasing
from jaxdl.augment.mixing import cutmix, mixup, mixup_or_cutmix
from jaxdl.config import part
from jaxdl.errors import UserError
from jaxdl.losses.cross_entropy import cross_entropy
from jaxdl.objectives.base import augmented
from jaxdl.objectives.supervised import supervised
from jaxdl.train.gradients import accumulate_grads
from jaxdl.train.sharding import batch_sharding, make_mesh
from jaxdl.types import Aux, Objective

KEY = jax.random.key(3)
MIXING = ["mixup", "cutmix", "mixup_or_cutmix"]
ALL = [*MIXING, "random_erasing", "cutout"]


def batch_of(b=64, h=12, w=10, dtype=np.uint8):
    image = np.random.default_rng(0).integers(0, 256, (b, h, w, 3)).astype(dtype)
    return {"image": image, "label": np.arange(b, dtype=np.int32)}


def apply(name, batch, key=KEY, **args):
    return jax.tree.map(np.asarray, built(name, tuple(args.items()))(key, batch))


@functools.cache
def built(name, args):
    return jax.jit(registry.bind("augmentations", part(name, **dict(args))))


def flat(b, h=20, w=20):
    """Images of one colour each, the number of their example."""
    label = np.arange(b, dtype=np.int32)
    image = np.broadcast_to(label[:, None, None, None], (b, h, w, 1)).astype(np.float32)
    return {"image": image, "label": label}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_shapes_types_and_keys(name, dtype):
    batch = batch_of(dtype=dtype)
    out = apply(name, batch)
    assert out["image"].shape == batch["image"].shape and out["image"].dtype == dtype
    np.testing.assert_array_equal(out["label"], batch["label"])
    extra = {"mixed_label", "lam"} if name in MIXING else set()
    assert set(out) == {"image", "label"} | extra
    assert np.any(out["image"] != batch["image"])


@pytest.mark.parametrize("per", ["batch", "example"])
@pytest.mark.parametrize("name", ALL)
def test_the_same_on_eight_devices(name, per):
    batch, args = batch_of(), {"per": per} if name in MIXING else {}
    one = apply(name, batch, **args)
    eight = apply(name, jax.device_put(batch, batch_sharding(make_mesh())), **args)
    jax.tree.map(np.testing.assert_array_equal, one, eight)
    assert np.any(apply(name, batch, jax.random.key(4), **args)["image"] != one["image"])


@pytest.mark.parametrize("per", ["batch", "example"])
def test_mixup_by_hand(per):
    batch = batch_of()
    out = apply("mixup", batch, alpha=1.0, per=per)
    lam = out["lam"]
    assert lam.shape == (64,) and lam.dtype == np.float32
    assert len(np.unique(lam)) == (1 if per == "batch" else 64)
    np.testing.assert_array_equal(out["mixed_label"], [63, *range(63)])
    s = lam.astype(np.float64).reshape(-1, 1, 1, 1)
    expected = s * batch["image"] + (1 - s) * batch["image"][out["mixed_label"]]
    assert np.abs(out["image"] - expected).max() <= 0.5 + 1e-4
    floats = {**batch, "image": batch["image"].astype(np.float32)}
    np.testing.assert_allclose(apply("mixup", floats, alpha=1.0, per=per)["image"], expected, 1e-4)


def test_shares_come_from_the_beta_distribution():
    # Beta(a, a) has mean 1/2 and variance 1 / (4 (2 a + 1)).
    for alpha in (0.2, 1.0, 4.0):
        lam = apply("mixup", flat(4000, 1, 1), alpha=alpha, per="example")["lam"]
        assert lam.mean() == pytest.approx(0.5, abs=0.03)
        assert lam.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.08)


@pytest.mark.parametrize("per", ["batch", "example"])
def test_cutmix_pastes_one_rectangle_and_says_what_is_left(per):
    out = apply("cutmix", flat(512, 60, 50), per=per)
    image = out["image"][..., 0]
    pasted = image == out["mixed_label"][:, None, None]
    kept = image == out["label"][:, None, None]
    assert np.all(pasted ^ kept)
    np.testing.assert_allclose(out["lam"], kept.mean(axis=(1, 2)), atol=1e-6)
    rows, columns = pasted.any(axis=2), pasted.any(axis=1)
    np.testing.assert_array_equal(pasted, rows[:, :, None] & columns[:, None])
    for side in (rows, columns):  # without a gap
        assert np.all(np.abs(np.diff(side.astype(int), axis=1)).sum(axis=1) <= 2)
    if per == "example":
        # The border takes r^2 / 4 of a side r, on average over uniform centres.
        r = np.sqrt(np.linspace(0, 1, 10_001))
        assert (1 - out["lam"]).mean() == pytest.approx(np.mean((r - r**2 / 4) ** 2), abs=0.04)
    else:
        assert len(np.unique(out["lam"])) == 1


def test_cutmix_pastes_segmentation_masks():
    label = np.random.default_rng(0).integers(0, 9, (32, 12, 10)).astype(np.int32)
    batch = {"image": label[..., None].astype(np.uint8), "label": label}
    out = apply("cutmix", batch, per="example")
    assert set(out) == {"image", "label"}
    np.testing.assert_array_equal(out["image"][..., 0], out["label"])
    assert np.any(out["label"] != label) and out["label"].dtype == np.int32


def test_turns_are_taken_as_often_as_told():
    batch = flat(2000, 6, 6)
    out = apply("mixup_or_cutmix", batch, probability=0.8, switch=0.25, per="example")
    mixed = out["lam"] < 1
    whole = np.all(out["image"] == batch["image"], axis=(1, 2, 3))
    np.testing.assert_array_equal(out["lam"][whole], 1)
    blended = np.ptp(out["image"], axis=(1, 2, 3)) == 0
    assert (mixed & blended & ~whole).mean() == pytest.approx(0.8 * 0.75, abs=0.05)
    assert (~blended).mean() <= 0.8 * 0.25 + 0.03
    # Whatever it was, the mean of the image says the share.
    middle = out["lam"] * out["label"] + (1 - out["lam"]) * out["mixed_label"]
    np.testing.assert_allclose(out["image"].mean(axis=(1, 2, 3)), middle, rtol=1e-4, atol=1e-3)


def test_one_turn_for_the_batch():
    kinds = set()
    for seed in range(12):
        out = apply("mixup_or_cutmix", flat(8), jax.random.key(seed), probability=0.6)
        lam, spread = np.unique(out["lam"]), np.ptp(out["image"], axis=(1, 2, 3))
        assert len(lam) == 1 and len(np.unique(spread > 0)) == 1
        kinds.add("none" if lam[0] == 1 else "cutmix" if spread[0] > 0 else "mixup")
    assert kinds == {"none", "mixup", "cutmix"}


@pytest.mark.parametrize("name", MIXING)
def test_padding_is_never_mixed_in(name):
    batch = {**flat(8), "mask": np.array([1, 1, 1, 0, 0, 1, 1, 1], np.float32)}
    out = apply(name, batch, per="example")
    for i in (4, 5):  # those after padding
        assert out["lam"][i] == 1
        np.testing.assert_array_equal(out["image"][i], batch["image"][i])
    assert np.all(out["lam"][[1, 2, 6, 7, 0]] < 1)


def test_what_cannot_be_mixed_is_refused():
    batch = flat(4)
    maps = {**batch, "label": np.zeros((4, 20, 20), np.int32)}
    for transform in (mixup, mixup_or_cutmix):
        with pytest.raises(UserError, match="segmentation masks: 'cutmix'"):
            transform(KEY, maps)
    for transform in (mixup, cutmix, mixup_or_cutmix):
        with pytest.raises(UserError, match="mixed already"):
            transform(KEY, {**batch, "mixed_label": batch["label"]})
        with pytest.raises(UserError, match="the batch has none"):
            transform(KEY, {"image": batch["image"]})
    with pytest.raises(UserError, match="area must rise"):
        random_erasing(KEY, batch, area=(0.5, 0.2))
    with pytest.raises(UserError, match="more than all"):
        random_erasing(KEY, batch, area=(0.5, 1.2))


def test_random_erasing_keeps_to_its_areas_and_aspects():
    batch = {"image": np.full((2000, 50, 40, 1), 0.5, np.float32)}
    args = {"area": (0.1, 0.3), "aspect": (0.5, 2.0), "fill": "constant", "probability": 0.6}
    out = apply("random_erasing", batch, **args)["image"][..., 0]
    erased = out == 0
    touched = erased.any(axis=(1, 2))
    assert touched.mean() == pytest.approx(0.6, abs=0.04)
    erased = erased[touched]
    height, width = erased.any(axis=2).sum(axis=1), erased.any(axis=1).sum(axis=1)
    np.testing.assert_array_equal(erased.sum(axis=(1, 2)), height * width)  # never cut off
    area, aspect = height * width / 2000, height / width
    assert 0.09 < area.min() < 0.12 and 0.28 < area.max() < 0.32
    assert area.mean() == pytest.approx(0.2, abs=0.01)
    assert 0.45 < aspect.min() < 0.55 and 1.8 < aspect.max() < 2.2
    assert np.log(aspect).mean() == pytest.approx(0, abs=0.05)
    assert erased.any(axis=0).all()  # every pixel has its turn


def test_noise_is_drawn_for_every_number():
    batch = batch_of(b=200)
    out = apply("random_erasing", batch, probability=1.0, area=(1.0, 1.0), aspect=(1.2, 1.2))
    # All is erased: uniform bytes, whose mean is 127.5 and whose deviation is 73.6.
    assert np.mean(out["image"] == batch["image"]) < 0.01
    assert out["image"].mean() == pytest.approx(127.5, abs=1)
    assert out["image"].std() == pytest.approx(255 / 12**0.5, abs=1)
    np.testing.assert_array_equal(
        apply("random_erasing", batch, probability=0.0)["image"], batch["image"]
    )


def test_cutout_erases_a_square_that_may_stick_out():
    batch = {"image": np.zeros((3000, 12, 12, 3), np.uint8), "label": np.zeros((3000, 12, 12))}
    out = apply("cutout", batch, size=4, value=1.0)
    erased = out["image"][..., 0] == 255
    np.testing.assert_array_equal(out["image"] == 255, erased[..., None].repeat(3, -1))
    area = erased.sum(axis=(1, 2))
    # A centre at row 0 leaves rows 0 and 1, at row 1 three, at row 11 three: all others four.
    sides = np.array([2, 3] + [4] * 9 + [3])
    assert set(area) == set(np.outer(sides, sides).ravel())
    assert area.mean() == pytest.approx(sides.mean() ** 2, rel=0.02)
    np.testing.assert_array_equal(out["label"], batch["label"])
    grey = np.asarray(cutout(KEY, batch, size=12)["image"])
    assert set(np.unique(grey)) == {0, 128}


LOGITS = jnp.array([[2.0, 0.0, 1.0], [0.0, 3.0, 0.0], [0.0, 0.0, 1.0], [5.0, 0.0, 0.0]])


def answering(**outputs):
    return SimpleNamespace(init=None, predict=None, train=lambda p, v, batch, key: (outputs, v))


def test_the_loss_of_a_mixture_is_that_of_the_mixed_label():
    lam = jnp.array([0.75, 0.5, 0.1, 1.0])
    batch = {"label": jnp.array([0, 1, 2, 0]), "mixed_label": jnp.array([2, 0, 1, 1])}
    batch |= {"lam": lam, "mask": jnp.array([1.0, 1.0, 1.0, 0.0])}
    soft = np.array([[0.75, 0, 0.25], [0.5, 0.5, 0], [0, 0.9, 0.1], [1, 0, 0]])
    log_p = np.log(np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True))
    values = -(soft * log_p).sum(1)
    auxiliary = -(soft * np.log(1 / 3)).sum(1)
    goal = supervised(answering(logits=LOGITS, auxiliary_logits=(jnp.zeros((4, 3)),)))
    loss, aux = goal.loss({}, {}, batch, None)
    np.testing.assert_allclose(loss, (values + 0.3 * auxiliary)[:3].mean(), rtol=1e-6)
    # The larger shares are of 0, 1 (half counts) and 1: the third is a miss, the fourth padding.
    assert aux.metrics["accuracy"] == (2, 3)


def test_a_mixture_with_itself_is_the_plain_loss():
    goal = supervised(answering(logits=LOGITS), loss=lambda y, k: cross_entropy(y, k) ** 2)
    batch = {"label": jnp.array([0, 1, 2, 0])}
    mixed = {**batch, "mixed_label": batch["label"], "lam": jnp.full(4, 0.3)}
    np.testing.assert_allclose(
        goal.loss({}, {}, batch, None)[0], goal.loss({}, {}, mixed, None)[0], rtol=1e-6
    )


@pytest.mark.parametrize("name", MIXING)
def test_mixing_under_accumulation(name):
    seen = []

    def loss(params, variables, batch, key):
        seen.append({k: v.shape for k, v in batch.items()})
        count = jnp.asarray(batch["label"].shape[0], jnp.float32)
        value = params * jnp.mean(batch["lam"])
        return value, Aux(variables, {"loss": (value * count, count)}, {})

    goal = augmented(Objective(None, loss, None), [registry.bind("augmentations", part(name))])
    taken = quick(accumulate_grads(2)(goal.loss))
    (value, _), grad = taken(jnp.float32(1), {}, flat(8), KEY)
    assert seen[0]["lam"] == seen[0]["mixed_label"] == (4,)
    assert 0 < value <= 1 and value == grad
