"""Attention Is All You Need. Vaswani, Shazeer, Parmar, Uszkoreit, Jones, Gomez et al. 2017.

https://arxiv.org/abs/1706.03762. Differs from the paper: projections have biases, as in its
authors' later code and in PyTorch, and dropout acts on the weights as well.

`jax.nn.dot_product_attention` is not used: its logits are float32 whatever the input, so that
under bfloat16 two products of its backward pass run in float32, at a fraction of the speed; and
it neither returns weights nor drops them.
"""

import math
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Initializer

from jaxdl.errors import UserError
from jaxdl.nn.flash import flash_attention
from jaxdl.types import Array

Attend = Literal["plain", "flash"]
"""How: 'plain' has the weights in memory, 'flash' never (`nn/flash.py`)."""


def attention_weights(
    query: Array, key: Array, mask: Array | None = None, bias: Array | None = None
) -> Array:
    """Attention weights of each query over keys: (b, t, n, h), (b, s, n, h) -> (b, n, t, s).

    Args:
        query: n heads of h numbers at t places.
        key: the same at s places.
        mask: of rank 4, broadcast to (b, n, t, s); False hides a key. A query that sees none reads
            all alike.
        bias: of rank 4, broadcast to (b, n, t, s), added to the logits.

    Returns:
        Rows that sum to 1, in the type of `query`; the softmax itself is float32.
    """
    # A = softmax(Q K^T / sqrt(h))
    query = query * (1 / math.sqrt(query.shape[-1]))
    logits = jnp.einsum("btnh,bsnh->bnts", query, key)
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    if bias is not None:
        logits = logits + bias
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(logits.dtype).min)
    return jax.nn.softmax(logits, axis=-1).astype(query.dtype)


def attend(weights: Array, value: Array) -> Array:
    """Means of the values: (b, n, t, s), (b, s, n, h) -> (b, t, n, h)."""
    # Y = A V
    return jnp.einsum("bnts,bsnh->btnh", weights, value)


def dot_product_attention(
    query: Array, key: Array, value: Array, mask: Array | None = None, bias: Array | None = None
) -> Array:
    """(b, t, n, h), (b, s, n, h) twice -> (b, t, n, h); see `attention_weights`."""
    return attend(attention_weights(query, key, mask, bias), value)


def causal_mask(t: int) -> Array:
    """(1, 1, t, t): a place sees itself and what is before it."""
    return jnp.tril(jnp.ones((1, 1, t, t), bool))


class MultiHeadAttention(nn.Module):
    """Attention of x to itself or to a source: (b, t, d)[, (b, s, d')] -> (b, t, d).

    Weights (b, n, t, s), before dropout, are sown as 'attention_weights' into the collection
    'intermediates' wherever that is mutable; there, attention is plain.

    Attributes:
        heads: n; each has d / n numbers.
        causal: hides what comes later.
        drop_rate: of the weights.
        use_bias: of all projections.
        kernel_init: of all projections; it sees them as matrices.
        attend: 'plain', or 'flash', which drops no weights, and takes a mask of keys and no bias.
    """

    heads: int
    causal: bool = False
    drop_rate: float = 0.0
    use_bias: bool = True
    kernel_init: Initializer = nn.initializers.xavier_uniform()
    attend: Attend = "plain"

    @nn.compact
    def __call__(
        self,
        x: Array,
        source: Array | None = None,
        mask: Array | None = None,
        bias: Array | None = None,
        train: bool = False,
    ) -> Array:
        width = x.shape[-1]
        if width % self.heads:
            raise UserError(f"a width of {width} does not divide into {self.heads} heads")
        head = (self.heads, width // self.heads)
        dense = lambda features, name, axis=-1: nn.DenseGeneral(
            features, axis, use_bias=self.use_bias, kernel_init=self.kernel_init, name=name
        )
        if source is None:
            query, key, value = jnp.moveaxis(dense((3, *head), "qkv")(x), -3, 0)
        else:
            query = dense(head, "query")(x)
            key, value = jnp.moveaxis(dense((2, *head), "key_value")(source), -3, 0)
        if self.attend == "flash":
            self._refuse(mask, bias)
            if not self.is_mutable_collection("intermediates"):
                visible = None if mask is None else mask[:, 0, 0]
                means = flash_attention(query, key, value, visible, self.causal)
                return dense(width, "out", (-2, -1))(means)
        if self.causal:
            earlier = causal_mask(x.shape[-2])
            mask = earlier if mask is None else earlier & mask
        weights = attention_weights(query, key, mask, bias)
        if self.is_mutable_collection("intermediates"):
            self.sow("intermediates", "attention_weights", weights)
        weights = nn.Dropout(self.drop_rate)(weights, deterministic=not train)
        return dense(width, "out", (-2, -1))(attend(weights, value))

    def _refuse(self, mask: Array | None, bias: Array | None) -> None:
        if self.drop_rate:
            raise UserError("attend='flash' has no weights to drop: set drop_attention=0")
        if bias is not None or (mask is not None and mask.shape[1:3] != (1, 1)):
            raise UserError("attend='flash' hides keys, not pairs of a query and a key")
