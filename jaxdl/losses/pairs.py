"""Pieces shared by losses of embeddings: pairs of examples in a batch, and their distances."""

import jax
import jax.numpy as jnp

from jaxdl.types import Array

_TINY = 1e-12


def valid(features: Array, weight: Array) -> Array:
    """Features (b, d) float32, 0 where an example counts for nothing and may be NaN."""
    return jnp.where(weight[:, None] > 0, features.astype(jnp.float32), 0.0)


def pairs(label: Array, weight: Array) -> tuple[Array, Array]:
    """(same, other), each (b, b) bool: pairs i != j of valid examples of one class, or of two."""
    alike = label[:, None] == label[None]
    both = (weight[:, None] > 0) & (weight[None] > 0)
    return both & alike & ~jnp.eye(len(label), dtype=bool), both & ~alike


def products(x: Array) -> Array:
    """Dot products (b, b) of rows, in full float32 on any device."""
    return jnp.matmul(x, x.T, precision=jax.lax.Precision.HIGHEST)


def squared_distances(x: Array) -> Array:
    """||x_i - x_j||^2, (b, b), at least 0."""
    squares = jnp.sum(x**2, axis=-1)
    return jnp.maximum(squares[:, None] + squares[None] - 2 * products(x), 0.0)


def distances(x: Array) -> Array:
    """||x_i - x_j||, (b, b); where that is 0 its gradient is 0 too."""
    squares = squared_distances(x)
    return jnp.where(squares > _TINY, jnp.sqrt(jnp.maximum(squares, _TINY)), 0.0)


def unit(x: Array) -> Array:
    """Rows of length 1; a row of zeros stays one."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x**2, axis=-1, keepdims=True), _TINY))


def mean_where(values: Array, where: Array, axis: int | tuple[int, ...] = -1) -> Array:
    """The mean of the values that are chosen, 0 where none is; what is not chosen may be NaN."""
    total = jnp.sum(jnp.where(where, values, 0.0), axis=axis)
    return total / jnp.maximum(jnp.sum(where, axis=axis), 1)
