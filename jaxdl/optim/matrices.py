"""Axes of a leaf that are layers, inputs and outputs: needed by optimizers of whole layers.

A leaf of repeated blocks holds all of them along its first axis (`nn/stack.py`), and a kernel of an
attention holds several matrices with their heads apart (`nn/attention.py`).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from jaxdl.nn import stack
from jaxdl.optim.arguments import chosen
from jaxdl.types import Array, PyTree

STACKED = rf"(.*/)?{stack.STACKED}/.*"
"""Leaves whose first axis counts layers: those of scanned modules, which all have one name."""

PROJECTIONS = {"qkv": "imoo", "key_value": "imoo", "query": "ioo", "out": "iio"}
"""Kernels of an attention by the name of their layer, an axis a letter: i inputs, o outputs, m
matrices of their own: queries, keys and values are three, which did best in
https://kellerjordan.github.io/posts/muon/."""


class Axes(NamedTuple):
    """The axes of one leaf."""

    matrices: tuple[int, ...]
    """Count layers and projections: each entry along them is a matrix of its own."""
    groups: tuple[tuple[int, ...], ...]
    """Axes that are one dimension of such a matrix; outputs stand last."""


def layered(pattern: str) -> Callable[[PyTree], PyTree]:
    """The mask of the leaves whose first axis counts layers; see `chosen`."""
    return chosen("stacked", pattern, STACKED)


def axes_of(name: str, ndim: int, stacked: bool) -> Axes:
    """The axes of a leaf called `name`; each axis of a convolution's kernel is a group.

    Args:
        name: the leaf's path.
        ndim: its rank.
        stacked: whether its first axis counts layers.
    """
    layers = tuple(range(min(int(stacked), ndim)))
    first = len(layers)
    *_, layer, leaf = ("", *name.split("/"))
    roles = PROJECTIONS.get(layer, "") if leaf == "kernel" else ""
    if roles and len(roles) == ndim - first:
        i, m, o = (tuple(first + k for k, r in enumerate(roles) if r == role) for role in "imo")
        return Axes(layers + m, (i, o))
    return Axes(layers, tuple((axis,) for axis in range(first, ndim)))


def split(x: Array, axes: Axes) -> Array:
    """(matrices, one axis a group): a leaf as a batch of the matrices that it holds."""
    order = (*axes.matrices, *(a for group in axes.groups for a in group))
    sizes = [math.prod(x.shape[a] for a in group) for group in (axes.matrices, *axes.groups)]
    return x.transpose(order).reshape(sizes)


def join(x: Array, axes: Axes, shape: tuple[int, ...]) -> Array:
    """Inverse of `split`: the leaf in its own shape."""
    order = (*axes.matrices, *(a for group in axes.groups for a in group))
    back = [order.index(a) for a in range(len(shape))]
    return x.reshape([shape[a] for a in order]).transpose(back)


def norm_of_layers(x: Array, stacked: bool) -> Array:
    """Euclidean norm of a leaf, or of each layer in it, with axes of 1 to be multiplied by."""
    axes = tuple(range(int(stacked), x.ndim))
    return jnp.sqrt(jnp.sum(jnp.square(x), axis=axes, keepdims=True))
