"""Sharpness-aware minimization: descend by the gradient at the worst point nearby.

"Sharpness-Aware Minimization for Efficiently Improving Generalization", Foret, Kleiner, Mobahi,
Neyshabur, https://arxiv.org/abs/2010.01412; with `adaptive`, "ASAM: Adaptive Sharpness-Aware
Minimization for Scale-Invariant Learning of Deep Neural Networks", Kwon, Kim, Park, Choi,
https://arxiv.org/abs/2102.11600

What differs from the papers: the norm is that of the whole batch's gradient, however many devices
hold it, where the papers take one a device; and ASAM's code leaves biases as in SAM.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxdl.config import Positive
from jaxdl.registry import register
from jaxdl.types import Array, PyTree

ETA = 0.01
"""ASAM's eta: keeps a weight of zero from standing still."""


def ascend(params: PyTree, gradient: PyTree, rho: float, adaptive: bool = False) -> PyTree:
    """The parameters at the point, `rho` away, where a linear loss would be largest.

    The perturbation is computed in float32; a gradient of zero moves nothing.
    """

    def wide(x: Array) -> Array:
        return x.astype(jnp.float32)

    # T = |w| + eta (ASAM) or 1 (SAM)
    reach = jax.tree.map(lambda w: jnp.abs(wide(w)) + ETA if adaptive else 1.0, params)
    # e = rho T (T g) / ||T g||
    scaled = jax.tree.map(lambda t, g: t * wide(g), reach, gradient)
    length = rho / (optax.tree.norm(scaled) + 1e-12)
    return jax.tree.map(
        lambda w, t, g: (wide(w) + length * t * g).astype(w.dtype), params, reach, scaled
    )


@register("wrappers")
def sam(
    inner: optax.GradientTransformation, /, *, rho: Positive = 0.05, adaptive: bool = False
) -> optax.GradientTransformationExtraArgs:
    """Feed an optimizer the gradient of the perturbed parameters; two gradients a step.

    Its `update` needs the extra argument `grad_fn`: params -> gradient, on the same batch, dropout
    key and batch statistics as the gradient it is handed. It goes around everything else, so that
    clipping and weight decay see the second gradient.

    Args:
        inner: the optimizer, which sees the second gradient and the unperturbed parameters.
        rho: length of the perturbation; ASAM wants about 10 times SAM's.
        adaptive: scale the perturbation by the size of each weight (ASAM).
    """
    inner = optax.with_extra_args_support(inner)

    def update(
        updates: PyTree,
        state: PyTree,
        params: PyTree | None = None,
        *,
        grad_fn: Callable[[PyTree], PyTree] | None = None,
        **extra: Any,
    ) -> tuple[PyTree, PyTree]:
        if grad_fn is None or params is None:
            raise TypeError("sam: call update(gradient, state, params, grad_fn=params -> gradient)")
        gradient = grad_fn(ascend(params, updates, rho, adaptive))
        return inner.update(gradient, state, params, grad_fn=grad_fn, **extra)

    return optax.GradientTransformationExtraArgs(inner.init, update)
