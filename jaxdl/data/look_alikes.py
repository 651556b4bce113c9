"""Pictures that are one picture, encoded or resized anew: near in thumbnails, and alone in that.

The thumbnail of a picture is its grey values at 12 x 12 pixels; two differ by 1 minus their
correlation. What is near depends on the data: two digits '1' are nearer to each other than a noisy
photo to itself after JPEG. So a picture is the same as another where it is ten times nearer to it
than to the sixth nearest, which is Lowe's ratio test. Distinctive Image Features from
Scale-Invariant Keypoints. Lowe 2004. https://doi.org/10.1023/B:VISI.0000029664.99615.94
"""

import numpy as np
from PIL import Image

SIDE = 12
RATIO = 0.1
"""Of the distance to the sixth nearest picture, at most. Of 5,000 digits of MNIST beside 30,000
others none is that near to one; of 150 photos, crops or digits at JPEG quality 75 at least 99 % are
that near to their original."""
NEAREST = 6
ALONE = 0.1
"""The distance to other pictures where there are none"""
_FLAT = 1.0  # grey levels of a thumbnail's standard deviation: below it a picture shows nothing
_BLOCK = 1024


def thumbnail(image: np.ndarray) -> np.ndarray:
    """Grey values of an image (h, w, c) uint8 at 12 x 12 pixels, (144,) uint8.

    Args:
        image: of 3 or more channels, the first of which are red, green and blue; or grey.
    """
    channels = image.shape[-1]
    picture = Image.fromarray(image[..., :3] if channels >= 3 else image[..., 0])
    small = picture.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(small).reshape(-1)


def look_alikes(query: np.ndarray, other: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (i, j) of thumbnails of one picture.

    Args:
        query: (m, 144) uint8.
        other: (n, 144) uint8.

    Returns:
        i of `query`, j of `other`, by i; up to five of them for one i.
    """
    if not len(query) or not len(other):
        return []
    reference, k = _standardised(other), min(NEAREST, len(other))
    pairs = []
    for start in range(0, len(query), _BLOCK):
        distance = 1 - _standardised(query[start : start + _BLOCK]) @ reference.T
        near = np.argpartition(distance, k - 1, axis=1)[:, :k]
        near = np.take_along_axis(near, np.argsort(np.take_along_axis(distance, near, 1), 1), 1)
        for row, columns in enumerate(near):
            far = distance[row, columns[-1]] if k > 1 else ALONE
            pairs += [(start + row, int(j)) for j in columns if distance[row, j] < RATIO * far]
    return pairs


def _standardised(thumbnails: np.ndarray) -> np.ndarray:
    """Of mean 0 and length 1, so that a product is a correlation; all 0 where there is nothing."""
    values = thumbnails.astype(np.float32)
    values -= values.mean(axis=1, keepdims=True)
    deviation = values.std(axis=1, keepdims=True)
    length = np.sqrt(values.shape[1]) * np.maximum(deviation, 1e-6)
    return np.where(deviation < _FLAT, 0, values / length)
