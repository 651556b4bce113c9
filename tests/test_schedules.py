"""Schedules against their closed formulas in NumPy, at every step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import registry
from jaxdl.config import part, to_steps
from jaxdl.errors import UserError
from jaxdl.optim.schedules import constant, exponential, linear, step, warmup_cosine

RUNS = [(1, 0), (1, 1), (2, 1), (10, 0), (10, 10), (100, 7), (4321, 432)]


def values(schedule, total):
    """The factor at every step, inside jit."""
    return np.asarray(jax.jit(jax.vmap(lambda t: jnp.float32(schedule(t))))(jnp.arange(total)))


def ramp(total, warmup):
    t = np.arange(total)
    return np.minimum(1, (t + 1) / warmup) if warmup else np.ones(total)


def progress(total, warmup):
    """0 until the peak, 1 at the last step."""
    t, peak = np.arange(total), max(warmup - 1, 0)
    return np.clip((t - peak) / max(total - 1 - peak, 1), 0, 1)


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("total", "warmup"), RUNS)
def test_constant(total, warmup):
    close(values(constant(total, warmup=warmup), total), ramp(total, warmup))


@pytest.mark.parametrize("end", [0.0, 0.1])
@pytest.mark.parametrize(("total", "warmup"), RUNS)
def test_warmup_cosine(total, warmup, end):
    cosine = end + (1 - end) * (1 + np.cos(np.pi * progress(total, warmup))) / 2
    schedule = warmup_cosine(total, warmup=warmup, end=end)
    close(values(schedule, total), ramp(total, warmup) * cosine)


@pytest.mark.parametrize("end", [0.0, 0.1])
@pytest.mark.parametrize(("total", "warmup"), RUNS)
def test_linear(total, warmup, end):
    line = 1 - (1 - end) * progress(total, warmup)
    close(values(linear(total, warmup=warmup, end=end), total), ramp(total, warmup) * line)


@pytest.mark.parametrize(("total", "warmup"), RUNS)
@pytest.mark.parametrize("every", [1, 7, 100])
def test_step_by_period(total, warmup, every):
    drops = 0.5 ** (np.arange(total) // every)
    close(
        values(step(total, every=every, factor=0.5, warmup=warmup), total),
        ramp(total, warmup) * drops,
    )


@pytest.mark.parametrize("total", [1, 10, 64000])
def test_step_at_milestones(total):
    t = np.arange(total)
    expected = 0.1 ** (1.0 * (t >= np.ceil(total / 2)) + (t >= np.ceil(total * 3 / 4)))
    close(values(step(total, milestones=(50.0, 75.0), every=1), total), expected)


@pytest.mark.parametrize("every", [1, 3, 7, 49, 100])
@pytest.mark.parametrize("staircase", [True, False])
def test_exponential(every, staircase):
    t = np.arange(4000)
    power = t // every if staircase else t / every
    schedule = exponential(4000, rate=0.97, every=every, staircase=staircase, warmup=20)
    close(values(schedule, 4000), ramp(4000, 20) * 0.97**power)


def test_the_first_step_moves_and_the_warmup_ends_at_the_peak():
    schedule = warmup_cosine(100, warmup=10, end=0.01)
    assert [float(schedule(t)) for t in (0, 9, 99, 1000)] == pytest.approx([0.1, 1, 0.01, 0.01])


@pytest.mark.parametrize("entry", registry.entries("schedules"), ids=lambda e: e.name)
@pytest.mark.parametrize("total", [1, 2, 19, 500])
def test_defaults_are_factors_of_any_run(entry, total):
    def steps(duration):
        return to_steps(duration, examples=64, batch_size=8, total=total)

    schedule = registry.bind("schedules", part(entry.name), steps)(total)
    found = values(schedule, total)
    assert found.shape == (total,)
    assert np.all((found >= 0) & (found <= 1))
    assert found[0] > 0
    assert found.max() > 0.9
    close(found, [float(schedule(t)) for t in range(total)])


def test_durations_of_a_config_become_steps():
    def steps(duration):
        return to_steps(duration, examples=640, batch_size=64, total=200)

    def built(name, **args):
        return values(registry.bind("schedules", part(name, **args), steps)(200), 200)

    close(built("linear", warmup="2 epochs"), values(linear(200, warmup=20), 200))
    close(built("linear"), values(linear(200, warmup=10), 200))
    close(built("step", every="5 epochs"), values(step(200, every=50), 200))
    close(built("step", milestones=[50, 75]), values(step(200, every=1, milestones=(50, 75)), 200))


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("constant", {"warmup": 101}, "longer than the run"),
        ("step", {"every": 0}, "at least 1 step"),
        ("exponential", {"every": 0}, "at least 1 step"),
        ("exponential", {"every": 1, "rate": 0.0}, "rate"),
        ("step", {"milestones": [100]}, "milestones"),
        ("linear", {"end": 1.5}, "end"),
    ],
)
def test_mistakes_are_named(name, args, message):
    def steps(duration):
        return to_steps(duration, examples=64, batch_size=8, total=100)

    with pytest.raises(UserError, match=message):
        registry.bind("schedules", part(name, **args), steps)(100)
