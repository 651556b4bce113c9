"""Single images on the host, by Pillow: reading a file, fitting to a square."""

from pathlib import Path

import numpy as np
from PIL import Image

from jaxdl.errors import UserError


def load(file: Path, channels: int) -> np.ndarray:
    """An image file as (h, w, channels) uint8; 1 channel is grey, 3 are red, green and blue."""
    try:
        with Image.open(file) as image:
            return with_channels(np.asarray(image.convert({1: "L", 3: "RGB"}[channels])))
    except Exception as error:  # Pillow's decoders raise whatever the format's parser raises
        raise UserError(f"cannot read the image {file}: {error}") from error


def with_channels(image: np.ndarray) -> np.ndarray:
    """(h, w) as (h, w, 1); any other shape as it is."""
    return image[:, :, None] if image.ndim == 2 else image


def fit(
    image: np.ndarray, size: int, resample: Image.Resampling = Image.Resampling.BILINEAR
) -> np.ndarray:
    """Resize the shorter side to `size` (with antialiasing), then cut out the centre.

    Args:
        image: (h, w, c) uint8, c of 1, 3 or 4.
        size: side of the result in pixels.
        resample: `NEAREST` for a map of class numbers.

    Returns:
        (size, size, c) uint8.
    """
    height, width, channels = image.shape
    if image.dtype != np.uint8 or channels not in (1, 3, 4):
        raise UserError(
            "image_size resizes uint8 images of 1, 3 or 4 channels, "
            f"not {image.dtype} of shape {image.shape}"
        )
    if (height, width) == (size, size):
        return image
    scale = size / min(height, width)
    new_width, new_height = max(size, round(width * scale)), max(size, round(height * scale))
    picture = Image.fromarray(image[:, :, 0] if channels == 1 else image)
    picture = picture.resize((new_width, new_height), resample)
    left, top = (new_width - size) // 2, (new_height - size) // 2
    return with_channels(np.asarray(picture.crop((left, top, left + size, top + size))))
