"""Pytrees by path: leaves have names such as `backbone/conv/kernel`, chosen by regular expressions.

One tool for freezing, decay masks, sharding and transfer.
"""

import re
from typing import Any

import jax
import jax.numpy as jnp

from jaxdl.corrections import word
from jaxdl.errors import UserError
from jaxdl.types import PyTree


def path_name(path: tuple[Any, ...]) -> str:
    """A key path as JAX gives it, joined by slashes."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def names(tree: PyTree) -> PyTree:
    """The same structure with every leaf replaced by its name."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path_name(path), tree)


def flatten(tree: PyTree) -> dict[str, Any]:
    """Name to leaf, in the tree's order."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def expression(argument: str, pattern: str) -> re.Pattern[str]:
    """A user's regular expression, compiled.

    Args:
        argument: the name that a config has for it; the message begins with it.
        pattern: the expression.

    Raises:
        UserError: it is not a regular expression.
    """
    try:
        return re.compile(pattern)
    except re.error as error:
        message = f"{argument}='{pattern}' is not a regular expression: {error}"
        raise UserError(message, word(pattern, "backbone/.*")) from error


def select(tree: PyTree, pattern: str, argument: str = "pattern") -> PyTree:
    """A mask: True at each leaf whose whole name matches the `expression`."""
    regex = expression(argument, pattern)
    return jax.tree.map(lambda name: regex.fullmatch(name) is not None, names(tree))


def cast(tree: PyTree, dtype: jnp.dtype) -> PyTree:
    """Floating-point leaves in another type; others as they are."""

    def convert(x: Any) -> Any:
        is_float = jnp.issubdtype(jnp.result_type(x), jnp.floating)
        return x.astype(dtype) if is_float else x

    return jax.tree.map(convert, tree)


def count(tree: PyTree) -> int:
    """Numbers held in all leaves; works on shapes alone."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
