"""Published weights into a network of ours, whatever its classes, channels and image size.

What a file cannot give, such as a head for other classes, keeps the values of a fresh network.
"""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxdl import models, tree
from jaxdl.config import Part
from jaxdl.errors import UserError
from jaxdl.hub.adapt import adapted, of_other_classes
from jaxdl.hub.convert import Naming, flatten_variables, from_theirs, namings, places, to_theirs
from jaxdl.hub.fetch import fetch, split_key
from jaxdl.hub.read import read_weights, write_safetensors
from jaxdl.types import PyTree


def pretrained(
    source: str | Path,
    model: str,
    num_classes: int | None = None,
    *,
    image: Sequence[int] | None = None,
    publisher: str | None = None,
    seed: int = 0,
    **args: Any,
) -> tuple[nn.Module, dict[str, PyTree]]:
    """A network with published weights, and its variables, ready for `model.apply`.

    Args:
        source: see `fetch`; with '#KEY' behind it, the weights under that key of a checkpoint.
        model: the registered name.
        num_classes: without it, those the model was made for.
        image: (h, w, c); without it, the model's own.
        publisher: whose names the file has; without it, the one whose names fit best.
        seed: of what stays fresh, such as the head for other classes.
        args: of the model.
    """
    module = models.create(model, num_classes or models.usual_classes(model), **args)
    inputs = models.input_specs(module, image or models.input_shape(model))
    zeros = [jnp.zeros(spec.shape, spec.dtype) for spec in inputs]
    variables = dict(jax.jit(module.init)(jax.random.key(seed), *zeros))
    params = variables.pop("params")
    params, rest = transfer(source, model, params, variables, publisher=publisher, args=args)
    return module, {"params": params, **rest}


def transfer(
    source: str | Path,
    model: str,
    params: PyTree,
    variables: PyTree,
    *,
    publisher: str | None = None,
    args: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[PyTree, PyTree]:
    """Parameters and batch statistics from a file of published weights.

    Args:
        source: a file, a Hugging Face id or a URL; see `pretrained`.
        model: the registered name.
        params: of a fresh network, `{'backbone', 'head'}`.
        variables: of a fresh network, its other collections.
        publisher: whose names the file has; without it, the one whose names fit best.
        args: that the model was built with; a warning tells which others these weights need.

    Raises:
        UserError: the file cannot be had or read, or a tensor is missing, left over or misshapen.
    """
    fresh = flatten_variables(params, variables)
    arrays = {name: np.asarray(x, np.float32) for name, x in fresh.items()}
    arrays |= published(source, model, fresh, publisher=publisher, args=args).arrays
    collections = {"params": params, "batch_stats": variables.get("batch_stats", {})}
    filled = jax.tree.map(arrays.get, {k: tree.names(v) for k, v in collections.items()})
    statistics = {"batch_stats": filled["batch_stats"]} if filled["batch_stats"] else {}
    return filled["params"], {**variables, **statistics}


class Published(NamedTuple):
    """Weights of a file by our names, and the other weights that it has."""

    arrays: dict[str, np.ndarray]
    key: str
    """of the checkpoint, under which the file has these; '' where it has no keys"""
    others: tuple[str, ...]
    """keys of the checkpoint that hold weights too, such as averaged ones"""


def published(
    source: str | Path,
    model: str,
    shapes: Mapping[str, Any],
    *,
    publisher: str | None = None,
    args: Mapping[str, Any] = MappingProxyType({}),
) -> Published:
    """Our names to arrays of a file of published weights, made to fit; see `hub/adapt.py`.

    Layers that compute the logits of another number of classes are left out.

    Args:
        source: see `pretrained`.
        model: the registered name.
        shapes: our names, as `flatten_variables` makes them, to anything with a shape.
        publisher: whose names the file has; without it, the one whose names fit best.
        args: that the model was built with.
    """
    known = namings(model, publisher)
    place, key = split_key(source)
    path = fetch(place)
    tensors, key, others = read_weights(path, key)
    naming = max(known.values(), key=lambda n: _overlap(n, shapes, tensors))
    unmet = {k: v for k, v in naming.arguments.items() if args.get(k) not in (v, Part(v))}
    for name, value in unmet.items():
        warnings.warn(
            f"{path.name} was trained with another network: give '{model}' {name}={value}",
            stacklevel=3,
        )
    left_out = set()

    def adapt(name: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
        if of_other_classes(name, shape, array.shape):
            left_out.add(name)
            return np.broadcast_to(np.float32(0), shape)
        return adapted(name, array, shape)

    try:
        arrays = from_theirs(naming, shapes, tensors, adapt)
    except UserError as error:
        raise UserError(f"{path.name}: {error}") from error
    kept = {name: array for name, array in arrays.items() if name not in left_out}
    return Published(kept, key, others)


def save(
    path: str | Path,
    model: str,
    params: PyTree,
    variables: PyTree,
    *,
    publisher: str | None = None,
) -> str:
    """Write a safetensors file that the publisher's own library loads; returns the publisher."""
    publisher, naming = next(iter(namings(model, publisher).items()))
    arrays = {k: np.asarray(v) for k, v in flatten_variables(params, variables).items()}
    write_safetensors(path, to_theirs(naming, arrays))
    return publisher


def _overlap(naming: Naming, shapes: Mapping[str, Any], tensors: dict[str, np.ndarray]) -> float:
    names = {place.theirs for place in places(naming, shapes)}
    return len(names & tensors.keys()) / len(names | tensors.keys())
