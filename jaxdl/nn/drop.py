"""Dropout and its kin: numbers, channels, blocks of a map, whole residual branches.

`rate` is the probability of dropping throughout, and the expectation is kept: what stays is scaled
up in training, so that inference changes nothing. (In the notation of 2014 p is that of keeping.)
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdl.config import Count
from jaxdl.nn.attention import MultiHeadAttention
from jaxdl.registry import register
from jaxdl.types import Array

Drop = Callable[[Array, Array, float], Array]
"""(key, x, rate) -> an array like x, with `rate` in [0, 1)"""


def _masked(key: Array, x: Array, rate: float | Array, shape: tuple[int, ...]) -> Array:
    """Zeros where a mask of this shape, broadcast to x, says so."""
    keep = jax.random.bernoulli(key, 1 - rate, shape)
    # y = x * keep / (1 - p), so that the expectation of y is x
    return jnp.where(keep, x / jnp.asarray(1 - rate, x.dtype), jnp.zeros_like(x))


@register("dropouts")
def elementwise(key: Array, x: Array, rate: float, /) -> Array:
    """Dropout: each number of x (b, ...) is zero with probability `rate`.

    Dropout: A Simple Way to Prevent Neural Networks from Overfitting. Srivastava, Hinton,
    Krizhevsky, Sutskever, Salakhutdinov 2014. https://jmlr.org/papers/v15/srivastava14a.html
    """
    return _masked(key, x, rate, x.shape)


def _at_all_places(x: Array) -> tuple[int, ...]:
    return (x.shape[0],) + (1,) * (x.ndim - 2) + x.shape[-1:]


@register("dropouts")
def spatial(key: Array, x: Array, rate: float, /) -> Array:
    """Spatial dropout: whole channels of each example's map (b, h, w, c); numbers of a vector.

    Efficient Object Localization Using Convolutional Networks. Tompson, Goroshin, Jain, LeCun,
    Bregler 2014. https://arxiv.org/abs/1411.4280
    """
    return _masked(key, x, rate, _at_all_places(x))


@register("dropouts")
def shared(key: Array, x: Array, rate: float, /) -> Array:
    """One mask for all places of a sequence (b, t, d), so 'variational' dropout in one meaning.

    A Theoretically Grounded Application of Dropout in Recurrent Neural Networks. Gal, Ghahramani
    2015. https://arxiv.org/abs/1512.05287. It is what `spatial` does, said of time. The noise
    whose size is learned, which shares the name, is the regularizer `variational_dropout`.
    """
    return _masked(key, x, rate, _at_all_places(x))


@register("dropouts")
def drop_block(key: Array, x: Array, rate: float, /, *, block_size: Count = 7) -> Array:
    """Squares of a map (b, h, w, c), each channel's its own; of anything else, single numbers.

    DropBlock: A regularization method for convolutional networks. Ghiasi, Lin, Le 2018.
    https://arxiv.org/abs/1810.12890. Blocks lie wholly inside the map. Blocks overlap, so that
    somewhat less than `rate` is dropped. What stays is scaled to keep each example's sum of a
    constant map; the paper does so over the batch.

    Args:
        key: draws the blocks.
        x: (b, h, w, c).
        rate: fraction of the map that is dropped.
        block_size: side of a block; a smaller map is one block.
    """
    if x.ndim != 4:
        return elementwise(key, x, rate)
    b, h, w, c = x.shape
    high, wide = min(block_size, h), min(block_size, w)
    rows, columns = h - high + 1, w - wide + 1
    # gamma = p / s^2 * (h w) / ((h - s + 1)(w - s + 1)): probability that a block begins here
    gamma = rate * (h * w) / (high * wide * rows * columns)
    begins = jax.random.bernoulli(key, min(gamma, 1.0), (b, rows, columns, c))
    dropped = jax.lax.reduce_window(
        begins,
        False,
        jax.lax.bitwise_or,
        (1, high, wide, 1),
        (1, 1, 1, 1),
        ((0, 0), (high - 1, high - 1), (wide - 1, wide - 1), (0, 0)),
    )
    # y = x M count(M) / count_ones(M)
    left = jnp.sum(~dropped, axis=(1, 2, 3), keepdims=True, dtype=jnp.float32)
    scale = (h * w * c / jnp.maximum(left, 1.0)).astype(x.dtype)
    return jnp.where(dropped, jnp.zeros_like(x), x * scale)


@register("dropouts")
def gaussian(key: Array, x: Array, rate: float, /) -> Array:
    """Each number times 1 + N(0, rate / (1 - rate)): the variance of dropout, and nothing is zero.

    Section 10 of https://jmlr.org/papers/v15/srivastava14a.html
    """
    noise = jax.random.normal(key, x.shape, x.dtype)
    return x * (1 + (rate / (1 - rate)) ** 0.5 * noise)


def drop_path(branch: Array, rate: float | Array, key: Array) -> Array:
    """Zero the branch of whole examples with probability `rate`, scale up those that stay.

    Deep Networks with Stochastic Depth. Huang, Sun, Liu, Sedra, Weinberger 2016.
    https://arxiv.org/abs/1603.09382. As in later practice, survivors are scaled up in training
    rather than scaled down in inference, and each example of a batch drops on its own.

    Args:
        branch: (b, ...).
        rate: in [0, 1), a number or a float32 scalar, as in a scan over blocks.
        key: one for all examples.
    """
    return _masked(key, branch, rate, branch.shape[:1] + (1,) * (branch.ndim - 1))


class DropPath(nn.Module):
    """Drop a residual branch, a whole example at a time, with probability `drop_rate`."""

    drop_rate: float = 0.0

    @nn.compact
    def __call__(self, branch: Array, train: bool = False, rate: Array | None = None) -> Array:
        """(b, ...) -> the same; `rate`, a float32 scalar, takes the place of `drop_rate`."""
        if not train or (rate is None and self.drop_rate == 0):
            return branch
        rate = self.drop_rate if rate is None else rate
        return drop_path(branch, rate, self.make_rng("dropout"))


def replace_dropout(drop: Drop = elementwise, *, always: bool = False) -> Callable[..., Any]:
    """An interceptor for `nn.intercept_methods`, under which every `nn.Dropout` drops by `drop`.

    Each layer keeps its rate, and draws from the key that it would have drawn from. Attention
    weights (b, n, t, s) have neither places nor channels: they drop elementwise.

    Args:
        drop: one of the `dropouts`.
        always: whether they, and `DropPath`, drop in inference too.
    """

    def intercept(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        module = context.module
        if context.method_name != "__call__" or not isinstance(module, nn.Dropout | DropPath):
            return call(*args, **kwargs)
        if isinstance(module, DropPath):
            return _path(call, *args, **kwargs)
        of_attention = isinstance(module.parent, MultiHeadAttention)
        return _drop(module, elementwise if of_attention else drop, *args, **kwargs)

    def _path(call: Callable, branch: Array, train: bool = False, rate: Array | None = None):
        return call(branch, train or always, rate)

    def _drop(
        module: nn.Dropout,
        drop: Drop,
        inputs: Array,
        deterministic: bool | None = None,
        rng: Array | None = None,
    ) -> Array:
        still = not always and nn.merge_param("deterministic", module.deterministic, deterministic)
        if still or module.rate == 0:
            return inputs
        key = module.make_rng(module.rng_collection) if rng is None else rng
        return drop(key, inputs, module.rate)

    return intercept
