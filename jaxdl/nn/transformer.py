"""The block of the transformers, as in https://arxiv.org/abs/1706.03762.

With the norm before each branch instead of after each sum it needs no warm-up: On Layer
Normalization in the Transformer Architecture. Xiong et al. 2020. https://arxiv.org/abs/2002.04745
"""

from collections.abc import Callable

import flax.linen as nn
from flax.typing import Initializer

from jaxdl.nn.activation import gelu
from jaxdl.nn.attention import attention_layer, full
from jaxdl.nn.drop import DropPath
from jaxdl.nn.mlp import MlpBlock
from jaxdl.nn.norm import layer_norm
from jaxdl.types import Array


class TransformerBlock(nn.Module):
    """Self-attention, attention to a source if there is one, two dense layers: (b, t, d) -> same.

    Attributes:
        heads: of the attention.
        hidden: numbers between the dense layers.
        activation: between the dense layers.
        norm: (name) -> layer, one of the `norms`.
        placement: 'pre', before each branch, or 'post', after each sum.
        causal: whether a place sees only itself and what is before it.
        drop_rate: of each branch, and between the dense layers.
        drop_attention: of the attention weights.
        kernel_init: of all kernels.
        attention: builds its attentions, one of the `attentions`.
    """

    heads: int
    hidden: int
    activation: Callable[[Array], Array] = gelu
    norm: Callable[[str], nn.Module] = layer_norm
    placement: str = "pre"
    causal: bool = False
    drop_rate: float = 0.0
    drop_attention: float = 0.0
    kernel_init: Initializer = nn.initializers.xavier_uniform()
    attention: Callable[..., nn.Module] = full

    @nn.compact
    def __call__(
        self,
        x: Array,
        train: bool,
        *,
        mask: Array | None = None,
        source: Array | None = None,
        source_mask: Array | None = None,
        path_rate: Array | None = None,
    ) -> Array:
        """The next x.

        Args:
            x: (b, t, d).
            train: whether dropout acts.
            mask: broadcast to (b, n, t, t), of the self-attention.
            source: (b, s, d'), what else is attended to.
            source_mask: broadcast to (b, n, t, s).
            path_rate: probability that a branch is dropped; a scan may give it.
        """
        init = self.kernel_init

        def add(x: Array, norm: str, branch: Callable[[Array], Array]) -> Array:
            # pre: y = x + F(N(x));  post: y = N(x + F(x))
            pre = self.placement == "pre"
            y = branch(self.norm(norm)(x, train) if pre else x)
            if path_rate is not None:
                y = DropPath()(y, train, path_rate)
            return x + y if pre else self.norm(norm)(x + y, train)

        def attend(x: Array, name: str, causal: bool, *read: Array | None) -> Array:
            layer = attention_layer(
                self.attention,
                heads=self.heads,
                causal=causal,
                drop_rate=self.drop_attention,
                kernel_init=init,
                name=name,
            )
            return nn.Dropout(self.drop_rate)(layer(x, *read, train=train), not train)

        mlp = MlpBlock(self.hidden, self.activation, self.drop_rate, init, name="mlp")
        x = add(x, "norm1", lambda x: attend(x, "attention", self.causal, None, mask))
        if source is not None:
            other = lambda x: attend(x, "source_attention", False, source, source_mask)
            x = add(x, "source_norm", other)
        return add(x, "norm2", lambda x: mlp(x, train))
