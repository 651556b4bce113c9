"""Normalisations by name: a builder makes a layer, the layer maps (x, train) to the shape of x.

What a norm adds to a network's state is in the collection `batch_stats`. Statistics are float32
whatever the type of x. Axes: x is (b, ..., c).
"""

import math
from collections.abc import Callable, Collection
from typing import Annotated, Any

import flax.linen as nn
import jax.numpy as jnp
import msgspec
from jax import lax

from jaxdl import tree
from jaxdl.config import Count, NonNegative, Positive, Rate
from jaxdl.registry import Of, register
from jaxdl.types import Array, PyTree

Norm = Annotated[Callable[[str], nn.Module], Of("norms")]


class BatchNorm(nn.BatchNorm):
    """Flax's, called as (x, train)."""

    def __call__(self, x: Array, train: bool) -> Array:
        return super().__call__(x, use_running_average=not train)


class LayerNorm(nn.LayerNorm):
    """Flax's, called as (x, train)."""

    def __call__(self, x: Array, train: bool) -> Array:
        return super().__call__(x)


class InstanceNorm(nn.InstanceNorm):
    """Flax's, called as (x, train)."""

    def __call__(self, x: Array, train: bool) -> Array:
        return super().__call__(x)


class RMSNorm(nn.RMSNorm):
    """Flax's, called as (x, train)."""

    def __call__(self, x: Array, train: bool) -> Array:
        return super().__call__(x)


class GroupNorm(nn.Module):
    """Flax's, called as (x, train), with as many of the groups as divide the channels."""

    groups: int
    epsilon: float

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        groups = math.gcd(self.groups, x.shape[-1])
        return nn.GroupNorm(groups, epsilon=self.epsilon, name="group")(x)


class LocalResponseNorm(nn.Module):
    """Divides by the energy of neighbouring channels; no parameters."""

    k: float
    n: int
    alpha: float
    beta: float

    def __call__(self, x: Array, train: bool = False) -> Array:
        # y_i = x_i / (k + alpha sum_{|j - i| <= n/2} x_j^2)^beta
        wider = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        window = (1,) * (x.ndim - 1) + (self.n,)
        energy = lax.reduce_window(wider**2, 0.0, lax.add, window, (1,) * x.ndim, "SAME")
        return (wider * (self.k + self.alpha * energy) ** -self.beta).astype(x.dtype)


class BatchRenorm(nn.Module):
    """Batch norm corrected towards its running statistics, so that training sees inference's."""

    momentum: float
    epsilon: float
    r_max: float
    d_max: float

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        c = x.shape[-1]
        mean = self.variable("batch_stats", "mean", jnp.zeros, (c,), jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, (c,), jnp.float32)
        scale = self.param("scale", nn.initializers.ones, (c,))
        bias = self.param("bias", nn.initializers.zeros, (c,))
        axes, channels = tuple(range(x.ndim - 1)), (1,) * (x.ndim - 1) + (c,)
        wide, m, v = x.astype(jnp.float32), mean.value, var.value
        if train:
            m, v = wide.mean(axes), wide.var(axes)
            deviation = jnp.sqrt(var.value + self.epsilon)
            # r = clip(sigma_B / sigma), d = clip((mu_B - mu) / sigma), both constants to gradients
            r = jnp.clip(jnp.sqrt(v + self.epsilon) / deviation, 1 / self.r_max, self.r_max)
            d = jnp.clip((m - mean.value) / deviation, -self.d_max, self.d_max)
            r, d = lax.stop_gradient((r, d))
            if not self.is_initializing():
                mean.value = self.momentum * mean.value + (1 - self.momentum) * m
                var.value = self.momentum * var.value + (1 - self.momentum) * v
        else:
            r, d = jnp.ones(c), jnp.zeros(c)
        # y = ((x - mu_B) / sigma_B r + d) gamma + beta
        factor = r * lax.rsqrt(v + self.epsilon)
        y = (wide - m.reshape(channels)) * factor.reshape(channels) + d.reshape(channels)
        return (y.astype(x.dtype) * scale.reshape(channels) + bias.reshape(channels)).astype(
            x.dtype
        )


class Identity(nn.Module):
    """No normalisation."""

    def __call__(self, x: Array, train: bool) -> Array:
        return x


@register("norms", "batch")
def batch_norm(name: str, /, *, momentum: Rate = 0.9, epsilon: Positive = 1e-5) -> nn.Module:
    """Statistics of the whole batch, over all devices. https://arxiv.org/abs/1502.03167

    Args:
        name: of the layer.
        momentum: fraction of the running statistics that a step keeps.
        epsilon: added to the variance.
    """
    return BatchNorm(momentum=momentum, epsilon=epsilon, name=name)


@register("norms", "sync_batch")
def sync_batch_norm(
    name: str, /, *, axis_name: str = "data", momentum: Rate = 0.9, epsilon: Positive = 1e-5
) -> nn.Module:
    """Batch norm that sums over a named axis, under `vmap`, `pmap` or `shard_map`.

    The sharded step needs no such thing: its batch is one array, so `batch` sees all of it.
    """
    return BatchNorm(momentum=momentum, epsilon=epsilon, axis_name=axis_name, name=name)


@register("norms", "batch_renorm")
def batch_renorm(
    name: str,
    /,
    *,
    momentum: Rate = 0.99,
    epsilon: Positive = 1e-3,
    r_max: Annotated[float, msgspec.Meta(ge=1)] = 3.0,
    d_max: NonNegative = 5.0,
) -> nn.Module:
    """Batch norm for small batches, corrected by r and d. https://arxiv.org/abs/1702.03275

    r_max = 1 with d_max = 0 is batch norm; the paper begins there for 5k steps or more.
    """
    return BatchRenorm(momentum, epsilon, r_max, d_max, name=name)


@register("norms", "layer")
def layer_norm(name: str, /, *, epsilon: Positive = 1e-6) -> nn.Module:
    """Over the channels of each position. https://arxiv.org/abs/1607.06450"""
    return LayerNorm(epsilon=epsilon, name=name)


@register("norms", "rms")
def rms_norm(name: str, /, *, epsilon: Positive = 1e-6) -> nn.Module:
    """Layer norm without the mean and the bias. https://arxiv.org/abs/1910.07467"""
    return RMSNorm(epsilon=epsilon, name=name)


@register("norms", "group")
def group_norm(name: str, /, *, groups: Count = 32, epsilon: Positive = 1e-5) -> nn.Module:
    """Over positions and channels of a group, example by example. https://arxiv.org/abs/1803.08494"""
    return GroupNorm(groups, epsilon, name=name)


@register("norms", "instance")
def instance_norm(name: str, /, *, epsilon: Positive = 1e-5) -> nn.Module:
    """Over positions, channel by channel: a map of 1x1 becomes 0. https://arxiv.org/abs/1607.08022"""
    return InstanceNorm(epsilon=epsilon, name=name)


@register("norms", "local_response")
def local_response_norm(
    name: str,
    /,
    *,
    k: Positive = 2.0,
    n: Count = 5,
    alpha: NonNegative = 1e-4,
    beta: Positive = 0.75,
) -> nn.Module:
    """Over n neighbouring channels, by the sum of squares. https://papers.nips.cc/paper/4824

    Krizhevsky, Sutskever, Hinton 2012, section 3.3. Caffe and PyTorch divide
    alpha by n; the paper does not.
    """
    return LocalResponseNorm(k, n, alpha, beta, name=name)


@register("norms", "none")
def no_norm(name: str, /) -> nn.Module:
    """No normalisation at all."""
    return Identity(name=name)


def keep_statistics(kept: Collection[str]) -> Callable:
    """An interceptor, under which batch norms in training read their running statistics.

    Args:
        kept: paths of these norms, such as 'backbone/norm1'.
    """

    def intercept(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        module = context.module
        is_norm = isinstance(module, BatchNorm | BatchRenorm) and len(args) == 2
        if is_norm and "/".join(module.path) in kept:
            args = (args[0], False)
        return call(*args, **kwargs)

    return intercept


def frozen_norms(params: PyTree, statistics: PyTree, pattern: str) -> set[str]:
    """Paths of norms with running statistics, all of whose parameters are frozen.

    Args:
        params: of the model.
        statistics: of the model.
        pattern: regular expression on whole paths of parameters; of a norm without parameters it
            is to match the paths of the statistics.
    """

    def layers(values: PyTree) -> dict[str, bool]:
        """Path of a layer to whether all its leaves match."""
        matches: dict[str, bool] = {}
        for path, does_match in tree.flatten(tree.select(values, pattern)).items():
            layer = path.rpartition("/")[0]
            matches[layer] = matches.get(layer, True) and does_match
        return matches

    learned = layers(params)
    return {norm for norm, match in layers(statistics).items() if learned.get(norm, match)}


def average_statistics(fraction: Array) -> Callable:
    """An interceptor, under which batch norms' running statistics move by `fraction` to a batch's.

    With fractions 1, 1/2, 1/3, ... they end at the mean over these batches, whatever their
    momentum.
    """

    def intercept(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        module = context.module
        if not isinstance(module, BatchNorm | BatchRenorm):
            return call(*args, **kwargs)
        usual = module.momentum
        object.__setattr__(module, "momentum", 1 - fraction)
        try:
            return call(*args, **kwargs)
        finally:
            object.__setattr__(module, "momentum", usual)

    return intercept
