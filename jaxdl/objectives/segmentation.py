"""Semantic segmentation: a mean loss of each pixel's logits against its label.

Fully Convolutional Networks for Semantic Segmentation. Long, Shelhamer, Darrell 2014.
https://arxiv.org/abs/1411.4038
"""

from collections.abc import Callable
from typing import Annotated

import jax.numpy as jnp

from jaxdl.config import NonNegative
from jaxdl.errors import UserError
from jaxdl.losses.cross_entropy import cross_entropy
from jaxdl.metrics.segmentation import correct_pixels, pixels, weighted
from jaxdl.objectives.base import Model, on_target
from jaxdl.registry import Of, register
from jaxdl.types import VOID, Array, Aux, Batch, Objective, PyTree

Loss = Annotated[Callable[[Array, Array], Array], Of("losses")]
SegmentationLoss = Annotated[Callable[[Array, Array, Array], Array], Of("segmentation_losses")]


@register("objectives", unit="pixel")
def segmentation(
    model: Model,
    /,
    *,
    loss: Loss | None = cross_entropy,
    segmentation_loss: SegmentationLoss | None = None,
    segmentation_weight: NonNegative = 1.0,
    ignore: int | None = VOID,
    target: str = "label",
) -> Objective:
    """Minimise the mean pixel `loss(logits, label)` plus the mean segmentation loss of an image.

    A pixel is what a loss calls an example. All pixels of a batch weigh the same, so an image with
    many void pixels weighs less, in the mean of the map losses too; where none is void, that is the
    plain mean over images. Counts are of pixels, and accumulated batches add up to one.

    Args:
        model: whose logits are (b, h, w, k).
        loss: of one pixel; null to train by the segmentation loss alone.
        segmentation_loss: of the whole mask of one image.
        segmentation_weight: of that loss beside the pixels' loss.
        ignore: label of pixels that count for nothing ("void"); null where all count.
        target: key of the batch that is learned as the label.

    Raises:
        UserError: neither a loss nor a segmentation loss.
    """
    if loss is None and segmentation_loss is None:
        raise UserError("objective 'segmentation' needs a loss or a segmentation_loss")

    def objective_loss(params: PyTree, variables: PyTree, batch: Batch, key: Array):
        outputs, variables = model.train(params, variables, batch, key)
        maps = outputs["logits"]
        logits, label, weight = pixels(maps, batch, ignore)
        sums, count = {}, jnp.sum(weight)
        metrics = {"pixel_accuracy": correct_pixels(outputs, batch, ignore)}
        if loss is not None:
            sums["pixel_loss"], _ = weighted(loss(logits, label), weight)
        if segmentation_loss is not None:
            label, weight = label.reshape(maps.shape[:3]), weight.reshape(maps.shape[:3])
            # Each valid pixel carries its image's loss: sum and count stay those of pixels.
            valid = jnp.sum(weight, axis=(1, 2))
            metrics["segmentation_loss"] = weighted(segmentation_loss(maps, label, weight), valid)
            sums["segmentation_loss"] = segmentation_weight * metrics["segmentation_loss"][0]
        terms = {name: total / jnp.maximum(count, 1.0) for name, total in sums.items()}
        metrics["loss"] = (sum(sums.values()), count)
        return sum(terms.values()), Aux(variables, metrics, outputs, terms)

    return on_target(Objective(model.init, objective_loss, model.predict), target)
