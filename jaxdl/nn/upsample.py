"""Ways back to a larger map: interpolation, transposed convolution, unpooling; x is (b, h, w, c).

Fully Convolutional Networks for Semantic Segmentation. Long, Shelhamer, Darrell 2014,
https://arxiv.org/abs/1411.4038 (transposed convolutions that start as bilinear interpolation).
SegNet. Badrinarayanan, Kendall, Cipolla 2015, https://arxiv.org/abs/1511.00561 (unpooling).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.types import Array


def bilinear(x: Array, size: tuple[int, int]) -> Array:
    """(b, h, w, c) -> (b, *size, c), with pixels as areas: corners of the maps coincide."""
    return jax.image.resize(x, (x.shape[0], *size, x.shape[3]), "bilinear", antialias=False)


def bilinear_kernel(factor: int) -> np.ndarray:
    """(2 * factor, 2 * factor): weights of bilinear interpolation by an even factor, sum factor^2.

    Odd factors give (2 * factor - 1)^2 weights, so that the kernel has a middle.
    """
    side = 2 * factor - factor % 2
    # w(t) = 1 - |t| / factor, t the distance to the kernel's middle
    t = np.arange(side) - (side - 1) / 2
    w = 1 - np.abs(t) / factor
    return np.outer(w, w)


def bilinear_init(key: Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
    """Initialiser of a transposed convolution (kh, kw, c, c): each channel interpolates alone.

    Raises:
        ValueError: input and output channels differ.
    """
    del key
    *window, inputs, outputs = shape
    if inputs != outputs:
        raise ValueError(f"{inputs} channels cannot be interpolated to {outputs}")
    kernel = bilinear_kernel((window[0] + 1) // 2)
    return jnp.asarray(kernel[:, :, None, None] * np.eye(inputs), dtype)


class Upsample(nn.Module):
    """Transposed convolution, bilinear interpolation at first: (b, h, w, c) -> (b, fh, fw, c).

    Attributes:
        factor: f, by which height and width grow.
    """

    factor: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        side = 2 * self.factor - self.factor % 2
        return nn.ConvTranspose(
            x.shape[-1],
            (side, side),
            strides=(self.factor, self.factor),
            padding="SAME",
            use_bias=False,
            kernel_init=bilinear_init,
            name="deconv",
        )(x)


def _windows(x: Array, window: int) -> Array:
    """(b, h, w, c) -> (b, h', w', window^2, c), padded by the lowest number where it is short."""
    b, h, w, c = x.shape
    rows, columns = -(-h // window), -(-w // window)
    pads = ((0, 0), (0, rows * window - h), (0, columns * window - w), (0, 0))
    x = jnp.pad(x, pads, constant_values=-jnp.inf)
    x = x.reshape(b, rows, window, columns, window, c).swapaxes(2, 3)
    return x.reshape(b, rows, columns, window * window, c)


def max_pool_with_indices(x: Array, window: int = 2) -> tuple[Array, Array]:
    """Maxima of windows side by side, and where in its window each was.

    (b, h, w, c) -> two of (b, ceil(h / window), ceil(w / window), c): the values, and integers in
    [0, window^2), row by row; the first of equals. A last, incomplete window counts.
    """
    windows = _windows(x, window)
    index = jnp.argmax(windows, axis=3)
    values = jnp.take_along_axis(windows, index[:, :, :, None], axis=3)[:, :, :, 0]
    return values, index


def unpool(x: Array, index: Array, size: tuple[int, int], window: int = 2) -> Array:
    """Each value where its maximum was, zeros elsewhere: (b, h', w', c) -> (b, *size, c).

    Args:
        x: values, not necessarily those that were pooled.
        index: as `max_pool_with_indices` gave it.
        size: of the map that was pooled.
        window: of the pooling.
    """
    b, rows, columns, c = x.shape
    places = jnp.arange(window * window).reshape(1, 1, 1, -1, 1)
    here = places == index[:, :, :, None]  # (b h' w' window^2 c)
    spread = jnp.where(here, x[:, :, :, None], jnp.zeros((), x.dtype))
    spread = spread.reshape(b, rows, columns, window, window, c).swapaxes(2, 3)
    return spread.reshape(b, rows * window, columns * window, c)[:, : size[0], : size[1]]
