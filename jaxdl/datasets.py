"""Data of well-known image data sets as configs take them: splits, and statistics of channels.

    data=datasets.cifar10(batch_size=128), preprocess=(datasets.normalize("cifar10"),)

Each has a validation split of its own, cut from the training images, so that the test images are
left for the end. They are read from TensorFlow Datasets' folder.
"""

import dataclasses
from typing import Any

from jaxdl.config import Data, Part, choose, part

STATISTICS = {
    "mnist": ((0.1307,), (0.3081,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""Mean and standard deviation of each channel over the training images, pixels from 0 to 1."""


SHAPES = {
    "mnist": ((28, 28, 1), 10),
    "fashion_mnist": ((28, 28, 1), 10),
    "cifar10": ((32, 32, 3), 10),
    "cifar100": ((32, 32, 3), 100),
    "svhn_cropped": ((32, 32, 3), 10),
    "imagenet2012": (None, 1000),
    "tf_flowers": (None, 5),
}
"""Shape of an image, None where they differ, and number of classes, by TFDS's name."""


def stand_in(data: Data) -> Data | None:
    """Random images of the shape and classes of a well-known data set that is not on this machine.

    For estimates of cost, which depend on nothing else. None where the shape is not known.

    Args:
        data: of a config whose source is 'tfds'.
    """
    source = data.source
    name = str(source.args.get("dataset", "")).partition("/")[0].partition(":")[0]
    if source.name != "tfds" or name not in SHAPES:
        return None
    shape, classes = SHAPES[name]
    side = source.args.get("image_size")
    if side is None and shape is None:
        return None
    size = [side, side, shape[-1] if shape else 3] if side else list(shape or ())
    images = part("fake", size=size, num_classes=classes, examples=classes)
    held = {role: role if getattr(data, role) else None for role in ("validation", "test")}
    return dataclasses.replace(data, source=images, train="train", subset=None, **held)


def normalize(name: str) -> Part:
    """The preprocessing that brings every channel of a data set to mean 0 and deviation 1."""
    mean, std = choose(name, STATISTICS)
    return part("normalize", mean=list(mean), std=list(std))


def mnist(**fields: Any) -> Data:
    """Grey digits of 28x28: 55,000 to train on, 5,000 for validation; `fields` are of `Data`."""
    return Data(
        source=part("tfds", dataset="mnist"),
        train="train[:55000]",
        validation="train[55000:]",
        **fields,
    )


def cifar10(**fields: Any) -> Data:
    """Colour images of 32x32, 45,000 to train on, 5,000 for validation; `fields` are of `Data`."""
    return Data(
        source=part("tfds", dataset="cifar10"),
        train="train[:45000]",
        validation="train[45000:]",
        **fields,
    )


def imagenet(**fields: Any) -> Data:
    """ImageNet at 224x224, by batches of 1,024; `fields` are of `Data`.

    The first 10,000 training images are for validation; what ImageNet calls validation is the test.
    """
    defaults = {"batch_size": 1024, "evaluation_batch_size": 1024, "threads": 16}
    return Data(
        source=part("tfds", dataset="imagenet2012", image_size=224),
        train="train[10000:]",
        validation="train[:10000]",
        test="validation",
        **{**defaults, **fields},
    )
