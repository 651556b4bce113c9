"""The augmentation policies: their tables, their draws, and AutoAugment's pairs against Pillow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from test_pillow import pillow_operation

from jaxdl import registry
from jaxdl.augment import augmix, autoaugment, operations, randaugment, trivialaugment
from jaxdl.augment.autoaugment import LEVELS, POLICIES, sub_policies
from jaxdl.config import part
from jaxdl.errors import UserError

KEY = jax.random.key(11)
RNG = np.random.default_rng(1)
IMAGES = RNG.integers(0, 256, (8, 32, 32, 3)).astype(np.uint8) // 3 + 20


def bound(name, **args):
    return jax.jit(registry.bind("augmentations", part(name, **args)))


@pytest.mark.parametrize("policy", POLICIES)
def test_policies_are_pairs_of_known_operations(policy):
    pairs = sub_policies(policy)
    known = autoaugment.space(LEVELS, (32, 32))
    assert len(pairs) == 25
    for name, probability, level in (step for pair in pairs for step in pair):
        assert name in known and 0 <= probability <= 1 and 0 <= level < LEVELS


def test_policies_by_spot():
    # Table 9 of the paper: sub-policies 0, 14 and 19; tables 7 and 8: sub-policies 0 and 24.
    imagenet, cifar, svhn = (sub_policies(p) for p in ("imagenet", "cifar10", "svhn"))
    assert imagenet[0] == (("Posterize", 0.4, 8), ("Rotate", 0.6, 9))
    assert imagenet[14] == (("Color", 0.6, 4), ("Contrast", 1.0, 8))
    assert imagenet[19] == (("Color", 0.4, 0), ("Equalize", 0.6, 0))
    assert cifar[0] == (("Invert", 0.1, 0), ("Contrast", 0.2, 6))
    assert cifar[24] == (("TranslateY", 0.7, 9), ("AutoContrast", 0.9, 0))
    assert svhn[24] == (("ShearX", 0.7, 2), ("Invert", 0.1, 0))


def test_magnitudes_by_hand():
    known = autoaugment.space(LEVELS, (32, 64))
    at = lambda name, level: known[name][0][level]
    assert [at(n, 9) for n in ("ShearX", "Rotate", "Color", "Solarize", "Posterize")] == [
        pytest.approx(x) for x in (0.3, 30, 0.9, 0, 4)
    ]
    assert int(at("TranslateX", 9)) == 29 and int(at("TranslateY", 9)) == 14  # 150/331 of the sides
    assert [int(b) for b in known["Posterize"][0]] == [8, 8, 7, 7, 6, 6, 5, 5, 4, 4]
    wide = trivialaugment.SPACE
    assert wide["Rotate"][0][-1] == 135 and wide["TranslateX"][0][-1] == 32
    assert min(wide["Posterize"][0]) == 2 and wide["Sharpness"][0][-1] == pytest.approx(0.99)
    mix = augmix.space(3.0, (32, 32))
    assert mix["ShearX"][0][0] == pytest.approx(0.003) and mix["ShearX"][0][-1] == pytest.approx(
        0.09
    )
    assert mix["Solarize"][0][-1] == 256 - 76 and mix["Posterize"][0][-1] == 3


@pytest.mark.parametrize("policy", POLICIES)
def test_every_sub_policy_is_pillow_s_composition(policy):
    size = (32, 32)
    known = autoaugment.space(LEVELS, size)
    pairs = sub_policies(policy)
    found, want = [], []
    images = IMAGES[np.arange(50) % len(IMAGES)]
    for i, (pair, sign) in enumerate((p, s) for p in pairs for s in (1, -1)):
        image = Image.fromarray(images[i])
        for name, _, level in pair:
            magnitudes, signed = known[name]
            magnitude = float(magnitudes[level]) * (sign if signed else 1)
            found.append(operations.row(name, magnitude, size))
            image = pillow_operation(image, name, magnitude)
        want.append(np.asarray(image))
    table = operations.stacked(found)
    rows = np.arange(100).reshape(50, 2).T
    run = lambda x, rows: operations.applied({"image": x}, table, rows, name="t")["image"]
    np.testing.assert_array_equal(jax.jit(run)(images, rows), np.stack(want))


def test_auto_augment_draws_what_its_policy_says(monkeypatch):
    # A policy of marks: each operation leaves a trace of its own in a constant image.
    marks = """
        Solarize 5 9      Posterize 10 9
        Invert 0 -        Solarize 10 9
    """
    monkeypatch.setitem(POLICIES, "svhn", marks)
    image = np.full((4000, 2, 2, 1), 0b01010101, np.uint8)
    out = np.asarray(bound("auto_augment", policy="svhn")(KEY, {"image": image})["image"])
    value, count = np.unique(out[:, 0, 0, 0], return_counts=True)
    # First pair: half of the time inverted, always cut to four bits. Second: always inverted.
    share = dict(zip(value.tolist(), count / 4000, strict=True))
    assert share.keys() == {0b10100000, 0b01010000, 0b10101010}
    assert abs(share[0b10101010] - 0.5) < 0.03
    assert abs(share[0b01010000] - 0.25) < 0.03


def tally(module, monkeypatch, **args):
    """The rows (layers, 3000) that a policy draws, and the index of its table."""
    name = module.__name__.rpartition(".")[-1].replace("augment", "_augment")
    seen = []
    index_of = lambda known, size: seen.append(operations.rows(known, size)) or seen[-1]
    monkeypatch.setattr(module, "rows", index_of)
    monkeypatch.setattr(module, "applied", lambda batch, table, chosen, **_: chosen)
    draw = registry.bind("augmentations", part(name, **args))
    return np.asarray(draw(KEY, {"image": np.zeros((3000, 1, 1, 3), np.uint8)})), seen[0][1]


def test_operations_are_drawn_evenly(monkeypatch):
    share = lambda chosen, index: np.array([np.isin(chosen, rows).mean() for rows in index])
    chosen, index = tally(randaugment, monkeypatch, layers=2)
    assert chosen.shape == (2, 3000) and index.shape == (14, 1, 2)
    assert np.abs(share(chosen, index) - 1 / 14).max() < 0.012
    # Layers are drawn by themselves: nine operations have two rows each, five have one.
    assert abs(np.mean(chosen[0] == chosen[1]) - (9 / 2 + 5) / 14**2) < 0.015
    shears = chosen[np.isin(chosen, index[1, 0])]
    assert abs(np.mean(shears == index[1, 0, 0]) - 0.5) < 0.06
    chosen, index = tally(trivialaugment, monkeypatch)
    assert chosen.shape == (1, 3000) and index.shape == (14, 31, 2)
    assert np.abs(share(chosen, index) - 1 / 14).max() < 0.016
    turned = index[list(trivialaugment.SPACE).index("Rotate")]
    level = [np.argwhere(turned == c)[0][0] for c in chosen[0] if c in turned]
    assert min(level) == 0 and max(level) == 30 and abs(np.mean(level) - 15) < 2


@pytest.mark.parametrize("name", ["rand_augment", "trivial_augment", "auto_augment"])
def test_a_segmentation_mask_moves_with_its_image(name):
    # Images of two levels, far apart: what is not void says the label, whatever is done to grey.
    label = np.kron(RNG.integers(0, 2, (64, 4, 4)), np.ones((8, 8), int)).astype(np.int32)
    image = np.repeat(np.where(label, 220, 30)[..., None], 3, -1).astype(np.uint8)
    out = bound(name)(KEY, {"image": image, "label": label})
    assert out["label"].dtype == np.int32
    assert np.any(out["label"] == 255) and np.any(out["label"] != label)
    agree = 0
    for x, y in zip(np.asarray(out["image"], int).mean(-1), np.asarray(out["label"]), strict=True):
        levels = [np.median(x[y == k]) for k in (0, 1) if np.any(y == k)]
        if len(levels) == 2 and abs(levels[0] - levels[1]) > 30:
            nearest = np.abs(x[..., None] - levels).argmin(-1)
            agree += np.mean((nearest == y)[y != 255]) > 0.95
    assert agree > 45


def test_a_magnitude_of_zero_and_no_layers_of_strength():
    out = bound("rand_augment", magnitude=0, layers=1)(KEY, {"image": np.repeat(IMAGES, 40, 0)})
    same = np.all(np.asarray(out["image"]) == np.repeat(IMAGES, 40, 0), axis=(1, 2, 3))
    # Only AutoContrast, Equalize and Solarize (at 255: what is white) may change anything.
    assert abs(same.mean() - 12 / 14) < 0.06


def test_aug_mix_is_a_mixture():
    constant = {"image": np.full((32, 8, 8, 3), 90, np.uint8)}
    out = np.asarray(bound("aug_mix", fill=90)(KEY, constant)["image"], int)
    # Warps of a constant image with its own level as filling change nothing; shares sum to one.
    assert np.median(np.abs(out - 90)) <= 1
    several = {"image": np.repeat(IMAGES, 16, 0)}
    # With one chain of weight m ~ Beta(alpha, alpha), a small alpha gives the image or the chain.
    args = {"width": 1, "depth": 1, "interpolation": "nearest", "alpha": 0.001}
    ends = np.asarray(bound("aug_mix", **args)(KEY, several)["image"])
    kept = np.all(ends == several["image"], axis=(1, 2, 3)).mean()
    assert 0.4 < kept < 0.75
    with pytest.raises(UserError, match="segmentation mask"):
        bound("aug_mix")(KEY, {"image": IMAGES, "label": jnp.zeros((8, 32, 32), jnp.int32)})


def test_a_pipeline_from_a_config_line():
    pipeline = part(
        "in_order",
        augmentations=[
            part("random_flip"),
            part("sometimes", augmentation=part("rand_augment", layers=1), probability=0.5),
            part("one_of", augmentations=["random_blur", part("random_solarize")], weights=[1, 1]),
        ],
    )
    out = jax.jit(registry.bind("augmentations", pipeline))(KEY, {"image": IMAGES})
    assert out["image"].shape == IMAGES.shape and out["image"].dtype == np.uint8
    with pytest.raises(UserError, match="'rand_augment', argument 'magnitude': expected"):
        registry.bind("augmentations", part("rand_augment", magnitude=31))
