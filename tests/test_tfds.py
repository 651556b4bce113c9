"""Data sets of TFDS, without TensorFlow: a tiny one that is prepared here, and real ones."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxdl.config import part
from jaxdl.data import open_split
from jaxdl.errors import UserError
from jaxdl.registry import bind

GIB, ROOT = 2**30, Path(__file__).parents[1]
REAL = Path(os.environ.get("TFDS_DATA_DIR", "")) if os.environ.get("TFDS_DATA_DIR") else None
needs_real_data = pytest.mark.data


def opened(name, split, memory=GIB, **args):
    return open_split(bind("sources", part(name, **args)), split, memory=memory)


PREPARE = """
import io, sys
import numpy as np
from PIL import Image
import tensorflow_datasets as tfds

def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    file.seek(0)
    return file

class Tiny(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "id": tfds.features.Text(),
            "image": tfds.features.Image(shape=(None, None, 1)),
            "label": tfds.features.ClassLabel(names=["dark", "light"]),
            "segmentation_mask": tfds.features.Image(shape=(None, None, 1)),
            "boxes": tfds.features.Sequence(np.float32),
            "index": np.int64,
            "weight": np.float32,
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, manager):
        return {"train": self._generate_examples(8), "test": self._generate_examples(2)}

    def _generate_examples(self, n):
        for i in range(n):
            pixels = np.full((8, 9 + i % 2), 30 * i, np.uint8)
            mask = np.resize(np.uint8([0, 2, 5]), pixels.shape)
            yield i, {
                "id": str(i), "image": png(pixels), "segmentation_mask": png(mask),
                "label": i > 3, "boxes": [0.5] * i, "weight": i, "index": i,
            }

Tiny(data_dir=sys.argv[1]).download_and_prepare(file_format="array_record")
"""

READ = """
import sys
import jax
from jaxdl.config import part
from jaxdl.data import open_split, train_batches
from jaxdl.registry import bind

source = bind("sources", part("tfds", dataset="tiny", data_dir=sys.argv[1], image_size=8))
for memory in (2**30, 0):
    split = open_split(source, "train", memory=memory)
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    list(train_batches(split, batch_size=3, seed=0, start=0, stop=4, sharding=sharding))
print("tensorflow" in sys.modules)
"""


def python(code, *arguments):
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("tfds"))
    python(PREPARE, folder)
    return folder


def test_a_prepared_data_set_is_read(tiny):
    split = opened("tfds", "train", dataset="tiny", data_dir=tiny, image_size=8)
    assert (len(split), split.num_classes, split.class_names) == (8, 2, ("dark", "light"))
    assert sorted(split.element_spec) == ["image", "label", "segmentation_mask", "weight"]
    assert split.element_spec["image"].shape == (8, 8, 1)
    brightness = split.arrays["image"][:, 0, 0, 0] // 30
    assert sorted(brightness) == list(range(8))
    np.testing.assert_array_equal(split.arrays["weight"], brightness)
    np.testing.assert_array_equal(split.arrays["label"], brightness > 3)
    streamed = opened("tfds", "train", memory=0, dataset="tiny:1.0.0", data_dir=tiny, image_size=8)
    for name, array in streamed.examples(np.array([5, 0, 5])).items():
        np.testing.assert_array_equal(array, split.arrays[name][[5, 0, 5]])
    halves = [
        opened("tfds", s, dataset="tiny", data_dir=tiny, image_size=8).arrays["weight"]
        for s in ("train[:25%]", "train[25%:]")
    ]
    np.testing.assert_array_equal(np.concatenate(halves), split.arrays["weight"])
    assert len(halves[0]) == 2


def test_labels_are_read_without_decoding_images(tiny, monkeypatch):
    import tensorflow_datasets as tfds

    split = opened("tfds", "train", memory=0, dataset="tiny", data_dir=tiny, image_size=8)
    expected = split.examples(np.arange(8))["label"]
    monkeypatch.setattr(tfds.features.Image, "decode_example_np", None)
    np.testing.assert_array_equal(split.labels("a test"), expected)
    assert split.labels("a test").dtype == np.int32


def test_a_feature_whose_name_is_taken_can_be_the_label(tiny):
    args = {"dataset": "tiny", "data_dir": tiny, "image_size": 8}
    split = opened("tfds", "train", label="index", **args)
    assert "index" not in split.element_spec
    np.testing.assert_array_equal(split.arrays["label"], split.arrays["weight"])


def test_a_mask_can_be_the_label(tiny):
    args = {"dataset": "tiny", "data_dir": tiny, "image_size": 8, "label": "segmentation_mask"}
    split = opened("tfds", "train", void=5, **args)
    assert split.num_classes == 3 and sorted(split.element_spec) == ["image", "label", "weight"]
    assert split.element_spec["label"] == jax.ShapeDtypeStruct((8, 8), np.int32)
    # Eight of nine or ten columns are cut out, none is resized: 8 rows there were.
    for row in np.arange(8):
        width = 9 + int(split.arrays["weight"][row]) % 2
        whole = np.resize([0, 2, 255], (8, width))
        left = (width - 8) // 2
        np.testing.assert_array_equal(split.arrays["label"][row], whole[:, left : left + 8])
    larger = opened("tfds", "train", **{**args, "image_size": 24}).arrays["label"]
    assert set(np.unique(larger)) == {0, 2, 5}  # to the nearest: nothing in between
    assert opened("tfds", "train", num_classes=7, **args).num_classes == 7
    with pytest.raises(UserError, match="has no label 'mask': choices: .*segmentation_mask"):
        opened("tfds", "train", **{**args, "label": "mask"})


@pytest.mark.parametrize(
    ("dataset", "split", "message"),
    [
        ("tiny", "trian", "has train, test, not 'trian'"),
        ("tiny", "train[oops]", "Error parsing split"),
        ("tiny", "train[50%:20%]", "is empty"),
        ("tiny", "train", r"record \d: 'image' has shape .* set image_size in the source"),
        ("tyni", "train", "TFDS knows no 'tyni'; of those in .*: did you mean 'tiny'?"),
        ("mnist/big", "train", "BuilderConfig big not found"),
        (
            "mnist",
            "train",
            r"'mnist' is missing at .*mnist/3.* python -c \"import tensorflow_datasets as tfds; "
            r"tfds.builder\('mnist', data_dir='.*'\)"
            r".download_and_prepare\(file_format='array_record'\)\"",
        ),
    ],
)
def test_a_data_set_that_cannot_be_read_is_told(tiny, dataset, split, message):
    with pytest.raises(UserError, match=message) as caught:
        opened("tfds", split, dataset=dataset, data_dir=tiny)
    assert "\n" not in str(caught.value)


def test_reading_needs_no_tensorflow(tiny):
    assert python(READ, tiny).splitlines()[-1] == "False"


@needs_real_data
@pytest.mark.parametrize(
    ("dataset", "split", "length", "names", "shape"),
    [
        ("cifar10", "train", 50_000, ("airplane", "automobile"), (32, 32, 3)),
        ("cifar10", "train[:80%]", 40_000, ("airplane",), (32, 32, 3)),
        ("cifar10", "test[-100:]", 100, ("airplane",), (32, 32, 3)),
        ("mnist", "test", 10_000, ("0", "1", "2"), (28, 28, 1)),
        ("tf_flowers_small", "train[50%:]", 600, ("dandelion", "daisy"), (64, 64, 3)),
        ("camvid_small", "validation", 101, (), (120, 120, 3)),
        ("omniglot_mini/105x105", "eval", 2_120, (), (105, 105, 1)),
    ],
)
def test_real_data(dataset, split, length, names, shape):
    sized = {} if dataset in ("cifar10", "mnist") else {"image_size": shape[0]}
    got = opened("tfds", split, memory=0, dataset=dataset, **sized)
    batch = got.examples(np.arange(0, length, length // 50))
    assert len(got) == length
    assert got.class_names[: len(names)] == names
    assert got.element_spec["image"] == jax.ShapeDtypeStruct(shape, np.uint8)
    assert batch["image"].std() > 10
    if dataset == "camvid_small":
        assert got.num_classes is None
        assert batch["segmentation_mask"].shape[1:] == (120, 120, 1)
        assert set(np.unique(batch["segmentation_mask"])) <= set(range(12))
    else:
        assert len(set(batch["label"])) >= 5


@needs_real_data
def test_real_camvid_has_eleven_classes_and_void_pixels():
    args = {"dataset": "camvid_small", "label": "segmentation_mask", "void": 11}
    split = opened("tfds", "validation", **args)
    assert (len(split), split.num_classes) == (101, 11)
    assert split.element_spec["image"].shape == (120, 160, 3)
    label = split.arrays["label"]
    assert label.shape == (101, 120, 160) and set(np.unique(label)) == {*range(11), 255}
    # The sky is above the road.
    rows = [np.nonzero(label == k)[1].mean() for k in (0, 3)]
    assert rows[0] < 40 and rows[1] > 70


@needs_real_data
def test_real_mnist_is_balanced_as_published():
    counts = np.bincount(opened("tfds", "test", dataset="mnist").arrays["label"])
    # Table of class sizes in LeCun's test set, http://yann.lecun.com/exdb/mnist/
    assert counts.tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
