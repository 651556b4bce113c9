"""Losses of a whole segmentation mask: one minus the overlap of predicted and true mask.

All are of one image, a mean over classes, in [0, 1]. The predicted mask is p = softmax(logits), the
true one t is one-hot; sums go over valid pixels. A class absent from both contributes 0, and an
image without a valid pixel has the loss 0.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdl.config import NonNegative, Positive
from jaxdl.registry import register
from jaxdl.types import Array

_TINY = 1e-12


class Overlap(NamedTuple):
    """Soft counts of pixels for each image and class, (b, k) float32."""

    right: Array
    """sum p t, true positives"""
    excess: Array
    """sum p (1 - t), false positives"""
    missed: Array
    """sum (1 - p) t, false negatives"""
    squares: Array
    """sum (p - t)^2"""
    there: Array
    """sum t"""


def overlap(logits: Array, label: Array, weight: Array) -> Overlap:
    """Count.

    Args:
        logits: (b, h, w, k).
        label: (b, h, w) integers.
        weight: (b, h, w), 0 where a pixel counts for nothing, whatever its logits and label.
    """
    counts = weight[..., None].astype(jnp.float32)
    # Zeroed before the softmax: a NaN behind a zero weight would come back in the gradient.
    p = jax.nn.softmax(jnp.where(counts > 0, logits.astype(jnp.float32), 0.0))
    t = jax.nn.one_hot(label, logits.shape[-1])
    add = lambda x: jnp.sum(counts * x, axis=(1, 2))
    return Overlap(add(p * t), add(p * (1 - t)), add((1 - p) * t), add((p - t) ** 2), add(t))


def _fraction(error: Array, right: Array) -> Array:
    """Error / (right + error), which is 1 - right / (right + error); 0 where there is neither."""
    whole = right + error
    return error / jnp.where(whole > 0, whole, 1.0)


@register("segmentation_losses")
def dice(
    logits: Array,
    label: Array,
    weight: Array,
    /,
    *,
    squared: bool = False,
    smooth: NonNegative = 1.0,
) -> Array:
    """Soft Dice loss.

    1 - sum p t / (sum (p + t) / 2), the mean over classes.
    V-Net: Fully Convolutional Neural Networks for Volumetric Medical Image Segmentation.
    Milletari, Navab, Ahmadi 2016. https://arxiv.org/abs/1606.04797

    Args:
        logits: (b, h, w, k).
        label: (b, h, w).
        weight: (b, h, w).
        squared: p^2 + t^2 in the denominator, as in the paper, in place of p + t.
        smooth: pixels added to numerator and denominator; the paper adds none.

    Returns:
        (b,) float32.
    """
    found = overlap(logits, label, weight)
    # sum (p + t) / 2 = sum p t + sum |p - t| / 2, and the same with squares
    error = found.squares if squared else found.excess + found.missed
    return jnp.mean(_fraction(error / 2, found.right + smooth), axis=-1)


@register("segmentation_losses")
def generalized_dice(logits: Array, label: Array, weight: Array, /) -> Array:
    """Dice loss in which every class weighs the inverse of its squared volume.

    1 - 2 sum_k w_k sum p t / sum_k w_k sum (p + t), with w_k = 1 / (sum t)^2.
    Generalised Dice overlap as a deep learning loss function for highly unbalanced segmentations.
    Sudre, Li, Vercauteren, Ourselin, Cardoso 2017. https://arxiv.org/abs/1707.03237
    A class that is not in the image weighs as the rarest that is, as in the authors' code.

    Args:
        logits: (b, h, w, k).
        label: (b, h, w).
        weight: (b, h, w).

    Returns:
        (b,) float32.
    """
    found = overlap(logits, label, weight)
    present = found.there > 0
    rarest = jnp.min(jnp.where(present, found.there, jnp.inf), axis=-1, keepdims=True)
    # w_k times the rarest class's volume^2, which cancels: no weight is tiny or infinite
    of_class = jnp.where(present, (rarest / jnp.where(present, found.there, 1.0)) ** 2, 1.0)
    add = lambda x: jnp.sum(of_class * x, axis=-1)
    return _fraction(add(found.excess + found.missed) / 2, add(found.right))


@register("segmentation_losses")
def jaccard(logits: Array, label: Array, weight: Array, /, *, smooth: NonNegative = 1.0) -> Array:
    """Soft intersection over union, as a loss.

    1 - sum p t / sum (p + t - p t), the mean over classes.
    Optimizing Intersection-Over-Union in Deep Neural Networks for Image Segmentation. Rahman, Wang
    2016. https://doi.org/10.1007/978-3-319-50835-1_22

    Args:
        logits: (b, h, w, k).
        label: (b, h, w).
        weight: (b, h, w).
        smooth: pixels added to numerator and denominator.

    Returns:
        (b,) float32.
    """
    return tversky(logits, label, weight, alpha=1.0, beta=1.0, smooth=smooth)


@register("segmentation_losses")
def tversky(
    logits: Array,
    label: Array,
    weight: Array,
    /,
    *,
    alpha: NonNegative = 0.3,
    beta: NonNegative = 0.7,
    smooth: NonNegative = 1.0,
) -> Array:
    """Dice loss with weights of its own for false positives and false negatives.

    1 - TP / (TP + alpha FP + beta FN), the mean over classes.
    Tversky loss function for image segmentation using 3D fully convolutional deep networks.
    Salehi, Erdogmus, Gholipour 2017. https://arxiv.org/abs/1706.05721

    Args:
        logits: (b, h, w, k).
        label: (b, h, w).
        weight: (b, h, w).
        alpha: weight of false positives.
        beta: weight of false negatives; 1/2 and 1/2 are `dice`.
        smooth: pixels added to numerator and denominator.

    Returns:
        (b,) float32.
    """
    return jnp.mean(_tversky(logits, label, weight, alpha, beta, smooth), axis=-1)


@register("segmentation_losses")
def focal_tversky(
    logits: Array,
    label: Array,
    weight: Array,
    /,
    *,
    alpha: NonNegative = 0.3,
    beta: NonNegative = 0.7,
    gamma: Positive = 4 / 3,
    smooth: NonNegative = 1.0,
) -> Array:
    """A root of the Tversky loss of each class.

    (1 - TP / (TP + alpha FP + beta FN))^(1 / gamma), the mean over classes.
    A Novel Focal Tversky loss function with improved Attention U-Net for lesion segmentation.
    Abraham, Khan 2018. https://arxiv.org/abs/1810.07842
    The paper's alpha weighs false negatives and is 0.7; here that is `beta`, as in `tversky`. The
    paper adds up classes.

    Args:
        logits: (b, h, w, k).
        label: (b, h, w).
        weight: (b, h, w).
        alpha: weight of false positives.
        beta: weight of false negatives.
        gamma: above 1, classes that are nearly right keep a steeper slope.
        smooth: pixels added to numerator and denominator.

    Returns:
        (b,) float32.
    """
    each = _tversky(logits, label, weight, alpha, beta, smooth)
    # The slope of a root at 0 is infinite.
    power = jnp.where(each > _TINY, each, 1.0) ** (1 / gamma)
    return jnp.mean(jnp.where(each > _TINY, power, 0.0), axis=-1)


def _tversky(
    logits: Array, label: Array, weight: Array, alpha: float, beta: float, smooth: float
) -> Array:
    found = overlap(logits, label, weight)
    return _fraction(alpha * found.excess + beta * found.missed, found.right + smooth)
