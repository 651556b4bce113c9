"""Values inside a network that layers hand out by name, and of which a gradient can be taken.

A layer passes a value through `handed_out`, and `Model.outputs(..., capture=[name])` asks for it
(`objectives/base.py`). In any other pass nothing is kept and nothing is added.
"""

import flax.linen as nn

from jaxdl.types import Array

VALUES = "intermediates"
"""The collection that takes the values wherever it is mutable."""
CHANGES = "perturbations"
"""The collection of what is added to the values: zeros, by which a gradient is taken of them."""


def is_asked(module: nn.Module) -> bool:
    """True where this pass asks for values: a layer that does without them must compute them."""
    return module.is_mutable_collection(VALUES)


def handed_out(module: nn.Module, name: str, value: Array) -> Array:
    """The value, to go on with; handed out under a name where that is asked for.

    Args:
        module: the layer, bound; it hands out a name once in a pass.
        name: of the value in this layer.
        value: of any shape and type.
    """
    if module.is_mutable_collection(VALUES):
        module.sow(VALUES, name, value)
    if module.has_variable(CHANGES, name):
        value = value + module.get_variable(CHANGES, name)
    return value
