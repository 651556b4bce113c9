"""Random rotations and affine maps, of images and of the segmentation masks that belong to them.

Best Practices for Convolutional Neural Networks Applied to Visual Document Analysis. Simard,
Steinkraus, Platt 2003. https://doi.org/10.1109/ICDAR.2003.1227801
"""

from typing import Annotated

import jax
import jax.numpy as jnp
import msgspec

from jaxdl.augment.batch import Byte, Interpolation, Probability, ordered
from jaxdl.augment.warp import IDENTITY, affine, to_fixed, warped
from jaxdl.config import NonNegative, Positive
from jaxdl.registry import register
from jaxdl.types import Array, Batch

Angle = Annotated[float, msgspec.Meta(ge=0, le=180)]
Slope = Annotated[float, msgspec.Meta(ge=0, lt=90)]


@register("augmentations")
def random_affine(
    key: Array,
    batch: Batch,
    /,
    *,
    degrees: Angle = 10.0,
    translate: NonNegative = 0.1,
    scale: tuple[Positive, Positive] = (0.9, 1.1),
    shear: Slope = 0.0,
    probability: Probability = 1.0,
    interpolation: Interpolation = "nearest",
    fill: Byte = 0,
) -> Batch:
    """Shear, scale and rotate each image about its centre, then move it, and its segmentation mask.

    Drawn evenly between the bounds, for each image by itself. The coefficients are float32, so
    that a pixel read from within 1e-4 of an edge between two may differ from Pillow's.

    Args:
        degrees: at most so far, either way.
        translate: fraction of the width and of the height, at most, either way.
        scale: least and greatest.
        shear: degrees along either axis, at most, either way.
        probability: of changing an image.
        interpolation: 'nearest' or 'bilinear'; segmentation masks are always nearest.
        fill: what stands outside of the image; 255 in a segmentation mask.
    """
    ordered("random_affine", "scale", scale, 0)
    b, h, w, _ = batch["image"].shape
    keys = jax.random.split(key, 7)
    up_to = lambda k, most: jax.random.uniform(k, (b,), minval=-most, maxval=most)
    size = jax.random.uniform(keys[1], (b,), minval=scale[0], maxval=scale[1])
    slope = lambda k: jnp.tan(jnp.radians(up_to(k, shear)))
    move = (up_to(keys[2], translate * w), up_to(keys[3], translate * h))
    matrix = affine(up_to(keys[0], degrees), move, size, (slope(keys[4]), slope(keys[5])), (h, w))
    chosen = jax.random.bernoulli(keys[6], probability, (b, 1))
    fixed = jnp.where(chosen, to_fixed(matrix), jnp.asarray(IDENTITY)[None])
    return warped(batch, fixed, interpolation, fill)


@register("augmentations")
def random_rotation(
    key: Array,
    batch: Batch,
    /,
    *,
    degrees: Angle = 15.0,
    probability: Probability = 1.0,
    interpolation: Interpolation = "nearest",
    fill: Byte = 0,
) -> Batch:
    """Turn each image about its centre by an angle in [-degrees, degrees], and its mask.

    Args:
        degrees: the greatest angle, either way.
        probability: of turning an image.
        interpolation: 'nearest' or 'bilinear'; segmentation masks are always nearest.
        fill: what stands outside of the image; 255 in a segmentation mask.
    """
    return random_affine(
        key,
        batch,
        degrees=degrees,
        translate=0.0,
        scale=(1.0, 1.0),
        probability=probability,
        interpolation=interpolation,
        fill=fill,
    )
