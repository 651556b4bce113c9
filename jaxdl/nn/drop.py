"""Stochastic depth: Deep Networks with Stochastic Depth. Huang, Sun, Liu, Sedra, Weinberger 2016.

https://arxiv.org/abs/1603.09382. As in later practice, survivors are scaled up in training rather
than scaled down in inference, and each example of a batch drops on its own.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdl.types import Array


def drop_path(branch: Array, rate: float | Array, key: Array) -> Array:
    """Zero the branch of whole examples with probability `rate`, scale up those that stay.

    Args:
        branch: (b, ...).
        rate: in [0, 1), a number or a float32 scalar, as in a scan over blocks.
        key: one for all examples.
    """
    shape = (branch.shape[0],) + (1,) * (branch.ndim - 1)
    keep = jax.random.bernoulli(key, 1 - rate, shape)
    # y = x * keep / (1 - p), so that the expectation of y is x
    return jnp.where(keep, branch / jnp.asarray(1 - rate, branch.dtype), jnp.zeros_like(branch))


class DropPath(nn.Module):
    """Drop a residual branch, a whole example at a time, with probability `drop_rate`."""

    drop_rate: float = 0.0

    @nn.compact
    def __call__(self, branch: Array, train: bool = False) -> Array:
        if not train or self.drop_rate == 0:
            return branch
        return drop_path(branch, self.drop_rate, self.make_rng("dropout"))
