"""Mixed precision: float32 parameters and losses around networks that compute in another type.

Mixed Precision Training. Micikevicius et al. 2017. https://arxiv.org/abs/1710.03740
Norms' statistics, softmax, losses and reductions are float32 under every policy. bfloat16 keeps
float32's exponent, so it needs no loss scaling; float16 does.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdl.config import Count, Duration, Factor, Positive
from jaxdl.errors import UserError
from jaxdl.registry import register
from jaxdl.types import Array


class LossScale(NamedTuple):
    """Rule of a dynamic loss scale, bounded to [minimum, maximum]."""

    initial: float
    growth: float = 2.0
    interval: int | None = None
    """Steps without an overflow after which it grows; None where it stands still."""
    minimum: float = 1.0
    maximum: float = 2.0**24


class Scale(NamedTuple):
    """The loss scale of a step, and the steps since it last changed."""

    value: Array
    good: Array


def first_scale(rule: LossScale) -> Scale:
    """The scale before the first step."""
    return Scale(jnp.float32(rule.initial), jnp.int32(0))


def next_scale(rule: LossScale, scale: Scale, finite: Array) -> Scale:
    """Smaller after a gradient that is not finite, larger after `interval` that were."""
    if rule.interval is None:
        return scale
    good = jnp.where(finite, scale.good + 1, 0)
    grows = good >= rule.interval
    # S = S * growth after `interval` finite steps, S / growth after an overflow
    moved = jnp.where(finite, jnp.where(grows, rule.growth, 1.0), 1 / rule.growth)
    value = jnp.clip(scale.value * moved, rule.minimum, rule.maximum)
    return Scale(value, jnp.where(grows, 0, good))


class Precision(NamedTuple):
    """Compute type of a network, and the step from which it is used."""

    dtype: jnp.dtype
    float32: str | None = None
    """Regular expression on the paths of modules that compute in float32 all the same."""
    start: int = 0
    """Steps that are computed in float32 before."""
    loss_scale: LossScale | None = None


@register("precisions")
def float32() -> Precision:
    """Everything in float32."""
    return Precision(jnp.dtype(jnp.float32))


@register("precisions")
def bfloat16(*, float32: str | None = None, start: Duration = 0) -> Precision:
    """Networks in bfloat16; no loss scaling is needed.

    Args:
        float32: regular expression on paths of modules, such as 'head(/.*)?', that stay float32.
        start: steps in float32 before.
    """
    return Precision(jnp.dtype(jnp.bfloat16), float32, start)


@register("precisions")
def auto(*, float32: str | None = None, start: Duration = 0) -> Precision:
    """bfloat16 on TPU and GPU, float32 on CPU, where it was measured slower.

    Args:
        float32: regular expression on paths of modules that stay float32.
        start: steps in float32 before.
    """
    dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    return Precision(jnp.dtype(dtype), float32, start)


@register("precisions")
def float16(
    *,
    float32: str | None = None,
    start: Duration = 0,
    scale: Positive = 2.0**15,
    dynamic: bool = True,
    growth: Factor = 2.0,
    interval: Count = 2000,
    minimum: Positive = 1.0,
    maximum: Positive = 2.0**24,
) -> Precision:
    """Networks in float16, losses scaled so that small gradients do not vanish.

    A step whose gradient overflows is skipped, and counted.

    Args:
        float32: regular expression on paths of modules that stay float32.
        start: steps in float32 before.
        scale: what multiplies the loss, at first or, where it is static, always.
        dynamic: divide it by `growth` after an overflow, multiply after `interval` finite steps.
        growth: above 1.
        interval: finite steps in a row until it grows.
        minimum: it never falls below.
        maximum: it never grows above.
    """
    if not minimum <= scale <= maximum:
        raise UserError(
            f"precision 'float16': scale {scale} is not in [minimum {minimum}, maximum {maximum}]"
        )
    rule = LossScale(scale, growth, interval if dynamic else None, minimum, maximum)
    return Precision(jnp.dtype(jnp.float16), float32, start, rule)
