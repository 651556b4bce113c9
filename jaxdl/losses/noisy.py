"""Losses that wrong labels disturb less than they disturb cross-entropy."""

import math
from typing import Annotated

import jax
import jax.numpy as jnp
import msgspec

from jaxdl.config import NonNegative
from jaxdl.losses.cross_entropy import cross_entropy
from jaxdl.losses.label import as_targets
from jaxdl.registry import register
from jaxdl.types import Array


@register("losses", target=("classes", "soft"))
def generalized_cross_entropy(
    logits: Array, label: Array, /, *, q: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.7
) -> Array:
    """Generalized cross-entropy, which no wrong label makes larger than 1 / q.

    sum_k t_k (1 - p_k^q) / q with p = softmax(logits).
    Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels. Zhang,
    Sabuncu 2018. https://arxiv.org/abs/1805.07836 (equation 6, not truncated)

    Args:
        logits: (b, k).
        label: (b,) integers, or (b, k) probabilities.
        q: 1 is half the absolute error; towards 0 it becomes cross-entropy.

    Returns:
        (b,) float32.
    """
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    return jnp.sum(as_targets(logits, label) * -jnp.expm1(q * log_p) / q, axis=-1)


@register("losses", target=("classes", "soft"))
def symmetric_cross_entropy(
    logits: Array,
    label: Array,
    /,
    *,
    alpha: NonNegative = 0.1,
    beta: NonNegative = 1.0,
    log_zero: Annotated[float, msgspec.Meta(lt=0)] = -4.0,
) -> Array:
    """Cross-entropy and its reverse, which is bounded.

    alpha H(q, p) + beta H(p, q) with p = softmax(logits), in nats.
    Symmetric Cross Entropy for Robust Learning with Noisy Labels. Wang, Ma, Chen, Luo, Yi, Bailey
    2019. https://arxiv.org/abs/1908.06112

    Args:
        logits: (b, k).
        label: q, (b,) integers, or (b, k) probabilities.
        alpha: weight of cross-entropy; the paper's, 0.1 for CIFAR-10 and 6 for CIFAR-100.
        beta: weight of the reverse; the paper's, 1 and 0.1.
        log_zero: what stands for log q_k where q_k is 0, and the least that it can be.

    Returns:
        (b,) float32.
    """
    p = jax.nn.softmax(logits.astype(jnp.float32))
    log_q = jnp.log(jnp.maximum(as_targets(logits, label), math.exp(log_zero)))
    return alpha * cross_entropy(logits, label) - beta * jnp.sum(p * log_q, axis=-1)
