"""Single images on the host, by Pillow: reading a file, fitting to a square."""

import concurrent.futures
import contextlib
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import BITSPERSAMPLE, SAMPLEFORMAT
from PIL.TiffImagePlugin import PHOTOMETRIC_INTERPRETATION as PHOTOMETRIC

from jaxdl.errors import UserError

FORMATS = {
    "PNG": (".png",), "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"), "BMP": (".bmp",),
    "GIF": (".gif",), "TIFF": (".tif", ".tiff"), "WEBP": (".webp",),
    "PPM": (".ppm", ".pgm", ".pnm"),
}  # fmt: skip
"""Formats that Pillow may read a file as, and the suffixes of each. It knows others, one of which
starts a program (EPS)."""
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
MOST_PIXELS = 2**26
"""A file of some kilobytes may expand to any number of them."""
LONGEST_RATIO = 32
"""Of an image's sides, when it is resized: the ends of a longer one are cut off before."""

Side = Annotated[int, msgspec.Meta(ge=1, le=16384)]
"""Pixels along a side of an image."""


def load(file: Path, channels: int) -> np.ndarray:
    """An image file as (h, w, channels) uint8; 1 channel is grey, 3 are red, green and blue.

    It is turned as its EXIF orientation says. Of 12 or 16 bits the upper 8 are kept; floats are
    those of [0, 1], times 255. What is transparent is shown on white, unless alpha is asked for.

    Args:
        file: of one of the `FORMATS`.
        channels: 1, 3, or 4 for colour and alpha.

    Raises:
        UserError: it cannot be read; says why.
    """
    try:
        # To open anything else may block for ever, or never end.
        if not stat.S_ISREG(file.stat().st_mode):
            raise ValueError("it is not a file")
        with Image.open(file, formats=tuple(FORMATS)) as image:
            if image.width * image.height > MOST_PIXELS:
                raise ValueError(f"{image.width} x {image.height} are too many pixels")
            stored = _stored(image)
            upright = image
            with contextlib.suppress(Exception):  # a broken orientation is none
                upright = ImageOps.exif_transpose(image)
            return with_channels(np.asarray(_opaque(_bytes(upright, stored), channels)))
    except Exception as error:  # Pillow's decoders raise whatever the format's parser raises
        raise UserError(f"cannot read the image {file}: {error}") from error


class _Stored(NamedTuple):
    """Samples of a file, of which Pillow keeps the numbers but not the meaning."""

    bits: int
    white_is_zero: bool


def _stored(image: Image.Image) -> _Stored:
    """The samples of a file that is opened; its transparent grey becomes one of 8 bits, if need be.

    Raises:
        ValueError: Pillow would read them as others.
    """
    bits, white_is_zero = 16, False
    transparent = image.info.get("transparency")
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]  # of a class that Pillow does not name
        bits, white_is_zero = tags.get(BITSPERSAMPLE, (1,))[0], not tags.get(PHOTOMETRIC, 1)
        if tags.get(SAMPLEFORMAT, (1,))[0] == 2 and bits <= 16:
            raise ValueError(f"its pixels are signed numbers of {bits} bits: expected unsigned")
    elif image.format == "PNG" and isinstance(transparent, int | tuple):
        depth = re.search(r";(\d+)", str(image.tile[0][3]))  # 'L;2' for samples of 2 bits
        if image.mode == "RGB" and depth:
            raise ValueError(f"a transparent colour of {depth[1]} bits is not read")
        if image.mode == "L" and depth:
            image.info["transparency"] = transparent * 255 // (2 ** int(depth[1]) - 1)
    return _Stored(min(bits, 16), white_is_zero)


def _bytes(image: Image.Image, stored: _Stored) -> Image.Image:
    """An image of 12 or 16 bits or of floats as one of 8 bits; others as is.

    Pillow would clip them, and lose a transparent grey.
    """
    if image.mode[0] not in "IF":
        return image
    pixels = np.asarray(image)
    top = 1 if image.mode == "F" else 2**stored.bits - 1
    low, high = pixels.min(), pixels.max()
    if not (low >= 0 and high <= top):  # NaN too
        raise ValueError(f"its pixels are {low:g} to {high:g}: expected 0 to {top}")
    shown = top - pixels if stored.white_is_zero else pixels
    eight = np.round(shown * 255.0) if image.mode == "F" else shown >> (stored.bits - 8)
    grey = Image.fromarray(eight.astype(np.uint8))
    if "transparency" not in image.info:
        return grey
    alpha = Image.fromarray(np.uint8(255) * (pixels != image.info["transparency"]))
    return Image.merge("LA", [grey, alpha])


def _opaque(image: Image.Image, channels: int) -> Image.Image:
    """An image of 1 or 3 channels on white where it is transparent; of 4 with its alpha."""
    if channels < 4 and (image.mode[-1] in "Aa" or "transparency" in image.info):
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(ground, image)
    return image.convert(_MODES[channels])


def as_stored(image: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """An image of any size as one of a source that resizes: uint8 of a shape (h, w, c).

    Args:
        image: (h, w) or (h, w, c) uint8, c of 1, 3 or 4.
        shape: of the result, c of 1, 3 or 4.
    """
    *size, channels = shape
    if channels not in _MODES:
        raise UserError(f"an image has 1, 3 or 4 channels, and {channels} are wanted")
    fitted = fit(with_channels(np.asarray(image)), tuple(size))
    if fitted.shape[2] == channels:
        return fitted
    picture = Image.fromarray(fitted[:, :, 0] if fitted.shape[2] == 1 else fitted)
    return with_channels(np.asarray(picture.convert(_MODES[channels])))


def image_files(inputs: Sequence[Path]) -> list[Path]:
    """The files named, and those below the folders named whose suffix is an image's, sorted.

    Raises:
        UserError: nothing is named, or a folder holds no image.
    """
    suffixes = tuple(suffix for group in FORMATS.values() for suffix in group)
    files: list[Path] = []
    for path in inputs:
        if not path.is_dir():
            files.append(path)
            continue
        below = [f for f in files_below(path) if f.suffix.lower() in suffixes]
        if not below:
            raise UserError(f"'{path}' holds no image ({' '.join(suffixes)})")
        files += below
    if not files:
        raise UserError("name image files, or a folder of them")
    return files


def files_below(directory: Path) -> list[Path]:
    """Files below a directory, sorted, without hidden ones.

    A link to a folder is followed once, unless it leads to a folder around the directory.
    """
    files, visited = [], {str(p) for p in Path(os.path.realpath(directory)).parents}
    for place, folders, names in os.walk(directory, followlinks=True):
        real = os.path.realpath(place)
        is_new = real not in visited
        visited.add(real)
        folders[:] = [name for name in folders if is_new and not name.startswith(".")]
        files += [Path(place, name) for name in names if is_new and not name.startswith(".")]
    return sorted(files)


def unreadable(files: Sequence[Path], channels: int, threads: int = 4) -> dict[Path, str]:
    """The files that cannot be read, each with the reason; all of them are decoded."""

    def reason(file: Path) -> str | None:
        try:
            load(file, channels)
        except UserError as error:
            return str(error).partition(f"{file}: ")[2]
        return None

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        reasons = pool.map(reason, files)
    return {file: why for file, why in zip(files, reasons, strict=True) if why is not None}


def with_channels(image: np.ndarray) -> np.ndarray:
    """(h, w) as (h, w, 1); any other shape as it is."""
    return image[:, :, None] if image.ndim == 2 else image


def fit(
    image: np.ndarray,
    size: int | tuple[int, int],
    resample: Image.Resampling = Image.Resampling.BILINEAR,
) -> np.ndarray:
    """Resize the shorter side to `size` (with antialiasing), then cut out the centre.

    Args:
        image: (h, w, c) uint8, c of 1, 3 or 4.
        size: side of the result in pixels, or its height and width, which it then covers.
        resample: `NEAREST` for a map of class numbers.

    Returns:
        (size, size, c) or (*size, c) uint8.
    """
    rows, columns = (size, size) if isinstance(size, int) else size
    height, width, channels = image.shape
    if image.dtype != np.uint8 or channels not in (1, 3, 4):
        raise UserError(
            "image_size resizes uint8 images of 1, 3 or 4 channels, "
            f"not {image.dtype} of shape {image.shape}"
        )
    if (height, width) == (rows, columns):
        return image
    longest = LONGEST_RATIO * min(height, width)
    top, left = max(0, height - longest) // 2, max(0, width - longest) // 2
    image = image[top : top + longest, left : left + longest]
    height, width, _ = image.shape
    scale = max(rows / height, columns / width)
    new_width, new_height = max(columns, round(width * scale)), max(rows, round(height * scale))
    picture = Image.fromarray(image[:, :, 0] if channels == 1 else image)
    picture = picture.resize((new_width, new_height), resample)
    left, top = (new_width - columns) // 2, (new_height - rows) // 2
    return with_channels(np.asarray(picture.crop((left, top, left + columns, top + rows))))
