"""Averages of weights against means by hand, and the shares by themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import registry
from jaxdl.config import part
from jaxdl.durations import to_steps
from jaxdl.errors import UserError
from jaxdl.optim.averages import ema, swa

STEPS = 23
WEIGHTS = np.sin(np.arange(STEPS + 1) ** 1.5)
"""After 0, 1, ... steps."""


def shares(average, steps=STEPS):
    """The share at each step, with the step traced."""
    return np.asarray(jax.jit(jax.vmap(average))(jnp.arange(steps, dtype=jnp.int32)))


def averaged(average):
    """The average after 0, 1, ... steps; at first it is the initial weights."""
    found = [WEIGHTS[0]]
    for new, share in zip(WEIGHTS[1:], shares(average), strict=True):
        found.append(found[-1] + share * (new - found[-1]))
    return found


def test_ema_by_hand():
    share = shares(ema(decay=0.9))
    np.testing.assert_allclose(share[:3], [0.9, 1 - 2 / 11, 1 - 3 / 12], rtol=1e-6)
    # (1 + t) / (10 + t) passes 0.9 at t = 80
    share = shares(ema(decay=0.9), 100)
    np.testing.assert_allclose(share[79:], [1 - 80 / 89, *[0.1] * 20], rtol=1e-5)


def test_ema_without_a_warmup_is_a_geometric_sum():
    found = averaged(ema(decay=0.8, warmup=False))
    t = np.arange(1, STEPS + 1)
    expected = 0.8**STEPS * WEIGHTS[0] + np.sum(0.2 * 0.8 ** (STEPS - t) * WEIGHTS[1:])
    assert found[-1] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("start", "every"), [(0, 1), (0, 5), (7, 4), (7, 1), (22, 5), (23, 1)])
def test_swa_is_the_mean_of_the_weights_it_names(start, every):
    found = averaged(swa(start=start, every=every))
    np.testing.assert_allclose(found[:start], WEIGHTS[:start], atol=1e-6)
    for done in range(start, STEPS + 1):
        expected = np.mean(WEIGHTS[start : done + 1 : every])
        assert found[done] == pytest.approx(expected, abs=1e-6), done


def test_swa_that_never_begins_follows():
    assert np.all(shares(swa(start=100, every=3)) == 1)


def test_durations_of_a_config_become_steps():
    def steps(duration):
        return to_steps(duration, examples=40, batch_size=10, total=STEPS)

    bound = registry.bind("averages", part("swa", start="30%"), steps)()
    np.testing.assert_array_equal(shares(bound), shares(swa(start=7, every=4)))


@pytest.mark.parametrize("entry", registry.entries("averages"), ids=lambda e: e.name)
def test_every_average_gives_shares_of_one_step(entry):
    def steps(duration):
        return to_steps(duration, examples=64, batch_size=8, total=50)

    average = registry.bind("averages", part(entry.name), steps)()
    found = shares(average, 50)
    assert np.all((found >= 0) & (found <= 1)) and found.max() > 0.5
    one = jax.jit(average)(jnp.int32(49))
    assert one.shape == () and one.dtype == jnp.float32
    assert float(average(49)) == pytest.approx(float(one))
    assert entry.paper.startswith("https://")


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("ema", {"decay": 1.0}, "decay"),
        ("swa", {"every": 0}, "'swa': `every` must be at least 1 step"),
        ("swa", {"start": "soon"}, "not a duration"),
    ],
)
def test_mistakes_are_named(name, args, message):
    def steps(duration):
        return to_steps(duration, examples=64, batch_size=8, total=50)

    with pytest.raises(UserError, match=message):
        registry.bind("averages", part(name, **args), steps)()
