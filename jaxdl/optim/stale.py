"""Asynchronous updates, simulated: each gradient is applied some steps after it was taken.

Large Scale Distributed Deep Networks. Dean, Corrado, Monga, Chen, Devin, Mao et al. 2012.
https://papers.nips.cc/paper/4687 (Downpour SGD). Asynchronous Stochastic Gradient Descent with
Delay Compensation. Zheng, Meng, Wang, Chen, Yu, Ma, Liu 2017. https://arxiv.org/abs/1609.08326

Differs from the papers: the workers take turns, so that every gradient is equally old and a run
can be repeated; real workers' delays scatter around that.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxdl.config import Count, NonNegative
from jaxdl.registry import register
from jaxdl.types import Array, PyTree


class StaleState(NamedTuple):
    """Pending gradients, one row per simulated worker along a leading axis."""

    count: Array
    grads: PyTree
    params: PyTree | None
    """those that the gradients were taken at; None where nothing is compensated"""


@register("gradient_transforms")
def stale(*, workers: Count = 4, compensation: NonNegative = 0.0) -> optax.GradientTransformation:
    """Apply each gradient `workers - 1` steps late, as parameter servers do: see the file's head.

    In the first steps, before a worker has come back, the gradient is zero.

    Args:
        workers: that take turns; 1 is synchronous.
        compensation: lambda of delay compensation; 0 is plain, the paper's best were 0.04 to 2.
    """
    delay = workers - 1

    def init(params: PyTree) -> StaleState:
        rows = lambda tree: jax.tree.map(lambda x: jnp.zeros((delay, *x.shape), x.dtype), tree)
        held = rows(params) if compensation and delay else None
        return StaleState(jnp.zeros((), jnp.int32), rows(params) if delay else (), held)

    def update(
        grads: PyTree, state: StaleState, params: PyTree | None = None
    ) -> tuple[PyTree, StaleState]:
        if not delay:
            return grads, state
        turn = state.count % delay
        swap = lambda rows, new: jax.tree.map(lambda r, x: r.at[turn].set(x), rows, new)
        late = jax.tree.map(lambda r, g: r[turn].astype(g.dtype), state.grads, grads)
        held = state.params
        if compensation:
            # g = g + lambda g * g * (w_now - w_then)
            then = jax.tree.map(lambda r: r[turn], held)
            late = jax.tree.map(
                lambda g, now, w: g + compensation * g * g * (now - w).astype(g.dtype),
                late, params, then,
            )  # fmt: skip
            held = swap(held, params)
        return late, StaleState(state.count + 1, swap(state.grads, grads), held)

    return optax.GradientTransformation(init, update)
