"""Dense layers on whole maps, and the same layers as convolutions, for images of any size.

OverFeat: Integrated Recognition, Localization and Detection using Convolutional Networks.
Sermanet, Eigen, Zhang, Mathieu, Fergus, LeCun 2013. https://arxiv.org/abs/1312.6229
Fully Convolutional Networks for Semantic Segmentation. Long, Shelhamer, Darrell 2014.
https://arxiv.org/abs/1411.4038

A dense layer that reads a map of h x w is a convolution whose kernel is h x w, on that map alone;
on a larger one it gives a map, each entry what the dense layer says of the window under it.
"""

import math

import flax.linen as nn
import jax
from flax.typing import Initializer

from jaxdl import tree
from jaxdl.errors import UserError, choices
from jaxdl.nn.conv import Conv
from jaxdl.types import Array, PyTree

he_normal = nn.initializers.he_normal()
near_zero = nn.initializers.normal(0.01)
"""For the logits behind wide layers and dropout, which would start far from a guess."""


def dense(
    x: Array,
    features: int,
    window: tuple[int, int] | None,
    name: str,
    padding: str = "VALID",
    kernel_init: Initializer = he_normal,
) -> Array:
    """A dense layer of the module around it, or the convolution that it is.

    Args:
        x: (b, h, w, c), or (b, d) where x has no window.
        features: outputs.
        window: size of the map that the dense layer was made for; None is the dense layer itself.
        name: of the layer.
        padding: of the convolution.
        kernel_init: of its kernel.

    Returns:
        (b, features), or with a window (b, h', w', features).

    Raises:
        UserError: the map is smaller than the window.
    """
    if window is None:
        return nn.Dense(features, kernel_init=kernel_init, name=name)(x.reshape(x.shape[0], -1))
    if padding == "VALID" and any(n < k for n, k in zip(x.shape[1:3], window, strict=True)):
        raise UserError(
            f"the map before '{name}' is {x.shape[1]}x{x.shape[2]}, smaller than its window "
            f"{window[0]}x{window[1]}: give larger images or a smaller pool_size"
        )
    return Conv(features, window, padding=padding, kernel_init=kernel_init, name=name)(x)


def to_convolutional(params: PyTree, shapes: PyTree) -> PyTree:
    """Parameters of a network with dense layers as those of its convolutional form.

    Maps are flattened with channels last, so a kernel (h*w*c, o) is (h, w, c, o) already.

    Args:
        params: of the model with dense layers.
        shapes: of the convolutional model, as `jax.eval_shape` gives them.

    Returns:
        The same numbers in `shapes`' structure.

    Raises:
        UserError: a parameter is missing, has no place, or does not fit; it is named.
    """
    given, wanted = tree.flatten(params), tree.flatten(shapes)
    for name in wanted:
        if name not in given:
            raise UserError(f"the dense model has no '{name}': {choices(name, given)}")
    for name in given:
        if name not in wanted:
            raise UserError(f"the convolutional model has no '{name}': {choices(name, wanted)}")

    def converted(name: str) -> Array:
        old, new = given[name].shape, wanted[name].shape
        is_kernel = len(old) == 2 and len(new) == 4
        if old != new and not (is_kernel and old == (math.prod(new[:3]), new[3])):
            raise UserError(f"'{name}' is {list(old)}, which cannot become {list(new)}")
        return given[name].reshape(new)

    return jax.tree.map(converted, tree.names(shapes))
