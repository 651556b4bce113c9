"""Activations by name: x -> y of the same shape. A config names one, with its arguments."""

from collections.abc import Callable
from typing import Annotated

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdl.config import Positive, Rate
from jaxdl.registry import Of, register
from jaxdl.types import Array

Activation = Annotated[Callable[[Array], Array], Of("activations")]


@register("activations")
def identity(x: Array, /) -> Array:
    """y = x."""
    return x


@register("activations")
def relu(x: Array, /) -> Array:
    """y = max(x, 0). Nair, Hinton 2010, https://www.cs.toronto.edu/~fritz/absps/reluICML.pdf"""
    return nn.relu(x)


@register("activations")
def relu6(x: Array, /) -> Array:
    """y = min(max(x, 0), 6), kind to low precision. https://arxiv.org/abs/1704.04861"""
    return nn.relu6(x)


@register("activations")
def leaky_relu(x: Array, /, *, slope: Rate = 0.01) -> Array:
    """y = x where x > 0, else slope * x. Maas, Hannun, Ng 2013."""
    return jnp.where(x > 0, x, slope * x)


@register("activations")
def elu(x: Array, /, *, alpha: Positive = 1.0) -> Array:
    """y = x where x > 0, else alpha (e^x - 1). https://arxiv.org/abs/1511.07289"""
    return nn.elu(x, alpha)


@register("activations")
def selu(x: Array, /) -> Array:
    """ELU scaled so that mean 0 and variance 1 are a fixed point. https://arxiv.org/abs/1706.02515"""
    return nn.selu(x)


@register("activations")
def sigmoid(x: Array, /) -> Array:
    """y = 1 / (1 + e^-x), in (0, 1)."""
    return nn.sigmoid(x)


@register("activations")
def hard_sigmoid(x: Array, /) -> Array:
    """y = relu6(x + 3) / 6. https://arxiv.org/abs/1905.02244"""
    return nn.hard_sigmoid(x)


@register("activations")
def tanh(x: Array, /) -> Array:
    """y = (e^x - e^-x) / (e^x + e^-x), in (-1, 1)."""
    return nn.tanh(x)


@register("activations")
def scaled_tanh(x: Array, /) -> Array:
    """y = 1.7159 tanh(2x / 3), near enough y(1) = 1: LeNet-5. https://doi.org/10.1109/5.726791"""
    return 1.7159 * nn.tanh(x * (2 / 3))


@register("activations")
def softplus(x: Array, /) -> Array:
    """y = log(1 + e^x)."""
    return nn.softplus(x)


@register("activations")
def softsign(x: Array, /) -> Array:
    """y = x / (1 + |x|)."""
    return nn.soft_sign(x)


@register("activations")
def silu(x: Array, /) -> Array:
    """y = x sigmoid(x), also called swish. https://arxiv.org/abs/1710.05941"""
    return nn.silu(x)


@register("activations")
def hard_silu(x: Array, /) -> Array:
    """y = x relu6(x + 3) / 6, also called hard swish. https://arxiv.org/abs/1905.02244"""
    return nn.hard_silu(x)


@register("activations")
def gelu(x: Array, /, *, approximate: bool = False) -> Array:
    """y = x P(z < x) for a normal z, or its tanh approximation. https://arxiv.org/abs/1606.08415"""
    return nn.gelu(x, approximate=approximate)


@register("activations")
def mish(x: Array, /) -> Array:
    """y = x tanh(softplus(x)). https://arxiv.org/abs/1908.08681"""
    return jax.nn.mish(x)
