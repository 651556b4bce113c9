"""The Fréchet distance in closed forms and by the authors' formula; of a run, of Inception."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import sqrtm

from jaxdl import models, registry
from jaxdl.config import Config, Data, part
from jaxdl.data.pipeline import open_split
from jaxdl.errors import UserError
from jaxdl.metrics.frechet import distance, frechet_distance, merge, moments
from jaxdl.research.fid import fid, fid_of, inception_features, moments_of


def covariance(seed, d, rank=None):
    root = np.random.default_rng(seed).normal(size=(d, rank or d))
    return root @ root.T


def test_of_one_dimension():
    # (m_1 - m_2)^2 + (s_1 - s_2)^2
    found = frechet_distance(
        np.array([1.0]), np.array([[4.0]]), np.array([3.0]), np.array([[25.0]])
    )
    np.testing.assert_allclose(found, (1 - 3) ** 2 + (2 - 5) ** 2)


def test_of_covariances_that_commute():
    # With one basis, |m_1 - m_2|^2 + sum_i (sqrt(l_1i) - sqrt(l_2i))^2, zeros among the l.
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    l_1, l_2 = rng.random(6), rng.random(6)
    l_1[2] = l_2[2] = l_2[4] = 0
    m_1, m_2 = rng.normal(size=(2, 6))
    c_1, c_2 = basis * l_1 @ basis.T, basis * l_2 @ basis.T
    expected = np.sum((m_1 - m_2) ** 2) + np.sum((np.sqrt(l_1) - np.sqrt(l_2)) ** 2)
    np.testing.assert_allclose(frechet_distance(m_1, c_1, m_2, c_2), expected, atol=1e-6)


@pytest.mark.parametrize("d", [1, 2, 16, 64])
def test_by_the_matrix_square_root(d):
    c_1, c_2 = covariance(1, d), covariance(2, d)
    m_1, m_2 = np.random.default_rng(3).normal(size=(2, d))
    root = np.real(sqrtm(c_1 @ c_2))
    expected = np.sum((m_1 - m_2) ** 2) + np.trace(c_1 + c_2 - 2 * root)
    np.testing.assert_allclose(frechet_distance(m_1, c_1, m_2, c_2), expected, rtol=1e-9)
    # And the eigenvalues of the product, whose roots sum to the trace of its root.
    values = np.linalg.eigvals(c_1 @ c_2)
    by_values = np.sum((m_1 - m_2) ** 2) + np.trace(c_1 + c_2) - 2 * np.sqrt(values).real.sum()
    np.testing.assert_allclose(by_values, expected, rtol=1e-9)


def test_the_root_is_of_matrices_and_not_of_entries():
    c = np.array([[2.0, 1.0], [1.0, 2.0]])
    zero = np.zeros(2)
    np.testing.assert_allclose(frechet_distance(zero, c, zero, c), 0, atol=1e-12)
    np.testing.assert_allclose(frechet_distance(zero, c, zero, 4 * c), 4 * (2 - 1) ** 2)


def test_symmetric_zero_of_itself_and_singular():
    c_1, c_2 = covariance(1, 40, rank=5), covariance(2, 40, rank=7)
    zero, one = np.zeros(40), np.ones(40)
    np.testing.assert_allclose(frechet_distance(zero, c_1, zero, c_1), 0, atol=1e-5)
    there, back = frechet_distance(zero, c_1, one, c_2), frechet_distance(one, c_2, zero, c_1)
    np.testing.assert_allclose(there, back, rtol=1e-9)
    # Two planes at right angles share nothing: all of both traces is left.
    a, b = np.diag([1.0, 2, 0, 0]), np.diag([0.0, 0, 3, 4])
    np.testing.assert_allclose(frechet_distance(zero[:4], a, zero[:4], b), 10)
    assert np.isnan(frechet_distance(zero, c_1 * np.nan, one, c_2))


def test_moments_are_those_of_numpy_in_any_parts():
    x = np.random.default_rng(0).normal(1e4, 1, (50, 7)).astype(np.float32)
    whole = merge(moments(x[:0]), merge(moments(x[:17]), merge(moments(x[17:18]), moments(x[18:]))))
    assert whole.count == 50
    np.testing.assert_allclose(whole.mean, x.astype(float).mean(0), rtol=1e-12)
    np.testing.assert_allclose(whole.covariance, np.cov(x.astype(float), rowvar=False), rtol=1e-9)
    assert merge(moments(x[:0]), moments(x[:0])).count == 0


def sets(n, shift):
    """Batches with gaps that hold NaN."""
    x = np.random.default_rng(n).normal(shift, 1 + shift, (n, 4)).astype(np.float32)
    filled = np.concatenate([x, np.full((-n % 8, 4), np.nan, np.float32)]).reshape(-1, 8, 4)
    mask = (np.arange(filled.shape[0] * 8) < n).astype(np.float32).reshape(-1, 8)
    to_batch = lambda x, m: {"image": jnp.asarray(x), "mask": jnp.asarray(m)}
    return x.astype(float), list(map(to_batch, filled, mask))


def test_padding_counts_for_nothing():
    (x, of_x), (y, of_y) = sets(83, 0), sets(61, 1)
    expected = frechet_distance(
        x.mean(0), np.cov(x, rowvar=False), y.mean(0), np.cov(y, rowvar=False)
    )
    found = fid(lambda batch: batch["image"], of_x, of_y)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    without_mask = fid(lambda batch: batch["image"], [{"image": jnp.asarray(x, jnp.float32)}], of_y)
    np.testing.assert_allclose(without_mask, expected, rtol=1e-6)


def test_mistakes_are_said():
    one, many = moments(np.ones((1, 3))), moments(np.eye(3))
    with pytest.raises(UserError, match="needs two examples: there are 1 and 3"):
        distance(one, many)
    with pytest.raises(UserError, match="features of 3 and 4 dimensions"):
        distance(many, moments(np.eye(4)))
    with pytest.raises(UserError, match="no batch"):
        moments_of(lambda batch: batch["image"], [])


SMALL = Config(
    data=Data(train="train[:64]", batch_size=16, evaluation_batch_size=48),
    model=part("cnn"),
    duration="2 steps",
)


def test_of_splits_in_the_features_of_a_network():
    same = fid_of(SMALL, "train[:100]", "train[:100]")
    other = fid_of(SMALL, "train[:100]", "train[100:200]")
    np.testing.assert_allclose(same, 0, atol=1e-4)
    assert other > 10 * abs(same) and other > 1e-3

    # The very pixels as features, by NumPy.
    flat = lambda image: image.reshape(len(image), -1).astype(np.float32)
    found = fid_of(
        SMALL, "train[:100]", "train[100:200]", features=lambda batch: flat(batch["image"])
    )
    x = flat(
        open_split(registry.bind("sources", SMALL.data.source), "train[:200]", memory=2**30).arrays[
            "image"
        ]
    ).astype(float)
    expected = distance(moments(x[:100]), moments(x[100:]))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


class Small(nn.Module):
    def features(self, image, train):
        return image[:, ::2, ::2] ** 2


def test_inception_sees_images_as_its_weights_were_trained(monkeypatch):
    asked = []
    load = lambda *args, **kwargs: (asked.append((args, kwargs)), (Small(), {}))[1]
    monkeypatch.setattr("jaxdl.research.fid.pretrained", load)
    features = inception_features("file.pth", size=6, std=(0.25,), width=0.5)
    assert asked == [(("file.pth", "inception_v3"), {"image": (6, 6, 3), "width": 0.5})]

    image = np.random.default_rng(0).integers(0, 256, (2, 6, 6, 3)).astype(np.uint8)
    expected = ((image[:, ::2, ::2] / 255 - 0.5) / 0.25) ** 2
    of = lambda image: np.asarray(features({"image": jnp.asarray(image)}))
    np.testing.assert_allclose(of(image), expected.mean((1, 2)), rtol=1e-5)
    # Floats are in [0, 1] already; one channel stands for three; a smaller image is enlarged.
    np.testing.assert_allclose(of(image / np.float32(255)), of(image), rtol=1e-5)
    np.testing.assert_allclose(of(image[..., :1]), of(np.repeat(image[..., :1], 3, -1)), rtol=1e-6)
    flat = np.full((2, 3, 3, 1), 255, np.uint8)
    np.testing.assert_allclose(of(flat), np.full((2, 3), 4.0), rtol=1e-5)


def test_inception_has_2048_features():
    module = models.create("inception_v3", 1000)
    image = jnp.zeros((1, 299, 299, 3))
    variables = jax.eval_shape(module.init, jax.random.key(0), image)
    maps = jax.eval_shape(lambda v: module.apply(v, image, method="features"), variables)
    assert maps.shape == (1, 8, 8, 2048)
