"""Convolutions by name: the plain one, and those that normalise their kernel."""

from collections.abc import Callable
from typing import Annotated, Any

import flax.linen as nn
import jax.numpy as jnp

from jaxdl.config import Count
from jaxdl.nn.conv import Conv, conv_general_dilated
from jaxdl.registry import Of, register
from jaxdl.types import Array

ConvBuilder = Annotated[Callable[..., nn.Module], Of("convs")]


@register("convs", "plain")
def plain(features: int, kernel_size: tuple[int, ...], /, **layer: Any) -> nn.Module:
    """A convolution whose kernel is its parameter."""
    return Conv(features, kernel_size, **layer)


def _standardized(lhs: Array, rhs: Array, *args: Any, **kwargs: Any) -> Array:
    # w = (v - mean(v)) / sqrt(n var(v)), over the n numbers that one output hears
    wide = rhs.astype(jnp.promote_types(rhs.dtype, jnp.float32))
    axes, n = (0, 1, 2), rhs[..., 0].size
    mean, var = wide.mean(axes, keepdims=True), wide.var(axes, keepdims=True)
    kernel = ((wide - mean) / jnp.sqrt(jnp.maximum(n * var, 1e-4))).astype(rhs.dtype)
    return conv_general_dilated(lhs, kernel, *args, **kwargs)


@register("convs", "weight_standardized")
def weight_standardized(features: int, kernel_size: tuple[int, ...], /, **layer: Any) -> nn.Module:
    """Kernels of mean 0 and variance 1 / n; goes with group norm. https://arxiv.org/abs/1903.10520

    As in https://arxiv.org/abs/2101.08692, scaled by the fan in, with no trained gain.
    """
    return Conv(features, kernel_size, **layer | {"conv_general_dilated": _standardized})


@register("convs", "weight_normalized")
def weight_normalized(features: int, kernel_size: tuple[int, ...], /, **layer: Any) -> nn.Module:
    """w = g v / |v|, a length and a direction an output. https://arxiv.org/abs/1602.07868"""
    name = layer.pop("name", None)
    conv = Conv(features, kernel_size, **layer, parent=None)
    return nn.WeightNorm(conv, variable_filter={"kernel"}, name=name)


class SpectralNorm(nn.SpectralNorm):
    """Flax's; its power iteration goes on whenever the statistics may change."""

    def __call__(self, x: Array) -> Array:
        return super().__call__(x, update_stats=self.is_mutable_collection(self.collection_name))


@register("convs", "spectral_normalized")
def spectral_normalized(
    features: int, kernel_size: tuple[int, ...], /, *, iterations: Count = 1, **layer: Any
) -> nn.Module:
    """Divided by the largest singular value, from power iteration. https://arxiv.org/abs/1802.05957"""
    name = layer.pop("name", None)
    conv = Conv(features, kernel_size, **layer, parent=None)
    return SpectralNorm(conv, n_steps=iterations, name=name)
