"""The plateau's rule against PyTorch's and by hand, and what goes through it."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdl import registry
from jaxdl.config import part
from jaxdl.durations import to_steps
from jaxdl.errors import UserError
from jaxdl.optim.plateau import reduce_on_plateau
from jaxdl.optim.sam import sam
from jaxdl.optim.sgd import sgd

TORCH = json.loads((Path(__file__).parent / "references/schedules_torch.json").read_text())
# PyTorch waits for one window more than its patience.
AS_TORCH = {
    "plain": {"factor": 0.5, "patience": 3},
    "impatient": {"factor": 0.5, "patience": 1},
    "cooldown": {"factor": 0.1, "patience": 2, "cooldown": 3},
    "floor": {"factor": 0.3, "patience": 2, "min_scale": 0.2},
    "absolute": {"factor": 0.5, "patience": 2, "rtol": 0.0, "atol": 0.3},
    "relative": {"factor": 0.5, "patience": 2, "rtol": 0.2},
}
PARAMS = {"w": jnp.array([1.0, -2.0])}


def scales(values, dtype=jnp.float32, **args):
    """What a step of 1 comes to after each loss."""
    tx = reduce_on_plateau(optax.identity(), **args)
    one = {"w": jnp.ones(2, dtype)}

    def update(state, value):
        updates, state = tx.update(one, state, one, value=value)
        return state, updates["w"]

    found = jax.jit(lambda values: jax.lax.scan(update, tx.init(one), values)[1])(
        jnp.asarray(values, jnp.float32)
    )
    assert found.dtype == dtype
    return np.asarray(found[:, 0], np.float64)


@pytest.mark.parametrize("case", AS_TORCH)
def test_as_pytorch(case):
    found = scales(TORCH["plateau_means"], every=1, **AS_TORCH[case])
    np.testing.assert_allclose(found, TORCH[f"plateau_{case}"], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("case", AS_TORCH)
def test_windows_are_averaged(case):
    # Three losses a window around the mean: alone, they would be another sequence.
    losses = np.repeat(TORCH["plateau_means"], 3) + np.tile([1.0, -0.25, -0.75], 24)
    found = scales(losses, every=3, **AS_TORCH[case])
    expected = np.asarray(TORCH[f"plateau_{case}"])
    np.testing.assert_allclose(found[2::3], expected, rtol=1e-5, atol=1e-9)
    # within a window nothing moves
    np.testing.assert_allclose(found[3::3], expected[:-1], rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(found[4::3], expected[:-1], rtol=1e-5, atol=1e-9)


def test_by_hand():
    # best 4, rests twice, falls, cools down for one window, rests twice, falls again
    found = scales([4, 4, 5, 5, 5, 5, 3, 3, 3], every=1, patience=2, factor=0.5, cooldown=1)
    assert found.tolist() == [1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125]


def test_a_loss_that_is_no_number_counts_as_no_better_and_is_forgotten():
    losses = [2.0, np.nan, 1.0, 1.0, 1.0]
    assert scales(losses, every=1, patience=2, factor=0.5).tolist() == [1, 1, 1, 1, 0.5]


def test_means_are_float32_whatever_the_parameters_are():
    # In bfloat16 a mean of 2.99 is 3, and would be no better than the window before.
    losses = [3.0, 3.0, 2.99, 2.99]
    assert scales(losses, jnp.bfloat16, every=2, patience=1, factor=0.5).tolist() == [1, 1, 1, 1]


def test_the_update_is_scaled_and_not_the_gradient():
    tx = reduce_on_plateau(optax.scale_by_sign(), every=1, patience=1, factor=0.25)
    state = tx.init(PARAMS)
    for _ in range(2):
        updates, state = tx.update(PARAMS, state, PARAMS, value=1.0)
    np.testing.assert_allclose(updates["w"], [0.25, -0.25])


def gradient(params):
    return {"w": jnp.array([1.0, 10.0]) * params["w"]}


@pytest.mark.parametrize("outermost", ["sam", "plateau"])
def test_with_sam_on_either_side(outermost):
    lower = lambda tx: reduce_on_plateau(tx, every=1, patience=1, factor=0.5)
    climb = lambda tx: sam(tx, rho=0.5)
    base = sgd(1.0, momentum=0)
    tx = climb(lower(base)) if outermost == "sam" else lower(climb(base))
    state = tx.init(PARAMS)
    for scale in [1, 0.5]:
        updates, state = tx.update(gradient(PARAMS), state, PARAMS, value=3.0, grad_fn=gradient)
        first = np.array([1.0, -20.0])
        second = np.array([1.0, 10.0]) * (PARAMS["w"] + 0.5 * first / np.linalg.norm(first))
        np.testing.assert_allclose(updates["w"], -scale * second, rtol=1e-6)


def test_extra_arguments_go_through():
    seen = {}

    def update(updates, state, params=None, **extra):
        seen.update(extra)
        return updates, state

    inner = optax.GradientTransformationExtraArgs(lambda p: (), update)
    tx = reduce_on_plateau(inner, every=1)
    tx.update(PARAMS, tx.init(PARAMS), PARAMS, value=3.0, grad_fn=gradient)
    assert seen == {"value": 3.0, "grad_fn": gradient}


def test_it_asks_for_the_loss():
    tx = reduce_on_plateau(sgd(0.1), every=1)
    with pytest.raises(TypeError, match="value"):
        tx.update(PARAMS, tx.init(PARAMS), PARAMS)


def steps(duration):
    return to_steps(duration, examples=64, batch_size=8, total=50)


def test_a_window_is_an_epoch_by_default():
    bound = registry.bind("wrappers", part("reduce_on_plateau", patience=1, factor=0.5), steps)
    assert bound.keywords["every"] == 8
    tx = bound(optax.identity())
    state, found = tx.init(PARAMS), []
    update = jax.jit(lambda state: tx.update(PARAMS, state, PARAMS, value=1.0))
    for _ in range(17):
        updates, state = update(state)
        found.append(float(updates["w"][0]))
    assert found == [1] * 15 + [0.5] * 2


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"patience": 0}, "patience"),
        ({"factor": 1.0}, "factor"),
        ({"factor": 0.0}, "factor"),
        ({"every": 0}, "`every` must be at least 1 step"),
        ({"cooldown": -1}, "cooldown"),
        ({"min_scale": 1.0}, "min_scale"),
        ({"rtol": 1.0}, "rtol"),
        ({"rtol": 0.0}, "one of rtol and atol"),
    ],
)
def test_mistakes_are_named(args, message):
    with pytest.raises(UserError, match=message):
        registry.bind("wrappers", part("reduce_on_plateau", **args), steps)(optax.identity())
