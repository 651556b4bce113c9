"""Opening a split: what is decoded, how many classes there are, and what is refused."""

import jax
import numpy as np
import pytest

from jaxdl.config import part
from jaxdl.data import Source, open_split
from jaxdl.errors import UserError
from jaxdl.registry import bind, register

GIB = 2**30


class Rows:
    """Records that are not arrays, so that they may be streamed."""

    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        return {"image": np.full((5, 4, 3), i, np.uint8), "label": i % 7}


def opened(arrays, memory=GIB, **options):
    return open_split(lambda _: arrays, "train", memory=memory, **options)


def test_a_users_source_is_a_function_that_gives_arrays(own_registry):
    @register("sources")
    def stripes(split, /, *, n: int = 6):
        image = np.zeros((n, 4, 4), np.uint8)
        image[::2, :2] = 255
        return {"image": image, "label": np.arange(n) % 2}

    split = open_split(bind("sources", part("stripes", n=8)), "train", memory=GIB)
    assert (len(split), split.num_classes, split.class_names) == (8, 2, ())
    assert split.element_spec["image"] == jax.ShapeDtypeStruct((4, 4, 1), np.uint8)
    assert split.element_spec["label"] == jax.ShapeDtypeStruct((), np.int32)
    batch = split.examples(np.arange(8))
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0] > 0, batch["label"] == 0)


def test_what_does_not_fit_the_budget_is_streamed():
    source, exact = Source(Rows(20), num_classes=7), 20 * (60 + 4)
    kept, streamed = opened(source, exact), opened(source, exact - 1)
    assert kept.in_memory and not streamed.in_memory
    assert kept.nbytes == streamed.nbytes == exact
    rows = np.array([7, 0, 19, 7])
    for name, array in streamed.examples(rows).items():
        np.testing.assert_array_equal(array, kept.arrays[name][rows])


def test_64_bits_become_32():
    split = opened({"x": np.arange(4.0), "label": np.array([0, 1, 2, 1], np.uint8)})
    assert {k: v.dtype for k, v in split.arrays.items()} == {"x": "float32", "label": "int32"}


def test_classes_are_counted_where_nobody_says():
    labels = {"label": np.array([0, 4, 2])}
    assert opened(labels).num_classes == 5
    assert opened(labels, num_classes=9).num_classes == 9
    assert opened({"x": np.zeros(3)}).num_classes is None
    assert opened({"label": np.zeros(3, np.float32)}).num_classes is None
    with pytest.raises(UserError, match="too large to count its classes"):
        opened(Source(Rows(9)), memory=0)


@pytest.mark.parametrize("value", [-1, 7, 2**32])
def test_a_label_out_of_range_is_named(value):
    label = np.arange(9) % 7
    label[5] = value
    message = rf"split 'train', record 5: label {value} is outside 0\.\.6"
    with pytest.raises(UserError, match=message):
        opened({"label": label}, num_classes=7)

    class Streamed(Rows):
        def __getitem__(self, i):
            return {"label": label[i]}

    with pytest.raises(UserError, match=message):
        opened(Source(Streamed(9), num_classes=7))
    split = opened(Source(Streamed(9), num_classes=7), memory=0)
    with pytest.raises(UserError, match=message):
        split.examples(np.array([2, 5, 1]))


def maps(values=(0, 3, 255)):
    label = np.resize(np.array(values), (5, 4, 3))
    return {"image": np.zeros((5, 4, 3, 1), np.uint8), "label": label}


def test_segmentation_masks_have_classes_and_void_pixels():
    split = opened(maps())
    assert split.num_classes == 4
    assert split.element_spec["label"] == jax.ShapeDtypeStruct((4, 3), np.int32)
    assert opened(maps(), num_classes=11).num_classes == 11
    np.testing.assert_array_equal(split.arrays["label"], maps()["label"])


@pytest.mark.parametrize("value", [-1, 4, 254, 2**32])
def test_a_pixel_out_of_range_is_named(value):
    arrays = maps()
    arrays["label"] = arrays["label"].astype(np.int64)
    arrays["label"][3, 2, 1] = value
    message = rf"record 3: label {value} is outside 0\.\.3 and is not void \(255\)"
    with pytest.raises(UserError, match=message):
        opened(arrays, num_classes=4)


class Uneven(Rows):
    def __getitem__(self, i):
        return {"image": np.zeros((8, 8 + (i == 3), 3), np.uint8)}


class Partial(Rows):
    def __getitem__(self, i):
        return {"a": 1.0, "b": 2.0} if i < 3 else {"a": 1.0}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"image": np.zeros((0, 4, 4, 1))}, "split 'train' is empty"),
        ({"a": np.zeros(3), "b": np.zeros(4)}, "differ in length: {'a': 3, 'b': 4}"),
        ({}, "holds no array"),
        ({"mask": np.zeros(3)}, "'mask' marks padding"),
        ({"id": np.array(["a", "b"])}, "'id' is of type <U1"),
        ({"label": np.zeros((3, 1), int)}, r"'label' has shape \(n, 1\); it must be \(n,\)"),
        (
            {"label": np.zeros((3, 4, 4, 1), int)},
            r"\('n', 4, 4, 1\); a map of labels is \(n, h, w\)",
        ),
        (
            {"image": np.zeros((3, 4, 4, 1)), "label": np.zeros((3, 4, 5), int)},
            r"an image of \(4, 4\) has a segmentation mask of \(4, 5\)",
        ),
        ([1, 2], "not a list"),
        (
            Source(Uneven(6)),
            r"record 3: 'image' has shape \(8, 9, 3\), and record 0 has \(8, 8, 3\); set image",
        ),
        (Source(Partial(6)), "'b' is missing from a record"),
    ],
)
def test_mistakes_are_told_in_one_line(source, message):
    with pytest.raises(UserError, match=message) as caught:
        opened(source)
    assert "\n" not in str(caught.value)
