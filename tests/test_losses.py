"""The battery over all losses, and their values by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxdl import registry
from jaxdl.config import part
from jaxdl.losses.cross_entropy import cross_entropy

LOSSES = [e.name for e in registry.entries("losses")]
LOGITS = jnp.asarray([[0.0, 0.0, 0.0, 0.0], [2.0, 1.0, 0.0, -1.0], [-3.0, 5.0, 0.5, 1.0]])
LABEL = jnp.asarray([2, 0, 3])


@pytest.mark.parametrize("name", LOSSES)
def test_one_finite_float32_number_an_example(name):
    loss = registry.bind("losses", part(name))
    for logits in (LOGITS, LOGITS.astype(jnp.bfloat16), 1e4 * LOGITS, jnp.zeros_like(LOGITS)):
        values = jax.jit(loss)(logits, LABEL)
        assert values.shape == (3,) and values.dtype == jnp.float32
        assert np.all(np.isfinite(values)) and np.all(values >= 0)
        grads = jax.grad(lambda x: jnp.sum(loss(x, LABEL)))(logits.astype(jnp.float32))
        assert np.all(np.isfinite(grads))


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_and_vmap(name):
    loss = registry.bind("losses", part(name))
    check_grads(lambda x: loss(x, LABEL), (LOGITS,), order=2, modes=["rev"], atol=2e-2, rtol=2e-2)
    alone = jax.vmap(lambda x, y: loss(x[None], y[None])[0])(LOGITS, LABEL)
    np.testing.assert_allclose(alone, loss(LOGITS, LABEL), rtol=1e-6)


def test_cross_entropy_by_hand():
    values = cross_entropy(LOGITS, LABEL)
    # log 4; log(e^2 + e + 1 + 1/e) - 2; log(e^-3 + e^5 + e^0.5 + e) - 1
    expected = [
        np.log(4),
        np.log(np.exp(2) + np.exp(1) + 1 + np.exp(-1)) - 2,
        np.log(np.exp(-3) + np.exp(5) + np.exp(0.5) + np.exp(1)) - 1,
    ]
    np.testing.assert_allclose(values, expected, rtol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_label_smoothing_by_hand(smoothing):
    log_p = np.asarray(jax.nn.log_softmax(LOGITS), np.float64)
    # Szegedy et al., equation in section 7: (1 - e) * H(label, p) + e * H(uniform, p)
    expected = -(1 - smoothing) * log_p[np.arange(3), LABEL] - smoothing * log_p.mean(-1)
    values = cross_entropy(LOGITS, LABEL, label_smoothing=smoothing)
    np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_soft_labels_are_the_mixture():
    soft = 0.3 * jax.nn.one_hot(LABEL, 4) + 0.7 * jax.nn.one_hot(jnp.asarray([0, 1, 2]), 4)
    other = cross_entropy(LOGITS, jnp.asarray([0, 1, 2]))
    mixed = 0.3 * cross_entropy(LOGITS, LABEL) + 0.7 * other
    np.testing.assert_allclose(cross_entropy(LOGITS, soft), mixed, rtol=1e-5)
