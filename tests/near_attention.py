"""An attention of one's own, as a user would write it: what is near counts for more."""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Initializer

from jaxdl.nn.attention import attention_weights, causal_mask, scaled_products, weighted_values
from jaxdl.nn.capture import handed_out
from jaxdl.registry import register


class NearAttention(nn.Module):
    heads: int
    causal: bool
    kernel_init: Initializer
    slope: float

    @nn.compact
    def __call__(self, x, source=None, mask=None, train=False):
        source = x if source is None else source
        t, s, width = x.shape[1], source.shape[1], x.shape[-1]
        dense = partial(nn.DenseGeneral, kernel_init=self.kernel_init)
        query = dense((self.heads, width // self.heads), name="query")(x)
        pair = dense((2, self.heads, width // self.heads), name="key_value")(source)
        distance = jnp.abs(jnp.arange(t)[:, None] - jnp.arange(s)[None])[None, None]
        logits = lambda q, k: scaled_products(q, k) - self.slope * distance
        if self.causal:
            mask = causal_mask(t) if mask is None else mask & causal_mask(t)
        weights = attention_weights(query, pair[:, :, 0], mask, logits)
        weights = handed_out(self, "attention_weights", weights)
        return dense(width, (-2, -1), name="out")(weighted_values(weights, pair[:, :, 1]))


@register("attentions")
def near(heads: int, causal: bool, kernel_init: Initializer, name: str, /, *, slope: float = 1.0):
    """-|i - j| is added to the logits."""
    return NearAttention(heads, causal, kernel_init, slope, name=name)
