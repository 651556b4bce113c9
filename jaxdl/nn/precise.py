"""Modules that compute in float32 inside a network that computes in another type."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdl import tree
from jaxdl.errors import UserError, choices
from jaxdl.types import PyTree


def cast_params(params: PyTree, dtype: jnp.dtype, float32: str | None = None) -> PyTree:
    """Parameters in `dtype`, but for those of modules whose path matches `float32`.

    Args:
        params: float32.
        dtype: what the network computes in.
        float32: regular expression on a module's whole path, such as 'head' or '.*norm.*'; what is
            inside such a module belongs to it.

    Raises:
        UserError: `float32` is not a regular expression, or matches no module that has parameters.
    """
    if float32 is None:
        return tree.cast(params, dtype)
    belongs = _within(float32)
    kept = jax.tree.map(belongs, tree.names(params))
    if not any(jax.tree.leaves(kept)):
        known = sorted({name.rpartition("/")[0] for name in tree.flatten(params)})
        raise UserError(
            f"config.precision.float32='{float32}' matches no module: {choices(float32, known)}"
        )
    return jax.tree.map(lambda keep, x: x if keep else tree.cast(x, dtype), kept, params)


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
    """True if a path is that of a module that the pattern matches, or lies inside one."""
    regex = tree.expression("config.precision.float32", pattern)

    def belongs(path: str) -> bool:
        parts = path.split("/")
        return any(regex.fullmatch("/".join(parts[: i + 1])) for i in range(len(parts)))

    return belongs
