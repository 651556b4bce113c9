"""Initializers: their variances by formula, and every kernel of a model drawn by them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo import initial

from jaxdl import models, registry, tree
from jaxdl.config import part
from jaxdl.objectives.base import Model

SHAPE = (3, 3, 64, 128)
FAN_IN, FAN_OUT = 9 * 64, 9 * 128
VARIANCES = {
    "glorot": 2 / (FAN_IN + FAN_OUT),
    "he": 2 / FAN_IN,
    "lecun": 1 / FAN_IN,
    "orthogonal": 1 / FAN_IN,  # 128 orthonormal columns of 576 numbers
    "normal": 0.01**2,
    "truncated_normal": (0.02 * 0.8796) ** 2,  # of a normal cut at two deviations
}


def test_every_initializer_has_its_variance_here():
    assert {e.name for e in registry.entries("initializers")} == set(VARIANCES)


@pytest.mark.parametrize("name", VARIANCES)
def test_variance(name):
    draw = registry.bind("initializers", part(name))
    values = draw(jax.random.key(0), SHAPE, jnp.float32)
    assert abs(float(values.mean())) < 5 * np.sqrt(VARIANCES[name] / values.size)
    np.testing.assert_allclose(values.var(), VARIANCES[name], rtol=0.03)


@pytest.mark.parametrize("draw", ["normal", "truncated_normal", "uniform"])
def test_how_it_is_drawn_does_not_change_the_variance(draw):
    values = registry.bind("initializers", part("he", fan="fan_out", draw=draw))(
        jax.random.key(0), SHAPE, jnp.float32
    )
    np.testing.assert_allclose(values.var(), 2 / FAN_OUT, rtol=0.03)


def test_orthogonal_columns():
    kernel = registry.bind("initializers", part("orthogonal"))(jax.random.key(0), SHAPE)
    columns = kernel.reshape(-1, SHAPE[-1])
    np.testing.assert_allclose(columns.T @ columns, np.eye(128), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "args", "size"),
    [("resnet18", {"width": 8}, 32), ("vit_tiny_patch16_224", {"depth": 3, "patch_size": 8}, 16)],
)
def test_every_kernel_of_a_model_is_drawn_by_it(name, args, size):
    draw = registry.bind("initializers", part("normal", stddev=0.5))
    model = Model(models.create(name, 10, **args), jnp.dtype("float32"), draw)
    params, _ = initial(model.init, jax.random.key(0), {"image": jnp.zeros((1, size, size, 3))})
    kernels = {n: k for n, k in tree.flatten(params).items() if n.endswith("/kernel")}
    assert len(kernels) >= 6
    for path, kernel in kernels.items():
        np.testing.assert_allclose(np.std(kernel), 0.5, rtol=0.2, err_msg=path)
