"""Semantic segmentation: a mean loss of each pixel's logits against its label.

Fully Convolutional Networks for Semantic Segmentation. Long, Shelhamer, Darrell 2014.
https://arxiv.org/abs/1411.4038
"""

from collections.abc import Callable
from typing import Annotated

import jax.numpy as jnp

from jaxdl.losses.cross_entropy import cross_entropy
from jaxdl.metrics.segmentation import pixel_accuracy, pixels, weighted
from jaxdl.objectives.base import Model
from jaxdl.registry import Of, register
from jaxdl.types import VOID, Array, Aux, Batch, Objective, PyTree

Loss = Annotated[Callable[[Array, Array], Array], Of("losses")]


@register("objectives", each="pixel")
def segmentation(
    model: Model, /, *, loss: Loss = cross_entropy, ignore: int | None = VOID
) -> Objective:
    """Minimise the mean over valid pixels of `loss(logits, label)`.

    A pixel is what a loss calls an example. All pixels of a batch weigh the same, so an image with
    many void pixels weighs less; counts are of pixels, and accumulated batches add up to one.

    Args:
        model: whose logits are (b, h, w, k).
        loss: of one pixel.
        ignore: label of pixels that count for nothing ("void"); null where all count.
    """

    def objective_loss(params: PyTree, variables: PyTree, batch: Batch, key: Array):
        outputs, variables = model.train(params, variables, batch, key)
        logits, label, weight = pixels(outputs["logits"], batch, ignore)
        total, count = weighted(loss(logits, label), weight)
        accuracy = pixel_accuracy(outputs, batch, ignore=ignore)
        metrics = {"loss": (total, count), "pixel_accuracy": accuracy}
        return total / jnp.maximum(count, 1.0), Aux(variables, metrics, outputs)

    return Objective(model.init, objective_loss, model.predict)
