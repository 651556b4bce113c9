"""DenseNet's CIFAR family, counted by hand."""

import jax
import jax.numpy as jnp
import pytest

from jaxdl import models, tree
from jaxdl.errors import UserError


@pytest.mark.parametrize(("depth", "growth"), [(40, 12), (100, 12)])
def test_parameters_of_the_cifar_family(depth, growth):
    k, c = growth, 2 * growth
    count = 27 * c
    for block in range(3):
        if block > 0:
            count += 2 * c + c * (c // 2)
            c //= 2
        for _ in range((depth - 4) // 6):
            count += 2 * c + c * 4 * k + 2 * 4 * k + 9 * 4 * k * k
            c += k
    count += 2 * c + 10 * c + 10
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    model = models.create("densenet_cifar", 10, depth=depth, growth=growth)
    assert tree.count(jax.eval_shape(model.init, jax.random.key(0), image)["params"]) == count
    if depth == 100:
        assert count == 769_162  # 0.8M in table 2 of the paper


def test_a_depth_that_does_not_divide_is_refused():
    with pytest.raises(UserError, match="depth is 41, but .* 6n . 4 layers"):
        models.create("densenet_cifar", 10, depth=41)
