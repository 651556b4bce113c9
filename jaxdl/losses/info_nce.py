"""InfoNCE over a batch with labels: which of all the others is of the anchor's class?

Supervised Contrastive Learning. Khosla, Teterwak, Wang, Sarna, Tian, Isola, Maschinot, Liu,
Krishnan 2020. https://arxiv.org/abs/2004.11362 (equation 2, the sum outside the logarithm)
Where every label comes twice, as that of two views of one image, it is SimCLR's NT-Xent:
https://arxiv.org/abs/2002.05709
"""

import jax
import jax.numpy as jnp

from jaxdl.config import Positive
from jaxdl.losses.pairs import mean_where, pairs, products, unit, valid
from jaxdl.registry import register
from jaxdl.types import Array


@register("embedding_losses")
def info_nce(
    features: Array, label: Array, weight: Array, /, *, temperature: Positive = 0.1
) -> Array:
    """Cross-entropy of naming an anchor's positives among all others of the batch.

    -log(exp s_ip / sum_{a != i} exp s_ia), s the cosines over the temperature.

    Args:
        features: (b, d) of any length: cosines see directions alone.
        label: (b,) integers.
        weight: (b,), 0 for an example that counts for nothing.
        temperature: the paper's is 0.1.

    Returns:
        (b,) float32, for each anchor the mean over its positives p; 0 where it has none.
    """
    s = products(unit(valid(features, weight))) / temperature
    same, other = pairs(label, weight)
    # An anchor without a pair sums over all, so that nothing is infinite; nobody reads it.
    others = same | other
    others = others | ~jnp.any(others, axis=1, keepdims=True)
    log_z = jax.nn.logsumexp(s, axis=1, keepdims=True, where=others)
    return mean_where(log_z - s, same)
