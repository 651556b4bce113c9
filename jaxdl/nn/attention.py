"""Attention Is All You Need. Vaswani, Shazeer, Parmar, Uszkoreit, Jones, Gomez et al. 2017.

https://arxiv.org/abs/1706.03762. Differs from the paper: projections have biases, as in its
authors' later code and in PyTorch, and dropout acts on the weights as well.

`jax.nn.dot_product_attention` is not used: its logits are float32 whatever the input, so that
under bfloat16 two products of its backward pass run in float32, at a fraction of the speed; and
it neither returns weights nor drops them.

Kinds of attention differ in one value, which a `TransformerBlock` is given; see `attention_layer`.
"""

import math
from collections.abc import Callable
from typing import Annotated

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Initializer

from jaxdl.errors import UserError
from jaxdl.nn.capture import handed_out, is_asked
from jaxdl.registry import Of, register, supplied, supply
from jaxdl.types import Array

Attention = Annotated[Callable[..., nn.Module], Of("attentions")]
"""Builds the attention of a block; see `attention_layer`."""


def scaled_products(query: Array, key: Array) -> Array:
    """Q K^T / sqrt(h): (b, t, n, h), (b, s, n, h) -> (b, n, t, s), float32 or wider."""
    query = query * (1 / math.sqrt(query.shape[-1]))
    logits = jnp.einsum("btnh,bsnh->bnts", query, key)
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))


def attention_weights(
    query: Array,
    key: Array,
    mask: Array | None = None,
    logits: Callable[[Array, Array], Array] = scaled_products,
) -> Array:
    """Attention weights of each query over keys: (b, t, n, h), (b, s, n, h) -> (b, n, t, s).

    Args:
        query: n heads of h numbers at t places.
        key: the same at s places.
        mask: of rank 4, broadcast to (b, n, t, s); False hides a key. A query that sees none reads
            all alike.
        logits: of queries and keys.

    Returns:
        Rows that sum to 1, in the type of `query`; the softmax itself is float32.
    """
    # A = softmax(Q K^T / sqrt(h))
    products = logits(query, key)
    if mask is not None:
        products = jnp.where(mask, products, jnp.finfo(products.dtype).min)
    return jax.nn.softmax(products, axis=-1).astype(query.dtype)


def weighted_values(weights: Array, value: Array) -> Array:
    """Means of the values: (b, n, t, s), (b, s, n, h) -> (b, t, n, h)."""
    # Y = A V
    return jnp.einsum("bnts,bsnh->btnh", weights, value)


def dot_product_attention(
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None = None,
    logits: Callable[[Array, Array], Array] = scaled_products,
) -> Array:
    """(b, t, n, h), (b, s, n, h) twice -> (b, t, n, h); see `attention_weights`."""
    return weighted_values(attention_weights(query, key, mask, logits), value)


def causal_mask(t: int) -> Array:
    """(1, 1, t, t): a place sees itself and what is before it."""
    return jnp.tril(jnp.ones((1, 1, t, t), bool))


class MultiHeadAttention(nn.Module):
    """Attention of x to itself or to a source: (b, t, d)[, (b, s, d')] -> (b, t, d).

    Weights (b, n, t, s), before dropout, are handed out as 'attention_weights'.

    Attributes:
        heads: n; each has d / n numbers.
        causal: hides what comes later.
        drop_rate: of the weights.
        use_bias: of all projections.
        kernel_init: of all projections; it sees them as matrices.
        logits: (query, key) -> (b, n, t, s), a function or a layer, float32 or wider.
        means: (query, key, value, mask, causal) -> (b, t, n, h), which does without the weights
            wherever nobody asks for them; it drops none.
    """

    heads: int
    causal: bool = False
    drop_rate: float = 0.0
    use_bias: bool = True
    kernel_init: Initializer = nn.initializers.xavier_uniform()
    logits: Callable[[Array, Array], Array] = scaled_products
    means: Callable[..., Array] | None = None

    @nn.compact
    def __call__(
        self,
        x: Array,
        source: Array | None = None,
        mask: Array | None = None,
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
        if self.means is not None and not is_asked(self):
            means = self.means(query, key, value, mask, self.causal)
            return dense(width, "out", (-2, -1))(means)
        if self.causal:
            earlier = causal_mask(x.shape[-2])
            mask = earlier if mask is None else earlier & mask
        weights = attention_weights(query, key, mask, self.logits)
        weights = handed_out(self, "attention_weights", weights)
        weights = nn.Dropout(self.drop_rate)(weights, deterministic=not train)
        return dense(width, "out", (-2, -1))(weighted_values(weights, value))


@register("attentions")
def full(
    heads: int, causal: bool, drop_rate: float, kernel_init: Initializer, name: str, /
) -> nn.Module:
    """Every place reads every other, with the weights in memory. https://arxiv.org/abs/1706.03762

    Args:
        heads: n, which divides the width.
        causal: whether a place sees only itself and what is before it.
        drop_rate: of the weights.
        kernel_init: of the projections.
        name: of the layer.
    """
    return MultiHeadAttention(heads, causal, drop_rate, kernel_init=kernel_init, name=name)


def attention_layer(
    build: Callable[..., nn.Module],
    *,
    heads: int,
    causal: bool,
    drop_rate: float,
    kernel_init: Initializer,
    name: str,
) -> nn.Module:
    """The layer of one of the `attentions`, given what it asks for by name.

    It is called as (x, source, mask, train): x (b, t, d), a source (b, s, d') or None for x itself,
    a mask that broadcasts to (b, n, t, s) where False hides, or None; and gives (b, t, d). Kernels
    of its projections have the names and axes that `nn/layout.py` and `optim/matrices.py` know, and
    it hands out its weights (b, n, t, s) as 'attention_weights'.

    Args:
        build: of the layer; what it does not declare it cannot do.
        heads: n.
        causal: whether a place sees only itself and what is before it.
        drop_rate: of the weights.
        kernel_init: of the projections.
        name: of the layer.

    Raises:
        UserError: it is to hide what comes later, or to drop weights, and cannot.
    """
    asked = supplied(build)
    if drop_rate and "drop_rate" not in asked:
        raise UserError(f"{_name(build)} has no weights to drop: set drop_attention=0")
    if causal and "causal" not in asked:
        raise UserError(f"{_name(build)} sees what comes later: it is not for a decoder")
    offered = {"heads": heads, "causal": causal, "drop_rate": drop_rate}
    return supply(build, **offered, kernel_init=kernel_init, name=name)


def _name(build: Callable[..., nn.Module]) -> str:
    return f"attention '{getattr(build, 'func', build).__name__}'"
