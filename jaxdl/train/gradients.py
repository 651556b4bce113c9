"""Gradient takers: how the gradient of a loss is had.

A taker turns `loss(params, variables, batch, key) -> (scalar, Aux)` into a function of the same
arguments -> ((scalar, Aux), gradient), the shape of `jax.value_and_grad(loss, has_aux=True)`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdl.types import Array, Aux, Batch, PyTree

Loss = Callable[[PyTree, PyTree, Batch, Array], tuple[Array, Aux]]
Taken = Callable[[PyTree, PyTree, Batch, Array], tuple[tuple[Array, Aux], PyTree]]
Taker = Callable[[Loss], Taken]


def plain(loss: Loss) -> Taken:
    """The gradient of the whole batch at once."""
    return jax.value_and_grad(loss, has_aux=True)


def accumulate(n: int) -> Taker:
    """The gradient of the whole batch, from `n` micro-batches one after the other.

    Each micro-batch weighs as many valid examples as it has, so the result is the full batch's
    (exactly so where no layer looks across examples). Variables pass from one to the next.
    Aux.outputs is empty. The loss must report its (sum, count) as Aux.metrics['loss'].
    """

    def take(loss: Loss) -> Taken:
        def taken(params: PyTree, variables: PyTree, batch: Batch, key: Array):
            def split(x: Array) -> Array:
                # Strided, so that each device cuts its own rows and none travels.
                return x.reshape(x.shape[0] // n, n, *x.shape[1:]).swapaxes(0, 1)

            def one(variables: PyTree, micro: Batch, i: Array):
                (value, aux), grads = plain(loss)(
                    params, variables, micro, jax.random.fold_in(key, i)
                )
                count = aux.metrics["loss"][1]
                weighted = jax.tree.map(lambda x: x * count, (value, grads))
                return aux.variables, (weighted, aux.metrics)

            def body(carry, xs):
                variables, sums = carry
                variables, more = one(variables, *xs)
                return (variables, jax.tree.map(jnp.add, sums, more)), None

            micro = jax.tree.map(split, dict(batch))
            first = jax.tree.map(lambda x: x[0], micro)
            _, shapes = jax.eval_shape(one, variables, first, jnp.uint32(0))
            zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
            carry = (variables, zeros)
            carry, _ = jax.lax.scan(body, carry, (micro, jnp.arange(n, dtype=jnp.uint32)))
            variables, ((value, grads), metrics) = carry
            total = jnp.maximum(metrics["loss"][1], 1.0)
            value, grads = jax.tree.map(lambda x: x / total, (value, grads))
            return (value, Aux(variables, metrics, {})), grads

        return taken

    return plain if n == 1 else take
