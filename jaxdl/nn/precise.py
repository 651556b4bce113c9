"""Modules that compute in float32 inside a network that computes in another type."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdl import tree
from jaxdl.types import PyTree


def cast_params(params: PyTree, dtype: jnp.dtype, float32: str | None = None) -> PyTree:
    """Parameters in `dtype`, but for those of modules whose path matches `float32`.

    Args:
        params: float32.
        dtype: what the network computes in.
        float32: regular expression on a module's whole path, such as 'head' or '.*norm.*'; what is
            inside such a module belongs to it.
    """
    if float32 is None:
        return tree.cast(params, dtype)
    belongs = _within(float32)
    keep = lambda name, x: x if belongs(name) else tree.cast(x, dtype)
    return jax.tree.map(keep, tree.names(params), params)


def precise(dtype: jnp.dtype, float32: str) -> Callable:
    """An interceptor that hands each module its arrays in the type in which it computes.

    What a module gives stays in its own type until the next one reads it.
    """
    belongs = _within(float32)

    def intercept(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        if context.method_name != "__call__" or not context.module.path:
            return call(*args, **kwargs)
        wanted = jnp.dtype(jnp.float32) if belongs("/".join(context.module.path)) else dtype

        def given(x: Any) -> Any:
            # Scalars, such as the rates of stochastic depth, are no activations.
            is_map = isinstance(x, jax.Array) and x.ndim > 1
            return x.astype(wanted) if is_map and jnp.issubdtype(x.dtype, jnp.floating) else x

        args, kwargs = jax.tree.map(given, (args, kwargs))
        return call(*args, **kwargs)

    return intercept


def _within(pattern: str) -> Callable[[str], bool]:
    """Whether a path is that of a module the pattern matches, or of something inside it."""
    regex = re.compile(pattern)

    def belongs(path: str) -> bool:
        parts = path.split("/")
        return any(regex.fullmatch("/".join(parts[: i + 1])) for i in range(len(parts)))

    return belongs
