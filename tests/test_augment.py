"""The battery over all augmentations, and what each is for."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_train import mesh_of
from zoo import quick

from jaxdl import registry
from jaxdl.augment.crop import center_crop, random_crop
from jaxdl.augment.enhance import random_brightness
from jaxdl.augment.flip import random_flip, random_vertical_flip
from jaxdl.augment.normalize import normalize
from jaxdl.augment.resized_crop import boxes, random_resized_crop
from jaxdl.config import part
from jaxdl.errors import UserError
from jaxdl.train.sharding import batch_sharding

NAMES = [e.name for e in registry.entries("augmentations")]
KEY = jax.random.key(3)
ARGS = {
    "center_crop": {"size": 5},
    "sometimes": {"augmentation": "random_flip", "probability": 0.5},
    "one_of": {"augmentations": ["random_flip", "random_rotation"], "weights": [1, 3]},
    "in_order": {"augmentations": ["random_flip", "random_crop"]},
}
"""What must be said."""


def bound(name, **args):
    return registry.bind("augmentations", part(name, **ARGS.get(name, {}), **args))


def batch_of(b=16, h=8, w=6, c=3, dtype=np.uint8):
    image = np.random.default_rng(0).integers(0, 256, (b, h, w, c)).astype(dtype)
    return {"image": image, "label": np.arange(b, dtype=np.int32)}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("channels", [1, 3])
def test_shape_and_other_keys_are_kept(name, dtype, channels):
    batch = batch_of(dtype=dtype, c=channels)
    transform = quick(bound(name))
    if dtype != np.uint8 and registry.find("augmentations", name).metadata.get("pixels") == "uint8":
        with pytest.raises(UserError, match=f"'{name}' is defined on bytes"):
            transform(KEY, batch)
        return
    out = transform(KEY, batch)
    size = ARGS.get(name, {}).get("size")
    assert out["image"].shape == (16, size or 8, size or 6, channels)
    assert out["image"].dtype in (dtype, jnp.float32)
    assert out.keys() >= batch.keys()
    np.testing.assert_array_equal(out["label"], batch["label"])


@pytest.mark.parametrize("name", NAMES)
def test_a_key_gives_the_same_pixels_on_one_device_and_on_eight(name):
    transform = jax.jit(bound(name))
    batch = batch_of()
    one = transform(KEY, batch)
    eight = transform(KEY, jax.device_put(batch, batch_sharding(mesh_of(8))))
    chex.assert_trees_all_equal(one, eight, transform(KEY, batch))
    np.testing.assert_array_equal(one["label"], batch["label"])
    assert transform._cache_size() == 2  # a program for each sharding, none for a key


@pytest.mark.parametrize("name", NAMES)
def test_an_augmentation_says_whose_idea_it_is(name):
    if name != "normalize":
        assert registry.find("augmentations", name).paper.startswith("https://")


def test_a_crop_is_a_window_of_the_padded_image():
    batch = batch_of(b=512)
    out = np.asarray(random_crop(KEY, batch, padding=2)["image"])
    padded = np.pad(batch["image"], ((0, 0), (2, 2), (2, 2), (0, 0)))
    seen = set()
    for before, after in zip(padded, out, strict=True):
        windows = {(i, j): before[i : i + 8, j : j + 6] for i in range(5) for j in range(5)}
        places = [at for at, window in windows.items() if np.array_equal(window, after)]
        assert len(places) == 1
        seen.add(places[0])
    assert len(seen) == 25  # every place turns up among 512


def test_a_reflecting_crop_has_no_black_border():
    batch = {"image": np.full((64, 8, 8, 1), 7, np.uint8)}
    assert np.all(np.asarray(random_crop(KEY, batch, padding=3, mode="reflect")["image"]) == 7)


def test_about_half_are_flipped_and_each_wholly():
    batch = batch_of(b=1000)
    out = np.asarray(random_flip(KEY, batch)["image"])
    kept = np.all(out == batch["image"], axis=(1, 2, 3))
    turned = np.all(out == batch["image"][:, :, ::-1], axis=(1, 2, 3))
    assert np.all(kept ^ turned) and 440 < turned.sum() < 560


def test_normalize_by_hand():
    batch = batch_of()
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    out = normalize(None, batch, mean=mean, std=std)["image"]
    expected = (batch["image"].astype(np.float64) / 255 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)
    floats = {"image": batch["image"] / np.float32(255)}
    np.testing.assert_allclose(normalize(None, floats, mean=mean, std=std)["image"], out, atol=1e-5)
    assert out.dtype == jnp.float32


MOVES = [
    part("random_flip"),
    part("random_vertical_flip"),
    part("random_crop", padding=2),
    part("random_affine", degrees=30.0, shear=10.0),
    part("random_rotation", degrees=90.0),
    part("random_resized_crop", interpolation="nearest"),
    part("sometimes", augmentation=part("random_vertical_flip", probability=1.0), probability=0.5),
    part("one_of", augmentations=["random_flip", "random_rotation"], weights=[]),
    part("in_order", augmentations=["random_flip", "random_rotation"]),
]
OUTSIDE = ("crop", "affine", "rotation", "one_of", "in_order")


@pytest.mark.parametrize("part_", MOVES, ids=lambda p: p.name)
def test_a_segmentation_mask_moves_with_its_image(part_):
    # Every image says its own label: whatever is done to the one must be done to the other.
    label = np.random.default_rng(0).integers(1, 11, (64, 8, 6)).astype(np.int32)
    batch = {"image": np.repeat(label[..., None], 3, -1).astype(np.uint8), "label": label}
    out = jax.jit(registry.bind("augmentations", part_))(KEY, batch)
    said = np.asarray(out["image"][..., 0], np.int32)
    outside = said == 0  # the black pixels beside an image
    np.testing.assert_array_equal(out["label"], np.where(outside, 255, said))
    assert out["label"].dtype == np.int32 and np.any(out["label"] != label)
    assert outside.any() == (part_.name.endswith(OUTSIDE) and "resized" not in part_.name)


def test_a_reflecting_crop_mirrors_the_segmentation_mask():
    label = np.arange(1, 49, dtype=np.int32).reshape(1, 8, 6)
    batch = {"image": label[..., None].astype(np.uint8), "label": label}
    out = random_crop(KEY, batch, padding=3, mode="reflect")
    np.testing.assert_array_equal(out["label"], out["image"][..., 0])


def test_normalize_leaves_a_segmentation_mask():
    label = np.arange(16 * 48).reshape(16, 8, 6)
    out = normalize(None, {**batch_of(), "label": label})
    np.testing.assert_array_equal(out["label"], label)


def test_a_crop_of_another_size():
    batch = batch_of(b=256)
    out = np.asarray(random_crop(KEY, batch, padding=0, size=4)["image"])
    assert out.shape == (256, 4, 4, 3)
    seen = set()
    for before, after in zip(batch["image"], out, strict=True):
        places = [(i, j) for i in range(5) for j in range(3)]
        seen.update(p for p in places if np.array_equal(before[p[0] :, p[1] :][:4, :4], after))
    assert len(seen) == 15
    middle = center_crop(None, batch, size=4)["image"]
    np.testing.assert_array_equal(middle, batch["image"][:, 2:6, 1:5])
    for crop in (
        lambda: center_crop(None, batch, size=7),
        lambda: random_crop(KEY, batch, size=17),
    ):
        with pytest.raises(UserError, match="larger than the images"):
            crop()


def test_vertical_flips():
    batch = batch_of(b=1000)
    out = np.asarray(random_vertical_flip(KEY, batch, probability=0.3)["image"])
    turned = np.all(out == batch["image"][:, ::-1], axis=(1, 2, 3))
    kept = np.all(out == batch["image"], axis=(1, 2, 3))
    assert np.all(kept ^ turned) and 250 < turned.sum() < 350


def test_boxes_have_the_area_and_shape_that_is_asked_for():
    draw = jax.jit(lambda key: boxes(key, 4000, (100, 120), (0.1, 0.4), (0.5, 2.0)))
    top, left, height, width = (np.asarray(x) for x in draw(KEY))
    assert min(top.min(), left.min()) == 0
    assert (top + height).max() == 100 and (left + width).max() == 120
    share, ratio = height * width / 12000, width / height
    assert 0.09 < share.min() < 0.11 and 0.39 < share.max() < 0.41
    assert 0.48 < ratio.min() < 0.55 and 1.8 < ratio.max() < 2.05
    # Even in area, and in the logarithm of the shape.
    assert abs(share.mean() - 0.25) < 0.01 and abs(np.log(ratio).mean()) < 0.05
    wide = jax.jit(lambda key: boxes(key, 2, (10, 40), (1.0, 1.0), (0.5, 2.0)))
    np.testing.assert_array_equal(
        np.stack(wide(KEY))[:, 0], [0, 10, 10, 20]
    )  # torchvision's middle
    with pytest.raises(UserError, match="area"):
        random_resized_crop(KEY, batch_of(), area=(0.5, 1.5))


def test_factors_are_drawn_evenly():
    batch = {"image": np.full((2000, 1, 1, 1), 100, np.uint8)}
    out = np.asarray(random_brightness(KEY, batch, strength=0.4)["image"], float)
    assert out.min() == 60 and out.max() == 139
    assert abs(out.mean() - 99.5) < 2 and abs(out.std() - 80 / np.sqrt(12)) < 1
    out = np.asarray(random_brightness(KEY, batch, strength=2.0)["image"])
    assert out.min() == 0 and out.max() == 255  # no factor is negative


def test_translations_are_shares_of_the_sides():
    image = np.zeros((500, 21, 41, 1), np.uint8)
    image[:, 10, 20] = 255
    move = bound("random_affine", degrees=0.0, translate=0.2, scale=[1.0, 1.0])
    moved = jax.jit(move)(KEY, {"image": image})
    example, row, column, _ = np.nonzero(np.asarray(moved["image"]))
    np.testing.assert_array_equal(example, np.arange(500))
    assert (row.min(), row.max(), column.min(), column.max()) == (6, 14, 12, 28)


def test_rotations_go_either_way_as_far_as_they_may():
    image = np.zeros((2000, 65, 65, 1), np.uint8)
    image[:, 31:34, 63] = 255  # to the right of the centre, at distance 31
    turned = jax.jit(bound("random_rotation", degrees=30.0))(KEY, {"image": image})
    example, row, column, _ = np.nonzero(np.asarray(turned["image"]))
    first = np.unique(example, return_index=True)[1]
    angle = np.degrees(np.arctan2(32 - row[first], column[first] - 32))
    assert -34 < angle.min() < -27 and 27 < angle.max() < 34 and abs(angle.mean()) < 2


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_a_probability_is_of_each_example(probability):
    batch = batch_of(b=1000, h=4, w=4)
    inverted = part("random_invert", probability=1.0)
    for transform in (
        bound("random_invert", probability=probability),
        bound("random_grayscale", probability=probability),
        bound("random_blur", probability=probability, radius=1, sigma=[1, 2]),
        bound("color_jitter", probability=probability),
        registry.bind(
            "augmentations", part("sometimes", augmentation=inverted, probability=probability)
        ),
    ):
        out = np.asarray(jax.jit(transform)(KEY, batch)["image"])
        share = np.mean(np.any(out != batch["image"], axis=(1, 2, 3)))
        assert abs(share - probability) < 0.05


def test_one_of_draws_by_weight():
    batch = {"image": np.arange(1000 * 12, dtype=np.uint8).reshape(1000, 2, 2, 3)}
    part_ = part(
        "one_of",
        augmentations=[part("random_invert", probability=1.0), part("in_order")],
        weights=[3, 1],
    )
    out = np.asarray(registry.bind("augmentations", part_)(KEY, batch)["image"])
    inverted = np.all(out == 255 - batch["image"], axis=(1, 2, 3))
    kept = np.all(out == batch["image"], axis=(1, 2, 3))
    assert np.all(inverted ^ kept) and 700 < inverted.sum() < 800


def test_a_choice_between_mixed_and_whole_examples():
    batch = batch_of(b=400)
    part_ = part("sometimes", augmentation=part("mixup", per="example"), probability=0.25)
    out = jax.jit(registry.bind("augmentations", part_))(KEY, batch)
    whole = np.asarray(out["lam"]) == 1
    assert 0.7 < whole.mean() < 0.85
    np.testing.assert_array_equal(out["mixed_label"][whole], batch["label"][whole])
    np.testing.assert_array_equal(out["image"][whole], batch["image"][whole])


@pytest.mark.parametrize(
    ("name", "args", "said"),
    [
        ("sometimes", {"augmentation": "normalize", "probability": 0.5}, "'image' differs"),
        ("one_of", {"augmentations": [], "weights": []}, "at least one"),
        ("one_of", {"augmentations": ["random_flip"], "weights": [1, 2]}, "a weight for each"),
        ("one_of", {"augmentations": ["random_flip"], "weights": [0]}, "a weight for each"),
        ("random_affine", {"scale": [2, 1]}, "scale must rise"),
        ("random_gamma", {"gamma": [2, 1]}, "gamma must rise"),
        ("random_blur", {"sigma": [2, 1]}, "sigma must rise"),
        ("random_blur", {"radius": 6}, "radius 6 needs"),
    ],
)
def test_mistakes_are_named(name, args, said):
    with pytest.raises(UserError, match=said) as caught:
        registry.bind("augmentations", part(name, **args))(KEY, batch_of())
    assert name in str(caught.value)
    with pytest.raises(UserError, match="random_flp"):
        registry.bind("augmentations", part("in_order", augmentations=["random_flp"]))
