"""Published weights into a network of ours, whatever its classes, channels and image size.

What a file cannot give, such as a head for other classes, keeps the values of a fresh network.
"""

import math
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxdl import models, tree
from jaxdl.config import Part
from jaxdl.errors import UserError
from jaxdl.hub.convert import Naming, flatten_variables, from_theirs, namings, places, to_theirs
from jaxdl.hub.fetch import fetch
from jaxdl.hub.read import read, write_safetensors
from jaxdl.nn.positions import resize_positions
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
        source: see `fetch`.
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

    Layers that compute logits stay fresh where their number of classes differs. A first convolution
    for other channels sums those of the file into one, or repeats them, scaled to the same mean.
    Position embeddings are interpolated to another image size.

    Args:
        source: a file, a Hugging Face id or a URL; see `fetch`.
        model: the registered name.
        params: of a fresh network, `{'backbone', 'head'}`.
        variables: of a fresh network, its other collections.
        publisher: whose names the file has; without it, the one whose names fit best.
        args: that the model was built with; a warning tells which others these weights need.

    Raises:
        UserError: the file cannot be had or read, or a tensor is missing, left over or misshapen.
    """
    known = namings(model, publisher)
    path = fetch(source)
    tensors = read(path)
    fresh = flatten_variables(params, variables)
    naming = max(known.values(), key=lambda n: _overlap(n, fresh, tensors))
    unmet = {k: v for k, v in naming.arguments.items() if args.get(k) not in (v, Part(v))}
    for name, value in unmet.items():
        warnings.warn(
            f"{path.name} was trained with another network: give '{model}' {name}={value}",
            stacklevel=2,
        )

    def adapt(name: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
        if re.search(r"(^|/)logits/(kernel|bias)$", name) and array.shape[:-1] == shape[:-1]:
            return np.asarray(fresh[name], np.float32)
        if name.startswith("backbone/") and name.endswith("/kernel") and array.ndim == 4:
            return _other_channels(array, shape)
        if name.endswith("/positions"):
            return _other_size(array, shape)
        return None

    try:
        arrays = from_theirs(naming, fresh, tensors, adapt)
    except UserError as error:
        raise UserError(f"{path.name}: {error}") from error
    collections = {"params": params, "batch_stats": variables.get("batch_stats", {})}
    filled = jax.tree.map(arrays.get, {k: tree.names(v) for k, v in collections.items()})
    statistics = {"batch_stats": filled["batch_stats"]} if filled["batch_stats"] else {}
    return filled["params"], {**variables, **statistics}


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


def _overlap(naming: Naming, shapes: dict[str, Any], tensors: dict[str, np.ndarray]) -> float:
    names = {place.theirs for place in places(naming, shapes)}
    return len(names & tensors.keys()) / len(names | tensors.keys())


def _other_channels(kernel: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """(h w i o) for another i: one channel is the sum of all, more are repeated and scaled."""
    have, need = kernel.shape[2], shape[2]
    sees_the_image = have in (1, 3)
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
