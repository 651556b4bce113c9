"""Ways to compute the gradient of a loss: full batch, accumulated, PCGrad.

A method turns `loss(params, variables, batch, key) -> (scalar, Aux)` into a function of the same
arguments -> ((scalar, Aux), gradient), the shape of `jax.value_and_grad(loss, has_aux=True)`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdl.errors import UserError
from jaxdl.registry import register
from jaxdl.types import Array, Aux, Batch, PyTree

Loss = Callable[[PyTree, PyTree, Batch, Array], tuple[Array, Aux]]
GradFn = Callable[[PyTree, PyTree, Batch, Array], tuple[tuple[Array, Aux], PyTree]]
GradientMethod = Callable[[Loss], GradFn]


def full_batch_grad(loss: Loss) -> GradFn:
    """The gradient of the whole batch at once."""
    return jax.value_and_grad(loss, has_aux=True)


def split_microbatches(batch: Batch, n: int) -> Batch:
    """A batch as n micro-batches, along a new axis 0.

    Strided, so that each device cuts its own rows and none travels.
    """

    def cut(x: Array) -> Array:
        return x.reshape(x.shape[0] // n, n, *x.shape[1:]).swapaxes(0, 1)

    micro: Batch = jax.tree.map(cut, batch)
    return micro


def accumulate_grads(
    micro_batches: int, method: GradientMethod = full_batch_grad
) -> GradientMethod:
    """The gradient of the whole batch, from `micro_batches` of them one after the other.

    Each micro-batch weighs as many valid examples as it has, so the result is the full batch's
    (exactly so where no layer looks across examples). Variables pass from one to the next, and
    one sum of gradients is held. Aux.outputs is empty. The loss must report its (sum, count) as
    Aux.metrics['loss'].

    Args:
        micro_batches: how many a batch is cut into.
        method: that of one micro-batch.
    """
    n = micro_batches

    def accumulating(loss: Loss) -> GradFn:
        def grad_fn(
            params: PyTree, variables: PyTree, batch: Batch, key: Array
        ) -> tuple[tuple[Array, Aux], PyTree]:
            def one(variables: PyTree, micro: Batch, i: Array) -> tuple[PyTree, Any]:
                (value, aux), grads = method(loss)(
                    params, variables, micro, jax.random.fold_in(key, i)
                )
                count = aux.metrics["loss"][1]
                weighted = jax.tree.map(lambda x: x * count, (value, grads))
                return aux.variables, (weighted, aux.metrics)

            def body(carry: PyTree, xs: PyTree) -> tuple[PyTree, None]:
                variables, sums = carry
                variables, more = one(variables, *xs)
                return (variables, jax.tree.map(jnp.add, sums, more)), None

            micro = split_microbatches(batch, n)
            first = jax.tree.map(lambda x: x[0], micro)
            _, shapes = jax.eval_shape(one, variables, first, jnp.uint32(0))
            zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
            carry = (variables, zeros)
            carry, _ = jax.lax.scan(body, carry, (micro, jnp.arange(n, dtype=jnp.uint32)))
            variables, ((value, grads), metrics) = carry
            total = jnp.maximum(metrics["loss"][1], 1.0)
            value, grads = jax.tree.map(lambda x: x / total, (value, grads))
            return (value, Aux(variables, metrics, {})), grads

        return grad_fn

    return method if n == 1 else accumulating


@register("gradient_methods")
def full_batch(micro_batches: int, mesh: jax.sharding.Mesh, /) -> GradientMethod:
    """The gradient of the whole batch, from micro-batches one after the other.

    Training with Large Batches. https://arxiv.org/abs/1706.02677, where one does not fit at once.
    """
    return accumulate_grads(micro_batches)


def per_term_grads(loss: Loss) -> GradFn:
    """The gradients of the terms that a loss adds up, stacked along axis 0 of every leaf."""

    def grad_fn(
        params: PyTree, variables: PyTree, batch: Batch, key: Array
    ) -> tuple[tuple[Array, Aux], PyTree]:
        def terms(params: PyTree) -> tuple[Array, tuple[Array, Aux]]:
            value, aux = loss(params, variables, batch, key)
            if len(aux.terms) < 2:
                raise UserError(
                    "gradient method 'pcgrad' needs a loss of several terms, and this objective "
                    f"has {len(aux.terms) or 1}"
                )
            return jnp.stack(list(aux.terms.values())), (value, aux)

        values, pull, (value, aux) = jax.vjp(terms, params, has_aux=True)
        grads = jax.vmap(lambda row: pull(row)[0])(jnp.eye(len(values), dtype=values.dtype))
        return (value, aux), grads

    return grad_fn


def project_conflicts(grads: PyTree, key: Array) -> PyTree:
    """The sum of gradients, each without what goes against another.

    Args:
        grads: every leaf has one gradient a term, along axis 0.
        key: for the order in which conflicts are settled.
    """
    n = jax.tree.leaves(grads)[0].shape[0]
    orders = jax.vmap(lambda k: jax.random.permutation(k, n))(jax.random.split(key, n))

    def settle(own: PyTree, place: Array, order: Array) -> PyTree:
        def against(own: PyTree, j: Array) -> tuple[PyTree, None]:
            other = jax.tree.map(lambda g: g[j], grads)
            dot = sum(jnp.vdot(a, b) for a, b in _pairs(own, other))
            square = sum(jnp.vdot(b, b) for b in jax.tree.leaves(other))
            # g_i = g_i - (g_i . g_j) / ||g_j||^2 g_j  where  g_i . g_j < 0
            scale = jnp.where((dot < 0) & (j != place), dot / jnp.maximum(square, 1e-30), 0.0)
            return jax.tree.map(lambda a, b: a - scale * b, own, other), None

        return jax.lax.scan(against, own, order)[0]

    settled = jax.vmap(settle)(grads, jnp.arange(n), orders)
    return jax.tree.map(lambda g: g.sum(0), settled)


def _pairs(a: PyTree, b: PyTree) -> list[tuple[Array, Array]]:
    return list(zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@register("gradient_methods")
def pcgrad(micro_batches: int, mesh: jax.sharding.Mesh, /) -> GradientMethod:
    """Gradient surgery: terms whose gradients conflict lose what goes against each other.

    Gradient Surgery for Multi-Task Learning. Yu, Kumar, Gupta, Levine, Hausman, Finn 2020.
    https://arxiv.org/abs/2001.06782. Needs an objective whose Aux has two `terms` or more; with
    micro-batches, conflicts are those of the whole batch.
    """

    def surgery(loss: Loss) -> GradFn:
        each = accumulate_grads(micro_batches, per_term_grads)(loss)

        def grad_fn(
            params: PyTree, variables: PyTree, batch: Batch, key: Array
        ) -> tuple[tuple[Array, Aux], PyTree]:
            aux, grads = each(params, variables, batch, key)
            return aux, project_conflicts(grads, jax.random.fold_in(key, micro_batches))

        return grad_fn

    return surgery


def scaled(method: GradientMethod, scale: Array) -> GradientMethod:
    """The same gradient, taken of a loss that is `scale` times as large: for float16."""

    def of_larger(loss: Loss) -> GradFn:
        def larger(*args: PyTree) -> tuple[Array, Aux]:
            value, aux = loss(*args)
            return value * scale, aux._replace(terms={k: v * scale for k, v in aux.terms.items()})

        def grad_fn(*args: PyTree) -> tuple[tuple[Array, Aux], PyTree]:
            (value, aux), grads = method(larger)(*args)
            value, grads = jax.tree.map(lambda x: x / scale, (value, grads))
            return (value, aux), grads

        return grad_fn

    return of_larger
