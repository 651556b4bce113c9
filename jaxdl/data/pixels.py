"""Images and masks that a network would read amiss, refused with the line that mends them."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.errors import UserError
from jaxdl.types import VOID

FLOAT_LIMIT = 2.0
"""Highest value of float images that are never negative; [0, 1] with a margin for resampling."""
MEAN_LIMIT = 10.0
"""Largest mean of float images, of either sign; that of standardised ones is near 0."""


def check_image(spec: jax.ShapeDtypeStruct, split: str) -> None:
    """Refuse images that a network would read amiss: of other axes, or of other types of number."""
    shape = ("n", *spec.shape)
    if len(spec.shape) != 3:
        raise UserError(f"split '{split}': 'image' has shape {shape}; it must be (n, h, w, c)")
    if spec.shape[0] in (1, 3, 4) and spec.shape[2] > 4 and spec.shape[1] > 4:
        raise UserError(
            f"split '{split}': 'image' has shape {shape}, the channels first; it must be "
            "(n, h, w, c): image.transpose(0, 2, 3, 1)"
        )
    remedies = {"bool": "255 * image", "uint16": "image >> 8"}
    if spec.dtype != np.uint8 and not jnp.issubdtype(spec.dtype, jnp.floating):
        remedy = remedies.get(spec.dtype.name, "255.0 * (image - low) / (high - low)")
        raise UserError(
            f"split '{split}': 'image' is {spec.dtype}; it must be uint8 in [0, 255] or float in "
            f"[0, 1]: ({remedy}).astype('uint8')"
        )


def check_void(label: np.ndarray, split: str) -> None:
    """Refuse masks of 0 and 255, as painting programs write them: 255 is void, and 0 is left."""
    if label.ndim > 1 and label.size and label.max() == VOID:
        present = np.unique(label)
        if len(present) <= 2:
            raise UserError(
                f"split '{split}': the masks hold {' and '.join(map(str, present))} alone, and "
                f"{VOID} is void (has no class): for two classes store "
                f"(label == {VOID}).astype('uint8')"
            )


def check_range(image: np.ndarray, split: str) -> None:
    """Refuse float images that are neither in [0, 1] nor standardised: pixels of [0, 255]."""
    if not jnp.issubdtype(image.dtype, jnp.floating) or not image.size:
        return
    finite = np.isfinite(image)  # one NaN would hide all others
    if not finite.any():
        return
    low = float(image.min(initial=np.inf, where=finite))
    high = float(image.max(initial=-np.inf, where=finite))
    mean = float(image.mean(where=finite, dtype=np.float64))
    if (low >= 0 and high > FLOAT_LIMIT) or abs(mean) > MEAN_LIMIT:
        raise UserError(
            f"split '{split}': 'image' is {image.dtype} from {low:g} to {high:g}; floats are to be "
            "in [0, 1], or standardised: image / 255, or image.astype('uint8')"
        )
