"""Metrics of segmentation, a label for each pixel: exact over any batching, void and padding apart.

`label` is (b, h, w); logits (b, h', w', k) of a smaller map speak of its middle.
"""

import math
from functools import partial

import jax.numpy as jnp
import numpy as np

from jaxdl.metrics.base import Metric, Outputs, Pair
from jaxdl.registry import register
from jaxdl.types import VOID, Array, Batch, mask_of


def pixels(logits: Array, batch: Batch, ignore: int | None = VOID) -> tuple[Array, Array, Array]:
    """A batch as a list of pixels, n = b * h' * w'.

    Args:
        logits: (b, h', w', k).
        batch: with `label` (b, h, w).
        ignore: the label of pixels that count for nothing ("void"); None where all count.

    Returns:
        Logits (n, k), labels (n,) in [0, k), and weights (n,), 0 for void pixels and for padded
        examples; the label of a void pixel is 0.
    """
    label = batch["label"]
    high, wide = ((n - m) // 2 for n, m in zip(label.shape[1:], logits.shape[1:3], strict=True))
    label = label[:, high : high + logits.shape[1], wide : wide + logits.shape[2]]
    valid = jnp.ones(label.shape, bool) if ignore is None else label != ignore
    weight = valid * mask_of(batch)[:, None, None]
    label = jnp.where(valid, label, 0)
    return logits.reshape(-1, logits.shape[-1]), label.reshape(-1), weight.reshape(-1)


def weighted(values: Array, weight: Array) -> Pair:
    """(sum, count) of one value a pixel; what weighs nothing may be NaN."""
    return jnp.sum(jnp.where(weight > 0, values, 0.0) * weight), jnp.sum(weight)


def correct_pixels(outputs: Outputs, batch: Batch, ignore: int | None = VOID) -> Pair:
    """(sum, count) of the pixels whose largest logit is the label's."""
    logits, label, weight = pixels(outputs["logits"], batch, ignore)
    return weighted((jnp.argmax(logits, axis=-1) == label).astype(jnp.float32), weight)


@register("metrics", unit="pixel")
def pixel_accuracy(*, ignore: int | None = VOID) -> Metric:
    """Fraction of pixels whose largest logit is the label's."""
    return Metric(partial(correct_pixels, ignore=ignore))


def overlaps(
    outputs: Outputs, batch: Batch, ignore: int | None = VOID
) -> tuple[Array, Array, Array]:
    """Pixels of each class that are hits, true, and predicted: three int32 vectors (k,)."""
    logits, label, weight = pixels(outputs["logits"], batch, ignore)
    predicted = jnp.argmax(logits, axis=-1)
    # Integers, as a batch of large maps has more pixels than the 2^24 that float32 counts to.
    of_class = lambda classes: jnp.zeros(logits.shape[-1], jnp.int32).at[classes].add
    valid = (weight > 0).astype(jnp.int32)
    return (
        of_class(label)(valid * (predicted == label)),
        of_class(label)(valid),
        of_class(predicted)(valid),
    )


def intersections(outputs: Outputs, batch: Batch, ignore: int | None = VOID) -> Pair:
    """Intersection and union of each class, two vectors (k,), in pixels."""
    both, truth, predicted = overlaps(outputs, batch, ignore)
    return both, truth + predicted - both


@register("metrics", unit="pixel")
def iou(*, ignore: int | None = VOID) -> Metric:
    """Intersection over union of each class, also called Jaccard index.

    A class that is neither there nor predicted has 0 / 0, which is NaN.
    """
    return Metric(partial(intersections, ignore=ignore), names="classes")


def sizes(outputs: Outputs, batch: Batch, ignore: int | None = VOID) -> Pair:
    """Twice the intersection, and the sum of both sizes, of each class: two vectors (k,)."""
    both, truth, predicted = overlaps(outputs, batch, ignore)
    return 2 * both, truth + predicted


@register("metrics", unit="pixel")
def dice(*, ignore: int | None = VOID) -> Metric:
    """Dice coefficient of each class, twice the intersection over both sizes.

    It is the F1 score of pixels, and 2 iou / (1 + iou). Dice 1945,
    https://doi.org/10.2307/1932409
    """
    return Metric(partial(sizes, ignore=ignore), names="classes")


def mean_over_seen(intersection: np.ndarray, union: np.ndarray) -> float:
    """Mean of two vectors' quotients (k,), over those whose denominator is not 0."""
    seen = union > 0
    return float(np.mean(intersection[seen] / union[seen])) if seen.any() else math.nan


@register("metrics", unit="pixel")
def mean_iou(*, ignore: int | None = VOID) -> Metric:
    """Mean of `iou` over the classes that are there or predicted, in the whole split."""
    return Metric(partial(intersections, ignore=ignore), mean_over_seen)


@register("metrics", unit="pixel")
def mean_dice(*, ignore: int | None = VOID) -> Metric:
    """Mean of `dice` over the classes that are there or predicted, in the whole split.

    Of all pixels of the split together; a mean over images of each one's coefficient is another
    number. Dice 1945, https://doi.org/10.2307/1932409
    """
    return Metric(partial(sizes, ignore=ignore), mean_over_seen)
