"""Sources: the grammar of splits, digits, fake images, folders, .npz files."""

import hashlib
import io

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from sklearn.datasets import load_digits

from jaxdl.config import part
from jaxdl.data import open_split
from jaxdl.data.digits import split_indices
from jaxdl.data.images import fit
from jaxdl.data.shapes import _inside
from jaxdl.data.split_spec import resolve
from jaxdl.errors import UserError
from jaxdl.registry import bind

GIB = 2**30


def opened(name, split, memory=GIB, **args):
    return open_split(bind("sources", part(name, **args)), split, memory=memory)


# Splits


SLICES = [
    "train", "train[:500]", "train[500:]", "train[-100:]", "train[:-100]", "train[10:20]",
    "train[20:10]", "train[0:0]", "train[:80%]", "train[80%:]", "train[10%:80%]", "train[-33%:]",
    "train[:-33%]", "train[:1%]", "train[99%:]", "train[12.5%:37.5%]", "train[:101%]",
    "train[:1_0]", "train+test", "train[:50%]+test[50%:]", "train[oops]", "train[5]", "train[:]",
    "train[:1.5]", "trian", "train[:", "train [:5]", "", "train[:5]+",
]  # fmt: skip


@pytest.mark.parametrize("n", [1, 7, 99, 100, 250, 1797, 50_000])
@pytest.mark.parametrize("split", SLICES)
def test_splits_mean_what_they_mean_to_tfds(split, n):
    core = tfds.core
    sizes = {"train": n, "test": 40}
    infos = {
        name: core.SplitInfo(name=name, shard_lengths=[size], num_bytes=0)
        for name, size in sizes.items()
    }
    try:
        terms = core.ReadInstruction.from_spec(split).to_absolute(infos)
    except ValueError:
        with pytest.raises(UserError):
            resolve(split, sizes)
        return
    ours = [list(range(sizes[name]))[start:stop] for name, start, stop in resolve(split, sizes)]
    assert ours == [list(range(sizes[t.splitname]))[t.from_ : t.to] for t in terms]


def test_a_wrong_split_is_told():
    for split, message in [
        ("trian", "unknown split 'trian': did you mean 'train'?"),
        ("train[oops]", r"'train\[oops\]' is not a split: write 'name'"),
        ("train[:500]", r"500 lies outside the 9 examples"),
    ]:
        with pytest.raises(UserError, match=message):
            resolve(split, {"train": 9, "test": 9})
    with pytest.raises(UserError, match=r"sliced as in 'all\[:80%\]'"):
        resolve("train", {"all": 9})


# Digits and fake images


def test_digits_are_those_of_scikit_learn():
    stored = load_digits()
    parts = {name: opened("digits", name) for name in ("train", "validation", "test")}
    assert {name: len(s) for name, s in parts.items()} == {
        "train": 1258, "validation": 180, "test": 359
    }  # fmt: skip
    index = split_indices(stored.target)
    assert sorted(np.concatenate(list(index.values()))) == list(range(1797))
    for name, share in (("train", 0.7), ("validation", 0.1), ("test", 0.2)):
        counts = np.bincount(stored.target[index[name]])
        np.testing.assert_allclose(counts, share * np.bincount(stored.target), atol=1)
        batch = parts[name].arrays
        np.testing.assert_array_equal(batch["label"], stored.target[index[name]])
        back = batch["image"][..., 0] * (16 / 255)
        np.testing.assert_allclose(back, stored.images[index[name]], atol=0.5 * 16 / 255)
    assert parts["train"].num_classes == 10 and parts["train"].class_names[3] == "3"


def test_the_split_of_digits_stays_the_same_for_ever():
    order = np.concatenate(list(split_indices(load_digits().target).values()))
    assert hashlib.sha256(order.astype("<i8").tobytes()).hexdigest()[:16] == "8620146eb1530392"


def test_digits_can_be_larger():
    small, large = (opened("digits", "test[:20]", size=size).arrays["image"] for size in (8, 32))
    assert large.shape == (20, 32, 32, 1)
    shrunk = large.reshape(20, 8, 4, 8, 4, 1).mean((2, 4))
    assert np.corrcoef(small.ravel(), shrunk.ravel())[0, 1] > 0.99


def test_fake_images_can_be_learnt():
    args = {"size": (8, 6, 2), "num_classes": 5, "examples": 40}
    train, test = (opened("fake", split, **args) for split in ("train", "test"))
    assert (len(train), len(test), train.num_classes) == (40, 40, 5)
    assert train.element_spec["image"] == jax.ShapeDtypeStruct((8, 6, 2), np.uint8)
    assert not np.array_equal(train.arrays["image"], test.arrays["image"])
    x, y = train.arrays["image"].reshape(40, -1).astype(float), train.arrays["label"]
    means = np.stack([x[y == k].mean(0) for k in range(5)])
    distance = np.square(test.arrays["image"].reshape(40, 1, -1) - means).sum(-1)
    assert np.mean(distance.argmin(1) == test.arrays["label"]) == 1
    again = opened("fake", "train[10:]", **args)
    np.testing.assert_array_equal(again.arrays["image"], train.arrays["image"][10:])


def test_shapes_are_drawn_where_their_labels_are():
    args = {"examples": 200, "size": 40, "noise": 0.0}
    train = opened("shapes", "train", **args)
    parts = [train, *(opened("shapes", s, **args) for s in ("validation", "test"))]
    assert [len(p) for p in parts] == [160, 20, 20]
    assert train.class_names == ("ground", "disc", "square", "triangle")
    image, label = train.arrays["image"], train.arrays["label"]
    assert image.shape == (160, 40, 40, 3) and label.shape == (160, 40, 40)
    # Without noise the ground is dark and of one colour, shapes are light.
    ground = label == 0
    assert image[ground].max() <= 100 and image[~ground].min() >= 120
    for pixels, where in zip(image, ground, strict=True):
        assert len(np.unique(pixels[where], axis=0)) == 1
    again = opened("shapes", "train+test", **args).arrays
    np.testing.assert_array_equal(again["image"][:160], image)
    np.testing.assert_array_equal(again["label"][160:], parts[2].arrays["label"])
    noisy = opened("shapes", "train", **{**args, "noise": 9.0}).arrays
    np.testing.assert_array_equal(noisy["label"], label)
    difference = noisy["image"].astype(float) - image
    assert 8 < difference.std() < 9.1 and abs(difference.mean()) < 0.5


def test_shapes_have_the_areas_of_geometry():
    # Enclosed by a circle of radius 60: pi r^2, 2 r^2 and 3 sqrt(3) / 4 r^2 pixels.
    y, x = np.mgrid[:200, :200] - 99.5
    expected = {1: np.pi, 2: 2, 3: 0.75 * np.sqrt(3)}
    for kind, area in expected.items():
        for angle in (0.0, 0.7):
            assert abs(_inside(kind, y, x, 60, angle).sum() / (area * 3600) - 1) < 0.03


# Images in folders


def test_fit_resizes_the_shorter_side_and_cuts_the_centre():
    rows, columns = np.mgrid[0:40, 0:80] / 40
    image = np.stack([120 + 100 * np.sin(3 * rows), 60 * columns, 20 * rows * columns], -1)
    image = image.round().astype(np.uint8)
    expected = jax.image.resize(image.astype(np.float32), (20, 40, 3), "linear", antialias=True)
    expected = expected[:, 10:30]
    np.testing.assert_allclose(fit(image, 20), expected, atol=1)
    upright = image.swapaxes(0, 1)
    np.testing.assert_allclose(fit(upright, 20), expected.swapaxes(0, 1), atol=1)
    assert fit(image[..., :1], 33).shape == (33, 33, 1)
    with pytest.raises(UserError, match="resizes uint8 images"):
        fit(image.astype(np.float32), 20)


def paint(file, value, size=(6, 6)):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(file)


def test_a_folder_with_splits(tmp_path):
    for split, n in (("train", 4), ("validation", 2)):
        for k, name in enumerate(("bee", "ant")):
            for i in range(n):
                paint(tmp_path / split / name / f"{i}.png", 100 * k + i)
    (tmp_path / "train" / "ant" / "notes.txt").write_text("not an image")
    split = opened("folder", "train", path=str(tmp_path))
    assert (len(split), split.class_names, split.num_classes) == (8, ("ant", "bee"), 2)
    assert split.element_spec["image"].shape == (6, 6, 3)
    values = split.arrays["image"][:, 0, 0, 0]
    assert sorted(values) == [0, 1, 2, 3, 100, 101, 102, 103]
    np.testing.assert_array_equal(split.arrays["label"], values < 100)
    assert len(opened("folder", "validation[:50%]", path=str(tmp_path), channels=1)) == 2
    with pytest.raises(UserError, match="unknown split 'tset'"):
        opened("folder", "tset", path=str(tmp_path))
    paint(tmp_path / "validation" / "beee" / "0.png", 0)
    with pytest.raises(UserError, match="beee' is not a class of the training images.*'bee'"):
        opened("folder", "validation", path=str(tmp_path))


def test_a_folder_to_be_sliced(tmp_path):
    for k, name in enumerate("abc"):
        for i in range(20):
            paint(tmp_path / name / f"{i}.png", 50 * k + i, size=(6, 6 + i % 2))
    args = {"path": str(tmp_path), "image_size": 4}
    train, test = opened("folder", "all[:80%]", **args), opened("folder", "all[80%:]", **args)
    values = [s.arrays["image"][:, 0, 0, 0] for s in (train, test)]
    assert [len(v) for v in values] == [48, 12]
    assert sorted(np.concatenate(values)) == [50 * k + i for k in range(3) for i in range(20)]
    assert set(test.arrays["label"]) == {0, 1, 2}
    with pytest.raises(UserError, match="record .* set image_size in the source"):
        opened("folder", "all", path=str(tmp_path))


def test_a_broken_image_is_named(tmp_path):
    for name in "ab":
        paint(tmp_path / name / "fine.png", 7)
    broken = tmp_path / "b" / "broken.png"
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    broken.write_bytes(file.getvalue()[:2000])
    with pytest.raises(UserError, match=f"1 of 3 images cannot be read: {broken} "):
        opened("folder", "all", path=str(tmp_path))
    broken.write_text("no image at all")
    with pytest.raises(UserError, match=f"1 of 3 images cannot be read: {broken} "):
        opened("folder", "all", path=str(tmp_path))
    with pytest.raises(UserError, match="no folder 'nowhere'"):
        opened("folder", "all", path="nowhere")
    with pytest.raises(UserError, match="expected one for each class"):
        opened("folder", "all", path=str(tmp_path / "a"))


# Arrays in files


def test_npz_in_three_layouts(tmp_path):
    image, label = np.arange(10 * 4, dtype=np.uint8).reshape(10, 2, 2), np.arange(10) % 3
    tables = {"train": (image[:7], label[:7]), "test": (image[7:], label[7:])}
    flat = {f"{s}_image": t[0] for s, t in tables.items()}
    flat |= {f"{s}_label": t[1] for s, t in tables.items()}
    np.savez(tmp_path / "both.npz", class_names=["x", "y", "z"], **flat)
    np.savez(tmp_path / "one.npz", image=image, label=label)
    (tmp_path / "each").mkdir()
    for name, (i, k) in tables.items():
        np.savez(tmp_path / "each" / f"{name}.npz", image=i, label=k)
    for path, split, names in [
        ("both.npz", "test", ("x", "y", "z")),
        ("one.npz", "all[7:]", ()),
        ("each", "test", ()),
    ]:
        got = opened("npz", split, path=str(tmp_path / path))
        np.testing.assert_array_equal(got.arrays["image"][..., 0], image[7:])
        np.testing.assert_array_equal(got.arrays["label"], label[7:])
        assert got.class_names == names
    joined = opened("npz", "test+train[:2]", path=str(tmp_path / "each")).arrays["label"]
    np.testing.assert_array_equal(joined, [*label[7:], *label[:2]])
    (tmp_path / "text.npz").write_text("no archive")
    for path, message in [
        ("none.npz", "no .npz file at"),
        ("text.npz", "text.npz is not an .npz file"),
        ("each", "unknown split 'all': choices: test, train"),
    ]:
        with pytest.raises(UserError, match=message):
            opened("npz", "all", path=str(tmp_path / path))
