"""AugMix: A Simple Data Processing Method to Improve Robustness and Uncertainty.

Hendrycks, Mu, Cubuk, Zoph, Gilmer, Lakshminarayanan 2019. https://arxiv.org/abs/1912.02781

Operations and magnitudes are the authors' (https://github.com/google-research/augmix), which leave
out those that ImageNet-C tests; their levels, drawn between 0.1 and `severity`, come here in 31
equal steps. The mixture is rounded to bytes. The paper's other half, a Jensen-Shannon term over
three views of an image, is a matter of the objective and not done here.
"""

from typing import Annotated

import jax
import jax.numpy as jnp
import msgspec
import numpy as np

from jaxdl.augment.batch import Byte, Interpolation, image_bytes, segmentation_mask, sides
from jaxdl.augment.operations import applied, drawn, rows
from jaxdl.config import Count, Positive
from jaxdl.errors import UserError
from jaxdl.registry import register
from jaxdl.types import Array, Batch

BINS = 31
Severity = Annotated[float, msgspec.Meta(gt=0.1, le=10)]


def space(severity: float, size: tuple[int, int], all_operations: bool = False) -> dict:
    """The magnitudes of each operation for levels from 0.1 to `severity` of 10."""
    levels = np.linspace(0.1, severity, BINS) / 10
    whole = lambda most: np.trunc(levels * most)
    known = {
        "Identity": ([0.0] * BINS, False),  # stands for the end of a chain, never drawn
        "AutoContrast": ([0.0] * BINS, False),
        "Equalize": ([0.0] * BINS, False),
        "Posterize": (4 - whole(4), False),
        "Rotate": (whole(30), True),
        "Solarize": (256 - whole(256), False),
        "ShearX": (levels * 0.3, True),
        "ShearY": (levels * 0.3, True),
        "TranslateX": (whole(size[1] / 3), True),
        "TranslateY": (whole(size[0] / 3), True),
    }
    if all_operations:
        # factor = 1.8 level + 0.1
        factors = (levels * 1.8 + 0.1 - 1, False)
        known |= dict.fromkeys(("Color", "Contrast", "Brightness", "Sharpness"), factors)
    return known


@register("augmentations", pixels="uint8")
def aug_mix(
    key: Array,
    batch: Batch,
    /,
    *,
    severity: Severity = 3.0,
    width: Count = 3,
    depth: Count | None = None,
    alpha: Positive = 1.0,
    all_operations: bool = False,
    interpolation: Interpolation = "bilinear",
    fill: Byte = 0,
) -> Batch:
    """Each image mixed with several chains of random operations on it, in random proportions.

    Args:
        severity: the strongest level drawn, up to 10.
        width: chains an image.
        depth: operations a chain; null draws 1, 2 or 3.
        alpha: of the Dirichlet and Beta distributions of the proportions; 1 is even.
        all_operations: also Color, Contrast, Brightness and Sharpness.
        interpolation: of the warps.
        fill: grey that warps show outside of the image.
    """
    image = image_bytes(batch, "aug_mix")
    if segmentation_mask(batch) is not None:
        raise UserError(
            "augmentation 'aug_mix' mixes moved images: it cannot move a segmentation mask"
        )
    b = image.shape[0]
    table, index = rows(space(severity, image.shape[1:3], all_operations), image.shape[1:3])
    which, strength, length, mixture = jax.random.split(key, 4)
    longest = depth or 3
    shape = (longest, b * width)
    levels = jax.random.randint(strength, shape, 0, BINS)
    chosen = drawn(which, index[1:], levels, shape)
    if depth is None:
        ends = jax.random.randint(length, (b * width,), 1, longest + 1)
        chosen = jnp.where(jnp.arange(longest)[:, None] < ends[None], chosen, index[0, 0, 0])
    several = {"image": jnp.repeat(image, width, 0)}
    moved = applied(several, table, chosen, name="aug_mix", interpolation=interpolation, fill=fill)[
        "image"
    ]
    moved = moved.reshape(b, width, *image.shape[1:]).astype(jnp.float32)
    # Dirichlet(alpha, ...) of the chains, and m ~ Beta(alpha, alpha): normalised Gamma variates
    gamma = jax.random.loggamma(mixture, alpha, (b, width + 2))
    weights = jax.nn.softmax(gamma[:, :width], -1)
    mixed = jnp.einsum("bn,bnhwc->bhwc", weights, moved, precision="highest")
    # m of the mixture, 1 - m of the image
    m = sides(jax.nn.softmax(gamma[:, width:], -1)[:, 0], image)
    out = jnp.round((1 - m) * image.astype(jnp.float32) + m * mixed)
    return {**batch, "image": jnp.clip(out, 0, 255).astype(jnp.uint8)}
