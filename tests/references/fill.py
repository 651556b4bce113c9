"""Weights that need no file: each tensor is drawn by its own name, the same on every side.

`numpy.random.RandomState` is frozen by NumPy, so these numbers never change.
"""

import math
import zlib

import numpy as np


def tensor(name: str, shape: tuple[int, ...], gain: float) -> np.ndarray:
    """The tensor of this name in PyTorch's convention, float64.

    `gain` is the variance times the fan in of every kernel: 2 keeps a plain ReLU network's signal
    up, a deep residual one needs less to keep it down.
    """
    random = np.random.RandomState(zlib.crc32(name.encode()))
    leaf = name.rpartition(".")[2]
    if leaf == "running_var":
        return random.uniform(0.5, 1.5, shape)
    if leaf == "running_mean":
        return 0.1 * random.standard_normal(shape)
    if "pos_embed" in name or "cls_token" in name:
        return 0.5 * random.standard_normal(shape)
    if len(shape) >= 2:
        return random.standard_normal(shape) * math.sqrt(gain / math.prod(shape[1:]))
    if leaf == "bias":
        return 0.1 * random.standard_normal(shape)
    return random.uniform(0.6, 1.4, shape)


def images(count: int, size: int, channels: int = 3) -> np.ndarray:
    """(b, h, w, c) float64: blocks of colour under noise, so that global means differ."""
    random = np.random.RandomState(count * size)
    coarse = random.standard_normal((count, 4, 4, channels))
    side = -(-size // 4)
    coarse = coarse.repeat(side, axis=1).repeat(side, axis=2)[:, :size, :size]
    return coarse + 0.5 * random.standard_normal((count, size, size, channels))


def probe(name: str, values: np.ndarray) -> float:
    """One number that tells two vectors apart: a dot product with a vector drawn by the name."""
    random = np.random.RandomState(zlib.crc32(f"probe {name}".encode()))
    return float(values.astype(np.float64).ravel() @ random.standard_normal(values.size))
