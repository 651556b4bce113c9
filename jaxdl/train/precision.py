"""Mixed precision: float32 parameters and losses around networks that compute in another type.

Mixed Precision Training. Micikevicius et al. 2017. https://arxiv.org/abs/1710.03740
bfloat16 keeps float32's exponent, so no loss scaling is needed.
"""

import jax
import jax.numpy as jnp

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def compute_dtype(precision: str) -> jnp.dtype:
    """The type networks compute in; 'auto' is bfloat16 on TPU and GPU and float32 on CPU.

    On CPU bfloat16 was measured slower for depthwise networks.
    """
    if precision == "auto":
        precision = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(DTYPES[precision])
