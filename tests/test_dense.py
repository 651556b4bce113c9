"""Dense layers as convolutions: the same logits on the training size, a map of them on larger."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import models
from jaxdl.errors import UserError
from jaxdl.nn.dense import dense, to_convolutional
from jaxdl.nn.pool import max_pool

SMALL = {
    "alexnet": (32, {"width": 0.125, "kernel": 5, "stride": 1, "pool_size": 3, "hidden": 16}),
    "vgg11": (64, {"width": 4, "pool_size": 2, "hidden": 16}),
}


def draw(size, count=2):
    return jax.random.normal(jax.random.key(1), (count, *np.broadcast_to(size, 2), 3))


def both(name, **args):
    """(dense model, its parameters, convolutional model, its parameters)"""
    size, small = SMALL[name]
    small = small | args
    one, other = (
        models.create(name, 5, **small),
        models.create(name, 5, convolutional=True, **small),
    )
    params = one.init(jax.random.key(0), draw(size))["params"]
    shapes = jax.eval_shape(other.init, jax.random.key(0), draw(size))["params"]
    return one, params, other, to_convolutional(params, shapes)


@pytest.mark.parametrize("name", SMALL)
def test_logits_are_identical_on_the_training_size(name):
    one, params, other, converted = both(name)
    image = draw(SMALL[name][0])
    expected = one.apply({"params": params}, image)
    maps = other.apply({"params": converted}, image)
    assert maps.shape == (2, 1, 1, 5)
    np.testing.assert_allclose(maps[:, 0, 0], expected, rtol=1e-5, atol=1e-6)


class Valid(nn.Module):
    """No padding anywhere, 14x14 in training, one step of the map is two pixels."""

    window: tuple[int, int] | None

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3), padding="VALID", name="conv1")(x))  # 14 -> 12
        x = max_pool(x, (2, 2), (2, 2))  # 6
        x = nn.relu(nn.Conv(4, (3, 3), padding="VALID", name="conv2")(x))  # 4
        x = nn.relu(dense(x, 8, self.window, "fc1"))
        return dense(x, 5, self.window and (1, 1), "fc2")


def test_each_entry_of_the_map_is_the_dense_network_on_its_crop():
    image, key = draw((18, 20)), jax.random.key(0)
    one, other = Valid(None), Valid((4, 4))
    params = one.init(key, image[:, :14, :14])
    maps = other.apply(to_convolutional(params, jax.eval_shape(other.init, key, image)), image)
    assert maps.shape == (2, 3, 4, 5)
    for i, j in np.ndindex(3, 4):
        crop = image[:, 2 * i : 2 * i + 14, 2 * j : 2 * j + 14]
        np.testing.assert_allclose(maps[:, i, j], one.apply(params, crop), rtol=1e-4, atol=1e-5)


def test_vgg_moves_its_map_with_the_image_where_padding_is_out_of_sight():
    # Entry i of VGG-11 sees pixels [32 i - 59, 32 i + 91): 160 pixels have one such entry, i = 2,
    # and 192 have two, 2 and 3.
    _, _, model, params = both("vgg11", pool_size=1)
    image = draw((160, 224), 1)
    apply = jax.jit(lambda x: model.apply({"params": params}, x))
    here, moved = apply(image[:, :, :192]), apply(image[:, :, 32:])
    assert here.shape == (1, 5, 6, 5)
    scale = np.abs(here).max()
    np.testing.assert_allclose(moved[0, 2, 2], here[0, 2, 3], atol=1e-5 * scale)
    assert np.abs(moved[0, 2, 0] - here[0, 2, 1]).max() > 1e-3 * scale


def test_mistakes_are_named():
    _, params, other, converted = both("alexnet")
    with pytest.raises(UserError, match="backbone/fc6/kernel.*cannot become"):
        to_convolutional(converted, params)
    rest = {"backbone": {k: v for k, v in params["backbone"].items() if k != "fc7"}}
    with pytest.raises(UserError, match="dense model has no 'backbone/fc7/bias'"):
        to_convolutional(rest | {"head": params["head"]}, converted)
    with pytest.raises(UserError, match="convolutional model has no 'backbone/fc7/bias'"):
        to_convolutional(params, rest | {"head": params["head"]})
    with pytest.raises(UserError, match="before 'fc6' is 1x1, smaller than its window 3x3"):
        jax.eval_shape(other.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
