"""The battery over all augmentations, and what each is for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_train import mesh_of

from jaxdl import registry
from jaxdl.augment.crop import random_crop
from jaxdl.augment.flip import random_flip
from jaxdl.augment.normalize import normalize
from jaxdl.config import part
from jaxdl.train.sharding import batch_sharding

NAMES = [e.name for e in registry.entries("augmentations")]
KEY = jax.random.key(3)


def batch_of(b=16, h=8, w=6, c=3, dtype=np.uint8):
    image = np.random.default_rng(0).integers(0, 256, (b, h, w, c)).astype(dtype)
    return {"image": image, "label": np.arange(b, dtype=np.int32)}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_shape_and_other_keys_are_kept(name, dtype):
    batch = batch_of(dtype=dtype)
    out = jax.jit(registry.bind("augmentations", part(name)))(KEY, batch)
    assert out["image"].shape == batch["image"].shape
    assert out["image"].dtype in (dtype, jnp.float32)
    np.testing.assert_array_equal(out["label"], batch["label"])


@pytest.mark.parametrize("name", NAMES)
def test_a_key_gives_the_same_pixels_on_one_device_and_on_eight(name):
    transform = jax.jit(registry.bind("augmentations", part(name)))
    batch = batch_of()
    one = transform(KEY, batch)["image"]
    eight = transform(KEY, jax.device_put(batch, batch_sharding(mesh_of(8))))["image"]
    np.testing.assert_array_equal(one, eight)
    np.testing.assert_array_equal(one, transform(KEY, batch)["image"])


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


@pytest.mark.parametrize("part_", [part("random_flip"), part("random_crop", padding=2)], ids=str)
def test_a_label_map_moves_with_its_image(part_):
    # Every image says its own label: whatever is done to the one must be done to the other.
    label = np.random.default_rng(0).integers(1, 11, (64, 8, 6)).astype(np.int32)
    batch = {"image": np.repeat(label[..., None], 3, -1).astype(np.uint8), "label": label}
    out = jax.jit(registry.bind("augmentations", part_))(KEY, batch)
    said = np.asarray(out["image"][..., 0], np.int32)
    outside = said == 0  # the black pixels beside an image
    np.testing.assert_array_equal(out["label"], np.where(outside, 255, said))
    assert out["label"].dtype == np.int32 and np.any(out["label"] != label)
    assert outside.any() == (part_.name == "random_crop")


def test_a_reflecting_crop_mirrors_the_label_map():
    label = np.arange(1, 49, dtype=np.int32).reshape(1, 8, 6)
    batch = {"image": label[..., None].astype(np.uint8), "label": label}
    out = random_crop(KEY, batch, padding=3, mode="reflect")
    np.testing.assert_array_equal(out["label"], out["image"][..., 0])


def test_normalize_leaves_a_label_map():
    label = np.arange(16 * 48).reshape(16, 8, 6)
    out = normalize(None, {**batch_of(), "label": label})
    np.testing.assert_array_equal(out["label"], label)
