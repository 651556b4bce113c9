"""Tensors under a publisher's names to our trees and back, by rules that work both ways.

A publisher's names for a model are a function of ours. Rules are written as (regular expression,
replacement) pairs, applied in order to the path of a layer; what the rules say of names is then
said of tensors by the conventions of PyTorch or Keras for each kind of leaf.
"""

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from jaxdl import tree
from jaxdl.errors import UserError, choices
from jaxdl.registry import entries, register
from jaxdl.types import PyTree


class Layout(NamedTuple):
    """Conversion between our axis order of a tensor and the publisher's."""

    to_theirs: Callable[[np.ndarray], np.ndarray]
    to_ours: Callable[[np.ndarray, tuple[int, ...]], np.ndarray]
    """(their array, our shape) -> our array"""
    leaves: tuple[tuple[str, str], ...] = ()
    """(our leaf, theirs) where it is not what the convention says."""


SAME = Layout(lambda x: x, lambda x, shape: x)
# (h w i o) <-> (o i h w)
CONV = Layout(lambda x: x.transpose(3, 2, 0, 1), lambda x, shape: x.transpose(2, 3, 1, 0))
# (i o) <-> (o i)
DENSE = Layout(lambda x: x.T, lambda x, shape: x.T)
# (i o) <-> (o i 1 1): a dense layer that they wrote as a convolution
POINTWISE = Layout(lambda x: x.T[:, :, None, None], lambda x, shape: x[:, :, 0, 0].T)
# (d ...) <-> (prod(...) d): a dense layer with several output axes
DENSE_OUT = Layout(lambda x: x.reshape(len(x), -1).T, lambda x, shape: x.T.reshape(shape))
# (... d) <-> (d prod(...)): a dense layer with several input axes
DENSE_IN = Layout(lambda x: x.reshape(-1, x.shape[-1]).T, lambda x, shape: x.T.reshape(shape))
# (...) <-> (prod(...)): the bias of a layer with any output axes
BIAS = Layout(lambda x: x.reshape(-1), lambda x, shape: x.reshape(shape) if len(shape) > 1 else x)
# (c) <-> (c 1 1): a number a channel, as wide as a map
CHANNEL = Layout(lambda x: x[:, None, None], lambda x, shape: x[:, 0, 0])


def windowed(height: int, width: int) -> Layout:
    """A dense layer on a flattened map, theirs a convolution: (h*w*c o) <-> (o c h w)."""
    return Layout(
        lambda x: x.reshape(height, width, -1, x.shape[-1]).transpose(3, 2, 0, 1),
        lambda x, shape: x.transpose(2, 3, 1, 0).reshape(shape),
    )


def flattened(height: int, width: int) -> Layout:
    """A dense layer on a flattened map: (h*w*c o) <-> (o c*h*w)."""
    window = windowed(height, width)
    return Layout(
        lambda x: window.to_theirs(x).reshape(x.shape[::-1]),
        lambda x, shape: window.to_ours(x.reshape(len(x), -1, height, width), shape),
    )


class Convention(NamedTuple):
    """A framework's names for the tensors of a layer, and their axis orders by rank."""

    leaves: Mapping[str, str]
    layouts: Mapping[int, Layout]
    separator: str


TORCH = Convention(
    {
        "kernel": "weight",
        "scale": "weight",
        "bias": "bias",
        "mean": "running_mean",
        "var": "running_var",
        "embedding": "weight",
    },
    {4: CONV, 2: DENSE},
    ".",
)
# A depthwise kernel of Keras is (h w c 1); ours is (h w 1 c).
KERAS_DEPTHWISE = Layout(
    lambda x: x.transpose(0, 1, 3, 2),
    lambda x, shape: x.transpose(0, 1, 3, 2),
    (("kernel", "depthwise_kernel"),),
)
# (i o) <-> (1 1 i o): a dense layer that Keras wrote as a convolution
KERAS_POINTWISE = Layout(lambda x: x[None, None], lambda x, shape: x[0, 0])
# The bias of a norm is not called as that of a convolution.
KERAS_NORM = SAME._replace(leaves=(("bias", "beta"),))
KERAS = Convention(
    {
        "kernel": "kernel",
        "scale": "gamma",
        "bias": "bias",
        "mean": "moving_mean",
        "var": "moving_variance",
    },
    {},
    "/",
)


UNUSED = r".*num_batches_tracked"
"""PyTorch counts the batches that a norm has seen."""


class Naming(NamedTuple):
    """A publisher's names for one model.

    Attributes:
        rules: (regular expression, replacement[, layout]) on the path of a layer, without its
            leaf, applied one after another; a layout holds for the tensors whose path it matched.
        convention: of the framework: leaf names and the usual layouts.
        stacked: path of blocks that we keep as one, stacked along axis 0; '{path}/{i}' is what
            the rules see of block i.
        ignored: regular expression of their names for which we have no use.
        folded: (regular expression, replacement) from the path of a mean of ours to the path that
            the bias before this norm would have, where they keep one and we do not: their bias is
            taken from their mean, which changes no output, and what we write has a bias of 0.
        arguments: of our model, that make it compute what theirs does: none where its defaults do.
    """

    rules: Sequence[tuple[Any, ...]]
    convention: Convention = TORCH
    stacked: str | None = None
    ignored: str = UNUSED
    folded: tuple[str, str] | None = None
    arguments: Mapping[str, Any] = MappingProxyType({})


def less(count: int) -> Callable[[re.Match], str]:
    """For replacements: group 1 as a number, less `count`."""
    return lambda match: str(int(match[1]) - count)


def publish(publisher: str, models: Sequence[str], naming: Naming) -> None:
    """Say how `publisher` names the tensors of `models`, for `--list weights` and the hub."""

    def weights() -> Naming:
        return naming

    needed = "".join(f" Needs {name}={value}." for name, value in naming.arguments.items())
    weights.__doc__ = f"Weights under the names of {publisher}.{needed}"
    weights.__module__ = __name__
    for model in models:
        register("weights", f"{publisher}/{model}")(weights)


def namings(model: str, publisher: str | None = None) -> dict[str, Naming]:
    """Publisher to its naming of a model: all that are known, or the one asked for.

    First come those whose network is ours by default.
    """
    found = entries("weights", f"*/{model}")
    if not found:
        known = sorted({e.name.split("/")[1] for e in entries("weights")})
        raise UserError(f"no published names are known for '{model}': {choices(model, known)}")
    unordered = {e.name.split("/")[0]: e.build() for e in found}
    by_publisher = dict(sorted(unordered.items(), key=lambda item: bool(item[1].arguments)))
    if publisher is None:
        return by_publisher
    if publisher not in by_publisher:
        raise UserError(
            f"no names of '{publisher}' are known for '{model}': {choices(publisher, by_publisher)}"
        )
    return {publisher: by_publisher[publisher]}


class Place(NamedTuple):
    """One tensor of ours and its counterpart on the publisher's side."""

    ours: str
    index: int | None  # of the block, where ours is stacked
    theirs: str
    layout: Layout
    shape: tuple[int, ...]  # of ours, without the stacked axis
    bias: str | None = None  # theirs, folded into this mean of ours


def places(naming: Naming, shapes: Mapping[str, Any]) -> list[Place]:
    """A place for each tensor of ours.

    Args:
        naming: of the publisher.
        shapes: our name, as `flatten_variables` makes them, to anything with a shape.
    """
    found = []
    for ours, leaf in shapes.items():
        stacked = naming.stacked and ours.startswith(f"{naming.stacked}/")
        for i in range(leaf.shape[0]) if stacked else [None]:
            path = ours if i is None else ours.replace(naming.stacked, f"{naming.stacked}/{i}", 1)
            shape = tuple(leaf.shape[1:] if stacked else leaf.shape)
            theirs, layout = _translate(naming, path, len(shape))
            found.append(Place(ours, i, theirs, layout, shape, _folded(naming, path)))
    return found


def _folded(naming: Naming, path: str) -> str | None:
    bias, hits = re.subn(*naming.folded, path) if naming.folded else (path, 0)
    return _translate(naming, bias, 1)[0] if hits else None


def _translate(naming: Naming, path: str, rank: int) -> tuple[str, Layout]:
    convention = naming.convention
    parent, _, leaf = path.rpartition("/")
    known = leaf in convention.leaves
    name = parent if known else path
    layout = convention.layouts.get(rank, SAME) if leaf == "kernel" else SAME
    leaves = dict(convention.leaves)
    for pattern, replacement, *other in naming.rules:
        name, hits = re.subn(pattern, replacement, name)
        if hits and other and (leaf in ("kernel", "bias") or not known):
            layout = other[0]
            leaves |= dict(layout.leaves)
    if known and leaf == "bias":
        layout = BIAS
    elif known and rank == 1:
        layout = SAME
    name = name.replace("/", convention.separator)
    return (name + convention.separator + leaves[leaf] if known else name), layout


def flatten_variables(params: PyTree, variables: PyTree) -> dict[str, Any]:
    """Parameters and batch statistics side by side: their leaves never share a name."""
    return tree.flatten(params) | tree.flatten(variables.get("batch_stats", {}))


Adapt = Callable[[str, np.ndarray, tuple[int, ...]], np.ndarray | None]
"""(our name, what the file holds, our shape) -> what fits, or None where nothing can be made"""


def from_theirs(
    naming: Naming,
    shapes: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    adapt: Adapt = lambda name, array, shape: None,
) -> dict[str, np.ndarray]:
    """Our name to float32 array, made of a publisher's tensors.

    Args:
        naming: of the publisher.
        shapes: our name to anything with a shape.
        tensors: their name to array.
        adapt: is asked about tensors of another shape than ours.

    Raises:
        UserError: a tensor is missing, is left over, or has another shape; the first few of each
            are named.
    """
    wanted = places(naming, shapes)
    by_name = {place.theirs: place for place in wanted}
    if len(by_name) < len(wanted):
        twice = [p.theirs for p in wanted if by_name[p.theirs] is not p]
        raise ValueError(f"the rules give one name to two tensors: {_few(twice)}")
    names = dict.fromkeys([*by_name, *(place.bias for place in wanted if place.bias)])
    missing = [name for name in names if name not in tensors]
    left = [n for n in tensors if n not in names and not re.fullmatch(naming.ignored, n)]
    if missing or left:
        parts = [f"lacks {_few(missing)}"] * bool(missing) + [f"has {_few(left)} too"] * bool(left)
        raise UserError(f"the weights do not fit the model: the file {' and '.join(parts)}")
    found = {place: _fit(place, tensors[place.theirs], adapt) for place in wanted}
    result: dict[str, Any] = {}
    for place, array in found.items():
        if place.bias:
            # (W x + b) - mean = W x - (mean - b)
            array = array - np.asarray(tensors[place.bias], np.float32)
        if place.index is None:
            result[place.ours] = array
        else:
            result.setdefault(place.ours, []).append(array)
    return {n: np.stack(a) if isinstance(a, list) else a for n, a in result.items()}


def _fit(place: Place, theirs: np.ndarray, adapt: Adapt) -> np.ndarray:
    theirs = np.asarray(theirs, np.float32)
    expected = place.layout.to_theirs(np.broadcast_to(np.float32(0), place.shape)).shape
    if theirs.shape == expected:
        return np.ascontiguousarray(place.layout.to_ours(theirs, place.shape))
    if theirs.ndim == len(expected):
        # axes that cannot be regrouped, or are swapped, are past adapting
        with contextlib.suppress(ValueError):
            array = place.layout.to_ours(theirs, place.shape)
            fitted = adapt(place.ours, array, place.shape) if array.shape != place.shape else None
            if fitted is not None:
                return fitted
    raise UserError(
        f"'{place.theirs}' is {list(theirs.shape)} in the file, the model needs {list(expected)}"
    )


def to_theirs(naming: Naming, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A publisher's name to array, made of ours; the inverse of `from_theirs`."""
    result = {}
    for place in places(naming, arrays):
        ours = np.asarray(arrays[place.ours])
        ours = ours if place.index is None else ours[place.index]
        result[place.theirs] = np.ascontiguousarray(place.layout.to_theirs(ours))
        if place.bias:
            result[place.bias] = np.zeros_like(result[place.theirs])
    return result


def _few(names: Sequence[str], limit: int = 3) -> str:
    shown = ", ".join(f"'{n}'" for n in names[:limit])
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")
