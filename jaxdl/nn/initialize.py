"""First values of kernels by name: (key, shape, dtype) -> array, for every dense and convolution.

Fans: of a kernel (h, w, i, o), h * w * i numbers come in and h * w * o go out.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdl.config import Positive
from jaxdl.registry import Of, register
from jaxdl.types import Array

Initializer = Annotated[Callable[..., Array], Of("initializers")]
Draw = Literal["normal", "truncated_normal", "uniform"]
Fan = Literal["fan_in", "fan_out", "fan_avg"]


@register("initializers")
def glorot(key: Array, shape: Any, dtype: Any = jnp.float32, /, *, draw: Draw = "uniform") -> Array:
    """Variance 2 / (fan in + fan out), for tanh. https://proceedings.mlr.press/v9/glorot10a.html"""
    return nn.initializers.variance_scaling(1.0, "fan_avg", draw)(key, shape, dtype)


@register("initializers")
def he(
    key: Array,
    shape: Any,
    dtype: Any = jnp.float32,
    /,
    *,
    fan: Fan = "fan_in",
    draw: Draw = "normal",
) -> Array:
    """Variance 2 / fan, for ReLU. https://arxiv.org/abs/1502.01852"""
    return nn.initializers.variance_scaling(2.0, fan, draw)(key, shape, dtype)


@register("initializers")
def lecun(key: Array, shape: Any, dtype: Any = jnp.float32, /, *, draw: Draw = "normal") -> Array:
    """Variance 1 / fan in, for SELU. Efficient BackProp, LeCun, Bottou, Orr, Müller 1998."""
    return nn.initializers.variance_scaling(1.0, "fan_in", draw)(key, shape, dtype)


@register("initializers")
def orthogonal(
    key: Array, shape: Any, dtype: Any = jnp.float32, /, *, scale: Positive = 1.0
) -> Array:
    """Orthogonal rows or columns, whichever are fewer. https://arxiv.org/abs/1312.6120"""
    return nn.initializers.orthogonal(scale)(key, shape, dtype)


@register("initializers")
def normal(
    key: Array, shape: Any, dtype: Any = jnp.float32, /, *, stddev: Positive = 0.01
) -> Array:
    """The same spread for every layer, whatever its fans."""
    return nn.initializers.normal(stddev)(key, shape, dtype)


@register("initializers")
def truncated_normal(
    key: Array, shape: Any, dtype: Any = jnp.float32, /, *, stddev: Positive = 0.02
) -> Array:
    """Normal, drawn again beyond two deviations. https://arxiv.org/abs/2010.11929

    `stddev` is that before the cut, as PyTorch counts; what is drawn has 0.88 of it.
    """
    return stddev * jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype)
