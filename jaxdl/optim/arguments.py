"""Pieces shared by builders of optimizers: a learning rate, leaves by name, float32."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxdl import tree
from jaxdl.config import NonNegative, Positive
from jaxdl.errors import UserError, choices
from jaxdl.types import PyTree

LearningRate = Positive
"""A config gives the peak, a positive number, and that is what is checked. The program calls the
builder with an `optax.ScalarOrSchedule`: that number, or `lambda step: peak * factor(step)`."""

DECAYED = r"(.*/)?(kernel|embedding)"
"""Weights of layers and tables of embeddings; biases and the scales of norms are left alone."""


def chosen(argument: str, pattern: str, default: str | None = None) -> Callable[[PyTree], PyTree]:
    """A mask for Optax: True at each leaf whose whole path matches the regular expression.

    Args:
        argument: what a config calls the pattern; a message names it.
        pattern: the regular expression.
        default: the builder's own pattern, which may well match nothing: where only biases are
            trained, for one.

    Raises:
        UserError: the pattern is not at a regular expression, or one of the user's matches no leaf.
    """
    tree.expression(argument, pattern)

    def mask(params: PyTree) -> PyTree:
        selected = tree.select(params, pattern)
        if pattern != default and not any(jax.tree.leaves(selected)):
            known = choices(pattern, tree.flatten(params))
            raise UserError(f"{argument}='{pattern}' matches no parameter: {known}")
        return selected

    return mask


def decayed(pattern: str) -> Callable[[PyTree], PyTree]:
    """The mask of the leaves to decay; see `chosen`."""
    return chosen("decay", pattern, DECAYED)


def add_weight_decay(weight_decay: NonNegative, decay: str) -> optax.GradientTransformation:
    """Add weight_decay * w to the updates of the leaves that `decay` names."""
    return optax.add_decayed_weights(weight_decay, decayed(decay))


def in_float32(
    inner: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """A transformation that sees float32 and keeps its state in it, whatever the parameters are.

    Updates come back in the type of the gradient. `init` is given copies, so that what a state
    keeps of the parameters is never the same array as they are: the step donates both.
    """
    inner = optax.with_extra_args_support(inner)

    def init(params: PyTree) -> PyTree:
        return inner.init(jax.tree.map(lambda w: jnp.array(w, jnp.float32, copy=True), params))

    def update(
        updates: PyTree, state: PyTree, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        gradient, weights = tree.cast((updates, params), jnp.float32)
        moved, state = inner.update(gradient, state, weights, **extra)
        return jax.tree.map(lambda u, g: u.astype(g.dtype), moved, updates), state

    return optax.GradientTransformationExtraArgs(init, update)
