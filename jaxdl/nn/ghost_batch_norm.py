"""Batch statistics of a part of the batch: ghost batch normalisation.

Train longer, generalize better: closing the generalization gap in large batch training of neural
networks. Hoffer, Hubara, Soudry 2017. https://arxiv.org/abs/1705.08741. Differs from the paper:
the running statistics move once a step, by the mean over the parts, not once for each part.

With a part for each device no statistics travel, which is what data parallel training without
synchronised batch norms does.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax

from jaxdl.errors import UserError
from jaxdl.nn.norm import BatchNorm, BatchRenorm


def ghost_batch_norm(parts: int) -> Callable:
    """An interceptor, under which batch norms in training see `parts` of the batch, each alone.

    Args:
        parts: equal runs of neighbours along the batch's axis.
    """

    def intercept(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        module = context.module
        if isinstance(module, BatchRenorm):
            raise UserError("norm 'batch_renorm' has statistics of the whole batch only")
        # Flax's own call, inside that of BatchNorm, has one argument.
        in_training = isinstance(module, BatchNorm) and len(args) == 2 and args[1]
        if not in_training or module.is_initializing():
            return call(*args, **kwargs)
        x = args[0]
        own = x.reshape(parts, -1, *x.shape[1:])
        wide = own.astype(jnp.promote_types(x.dtype, jnp.float32))
        axes = tuple(range(1, own.ndim - 1))
        mean, var = wide.mean(axes, keepdims=True), wide.var(axes, keepdims=True)
        for name, values in (("mean", mean), ("var", var)):
            # running = m running + (1 - m) mean over the parts
            before, c = module.get_variable("batch_stats", name), x.shape[-1]
            after = module.momentum * before + (1 - module.momentum) * values.mean(0).reshape(c)
            module.put_variable("batch_stats", name, after)
        # y = (x - mu_g) / sqrt(var_g + eps) gamma + beta, in part g
        channels = (1,) * (own.ndim - 1) + (x.shape[-1],)
        learned = {n: module.get_variable("params", n) for n in ("scale", "bias")}
        y = (wide - mean) * lax.rsqrt(var + module.epsilon)
        if learned["scale"] is not None:
            y = y * learned["scale"].reshape(channels)
        if learned["bias"] is not None:
            y = y + learned["bias"].reshape(channels)
        return y.astype(x.dtype).reshape(x.shape)

    return intercept
