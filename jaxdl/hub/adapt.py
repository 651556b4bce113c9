"""Weights of another shape: other input channels, another image size, another number of classes.

The same for weights of a publisher and for those of a run.
"""

import math
import re

import numpy as np

from jaxdl.nn.positions import resize_positions

IMAGE_CHANNELS = (1, 3)
"""Channels of a convolution's input that are taken for those of an image."""


def adapted(name: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """An array made to fit a parameter of another shape; None where nothing sensible can be made.

    A first convolution for other channels sums those that it has into one, or repeats them, scaled
    to the same mean. Position embeddings are interpolated.

    Args:
        name: of the parameter, such as 'backbone/conv/kernel'.
        array: its value in another network.
        shape: that is wanted.
    """
    if len(array.shape) != len(shape):
        return None
    if name.startswith("backbone/") and name.endswith("/kernel") and array.ndim == 4:
        return _other_channels(array, shape)
    if name.endswith("/positions") and array.ndim == 3:
        return _other_size(array, shape)
    return None


def of_other_classes(name: str, here: tuple[int, ...], there: tuple[int, ...]) -> bool:
    """True of what computes the logits of another number of classes, and is else alike."""
    return re.search(r"(^|/)logits/(kernel|bias)$", name) is not None and here[:-1] == there[:-1]


def _other_channels(kernel: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """(h w i o) for another i: one channel is the sum of all, more are repeated and scaled."""
    have, need = kernel.shape[2], shape[2]
    sees_the_image = have in IMAGE_CHANNELS
    if not sees_the_image or kernel.shape[:2] != shape[:2] or kernel.shape[3] != shape[3]:
        return None
    if need == 1:
        return kernel.sum(axis=2, keepdims=True)
    # sum over channels of kernel * x is what it was, where all channels of x are equal
    return kernel[:, :, np.arange(need) % have] * np.float32(have / need)


def _other_size(positions: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """(1 t d) for another t: square grids, behind one class token or none."""
    if positions.shape[2] != shape[2]:
        return None
    for prefix in (0, 1):
        old, new = math.isqrt(positions.shape[1] - prefix), math.isqrt(shape[1] - prefix)
        if (old**2, new**2) == (positions.shape[1] - prefix, shape[1] - prefix):
            return np.asarray(resize_positions(positions, (old, old), (new, new), prefix))
    return None
