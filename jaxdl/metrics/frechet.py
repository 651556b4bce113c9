"""GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium.

Heusel, Ramsauer, Unterthiner, Nessler, Hochreiter 2017. https://arxiv.org/abs/1706.08500

The Fréchet distance of two Gaussians, fitted to features of two sets of images. Everything here is
float64 on the host: a distance is a small difference of large traces. Means and covariances are
merged about their means, so that features far from zero lose no digits.
"""

import math
from typing import NamedTuple

import numpy as np

from jaxdl.errors import UserError


class Moments(NamedTuple):
    """Mergeable statistics of n vectors: count, mean and scatter."""

    count: int
    mean: np.ndarray
    """(d,) float64"""
    scatter: np.ndarray
    """(d, d) float64: sum of (x - mean) (x - mean)^T"""

    @property
    def covariance(self) -> np.ndarray:
        """(d, d), by n - 1, as NumPy's and the authors' code have it."""
        return self.scatter / (self.count - 1)


def moments(features: np.ndarray) -> Moments:
    """Of vectors (n, d), n may be 0."""
    x = np.asarray(features, np.float64)
    mean = x.mean(axis=0) if len(x) else np.zeros(x.shape[1])
    return Moments(len(x), mean, (x - mean).T @ (x - mean))


def merge(a: Moments, b: Moments) -> Moments:
    """Of two sets together: Chan, Golub, LeVeque 1983. https://doi.org/10.1080/00031305.1983.10483115"""
    n = a.count + b.count
    if n == 0:
        return a
    delta = b.mean - a.mean
    # S = S_a + S_b + n_a n_b / n delta delta^T
    scatter = a.scatter + b.scatter + a.count * b.count / n * np.outer(delta, delta)
    return Moments(n, a.mean + b.count / n * delta, scatter)


def frechet_distance(
    mean_a: np.ndarray, covariance_a: np.ndarray, mean_b: np.ndarray, covariance_b: np.ndarray
) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) of means (d,) and covariances (d, d).

    It is a squared distance, never below 0 but for rounding, and NaN where anything is not
    finite. Covariances may be singular, as those of fewer vectors than dimensions are.
    """
    arrays = [np.asarray(x, np.float64) for x in (mean_a, covariance_a, mean_b, covariance_b)]
    if not all(np.isfinite(x).all() for x in arrays):
        return math.nan
    m_a, c_a, m_b, c_b = arrays
    # C_a C_b has the eigenvalues of R R^T, R = C_a^(1/2) C_b^(1/2): the trace of its root is the
    # sum of the singular values of R, which is real whatever rounding does.
    root = np.linalg.svd(_root(c_a) @ _root(c_b), compute_uv=False).sum()
    return float(np.sum((m_a - m_b) ** 2) + np.trace(c_a) + np.trace(c_b) - 2 * root)


def distance(a: Moments, b: Moments) -> float:
    """The Fréchet distance of the Gaussians of two sets.

    Raises:
        UserError: a set has fewer than two vectors, or the two are of other dimensions.
    """
    if min(a.count, b.count) < 2:
        raise UserError(f"a covariance needs two examples: there are {a.count} and {b.count}")
    if a.mean.shape != b.mean.shape:
        raise UserError(f"features of {len(a.mean)} and {len(b.mean)} dimensions do not compare")
    return frechet_distance(a.mean, a.covariance, b.mean, b.covariance)


def _root(matrix: np.ndarray) -> np.ndarray:
    """The square root of a symmetric matrix without negative eigenvalues but those of rounding."""
    values, vectors = np.linalg.eigh(matrix)
    return vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
