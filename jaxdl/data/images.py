"""Single images on the host, by Pillow: reading a file, fitting to a square."""

import stat
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from PIL import Image

from jaxdl.errors import UserError

FORMATS = {
    "PNG": (".png",), "JPEG": (".jpg", ".jpeg"), "BMP": (".bmp",), "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"), "WEBP": (".webp",), "PPM": (".ppm", ".pgm"),
}  # fmt: skip
"""What Pillow may take a file for, and the suffixes of each. It knows others, one of which starts
a program (EPS)."""
MOST_PIXELS = 2**26
"""A file of some kilobytes may expand to any number of them."""
LONGEST_RATIO = 32
"""Of an image's sides, when it is resized: the ends of a longer one are cut off before."""

Side = Annotated[int, msgspec.Meta(ge=1, le=16384)]
"""Pixels along a side of an image."""


def load(file: Path, channels: int) -> np.ndarray:
    """An image file as (h, w, channels) uint8; 1 channel is grey, 3 are red, green and blue."""
    try:
        # To open anything else may block for ever, or never end.
        if not stat.S_ISREG(file.stat().st_mode):
            raise ValueError("it is not a file")
        with Image.open(file, formats=tuple(FORMATS)) as image:
            if image.width * image.height > MOST_PIXELS:
                raise ValueError(f"{image.width} x {image.height} are too many pixels")
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
    longest = LONGEST_RATIO * min(height, width)
    top, left = max(0, height - longest) // 2, max(0, width - longest) // 2
    image = image[top : top + longest, left : left + longest]
    height, width, _ = image.shape
    scale = size / min(height, width)
    new_width, new_height = max(size, round(width * scale)), max(size, round(height * scale))
    picture = Image.fromarray(image[:, :, 0] if channels == 1 else image)
    picture = picture.resize((new_width, new_height), resample)
    left, top = (new_width - size) // 2, (new_height - size) // 2
    return with_channels(np.asarray(picture.crop((left, top, left + size, top + size))))
