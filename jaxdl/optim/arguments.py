"""What the builders of optimizers have in common: a learning rate, and which leaves are decayed."""

import re
from collections.abc import Callable

import jax
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


def decayed(pattern: str) -> Callable[[PyTree], PyTree]:
    """A mask for Optax: True at each leaf whose whole path matches the regular expression.

    Raises:
        UserError: the pattern is no regular expression, or one of the user's matches no leaf.
    """
    try:
        re.compile(pattern)
    except re.error as error:
        raise UserError(f"decay='{pattern}' is no regular expression: {error}") from error

    def mask(params: PyTree) -> PyTree:
        chosen = tree.select(params, pattern)
        # The default may well match nothing: where only biases are trained, for one.
        if pattern != DECAYED and not any(jax.tree.leaves(chosen)):
            raise UserError(
                f"decay='{pattern}' matches no parameter: {choices(pattern, tree.flatten(params))}"
            )
        return chosen

    return mask


def add_weight_decay(weight_decay: NonNegative, decay: str) -> optax.GradientTransformation:
    """Add weight_decay * w to the updates of the leaves that `decay` names."""
    return optax.add_decayed_weights(weight_decay, decayed(decay))
