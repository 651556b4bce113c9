"""Blocks that are computed again in the backward pass, instead of keeping what they made.

Training Deep Nets with Sublinear Memory Cost. Chen, Xu, Zhang, Guestrin 2016.
https://arxiv.org/abs/1604.06174

A block is a child of the backbone, or one turn of a scan. What is kept between the passes is what
blocks read, and what the policy names. XLA's CPU compiler finds the repeated work and merges it
again, except inside a scan; on GPU and TPU it stays.
"""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax

from jaxdl.nn.stack import STACKED, rolled

Policy = Literal["blocks", "products"]
"""'blocks' keeps nothing inside a block; 'products' keeps what its matrix products and
convolutions gave, and computes norms and activations again."""


def _is_product(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive.name in ("dot_general", "conv_general_dilated")


POLICIES = {"blocks": None, "products": _is_product}


def is_block(module: nn.Module) -> bool:
    """True for a bound module that is one of a backbone's blocks."""
    path = module.path
    inside = len(path) > 1 and path[0] == "backbone"
    return inside and (path[-1] == STACKED or len(path) == 2 and not hasattr(module, "has_blocks"))


def rematerialize(policy: Policy) -> Callable:
    """An interceptor (for `nn.intercept_methods`) that makes the blocks of any model compute twice.

    Args:
        policy: what is kept inside a block all the same.
    """
    active: list[tuple[str, ...]] = []

    def intercept(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        module = context.module
        outside = context.method_name != "__call__" or not module.path
        if outside or not is_block(module) or module.path in active:
            with rolled(True):
                return call(*args, **kwargs)
        leaves, treedef = jax.tree.flatten((args, kwargs))
        is_array = [isinstance(x, jax.Array) for x in leaves]

        def block(module: nn.Module, *arrays: jax.Array) -> Any:
            given = iter(arrays)
            filled = [next(given) if a else x for x, a in zip(leaves, is_array, strict=True)]
            args, kwargs = jax.tree.unflatten(treedef, filled)
            active.append(module.path)
            try:
                return module(*args, **kwargs)
            finally:
                active.remove(module.path)

        arrays = [x for x, a in zip(leaves, is_array, strict=True) if a]
        return nn.remat(block, policy=POLICIES[policy])(module, *arrays)

    return intercept
