"""EfficientNet's scaling rule against the numbers that the paper and its code print."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import models, tree
from jaxdl.errors import UserError
from jaxdl.models.efficientnet import VARIANTS, compound


def parameters(name, **args):
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    model = models.create(name, 1000, **args)
    return tree.count(jax.eval_shape(model.init, jax.random.key(0), image)["params"])


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("depth", (1, 4, 1)),
        ("width", (2, 1, 1)),
        ("resolution", (1, 1, 2)),
        ("compound", (1.2, 1.4, 1.3)),
    ],
)
def test_each_strategy_is_that_of_table_7(strategy, expected):
    # Four networks of about the same cost, 1.8 billion products for B0's 0.4.
    np.testing.assert_allclose(np.round(compound(2.0, strategy), 1), expected)


def test_what_a_unit_of_phi_costs():
    width, depth, resolution = compound(1.0)
    assert depth * width**2 * resolution**2 == pytest.approx(1.92, abs=0.005)
    for strategy in ("depth", "width", "resolution"):
        width, depth, resolution = compound(3.0, strategy)
        assert depth * width**2 * resolution**2 == pytest.approx(2**3)


# phi by the published resolution, to the nearest half.
PHI = {"b0": 0, "b1": 0.5, "b2": 1, "b3": 2, "b4": 4, "b5": 5, "b6": 6, "b7": 7}


@pytest.mark.parametrize("name", PHI)
def test_how_far_the_published_scales_are_from_the_rule(name):
    width, depth, size, _ = VARIANTS[f"efficientnet_{name}"]
    rule, phi = compound(PHI[name]), np.log(size / 224) / np.log(1.15)
    assert abs(phi - PHI[name]) <= 0.25
    assert abs(rule.resolution * 224 - size) <= 12
    # B4's width is hand-set too, by a little more than its rounding.
    assert abs(rule.width - width) < 0.07
    behind = {"b4": 0.27, "b5": 0.29, "b6": 0.39, "b7": 0.48}
    assert rule.depth - depth == pytest.approx(behind.get(name, 0), abs=0.05)


def test_half_a_unit_is_b1_and_one_is_b2():
    # The rule's 1.0488 for B1's width rounds to other channels; its depth gives the same blocks.
    assert parameters("efficientnet", phi=1.0) == parameters("efficientnet_b2") == 9_109_994
    assert parameters("efficientnet", phi=0.5) != parameters("efficientnet_b1")
    depth = compound(0.5).depth
    assert parameters("efficientnet_b0", depth=depth) == parameters("efficientnet_b1") == 7_794_184


def test_scaling_the_resolution_changes_no_parameter():
    assert parameters("efficientnet", phi=3.0, strategy="resolution") == 5_288_548


def test_factors_that_do_not_double_the_cost_are_refused():
    with pytest.raises(UserError, match="gamma.2 = 2.77, but"):
        compound(1.0, beta=1.3, gamma=1.169)
    with pytest.raises(UserError, match="gamma.2 = 2.00, but"):
        models.create("efficientnet", 10, alpha=0.5, beta=2.0, gamma=1.0)
