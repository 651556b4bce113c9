"""Schedules against their closed formulas in NumPy and against PyTorch, at every step."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import registry
from jaxdl.config import part
from jaxdl.durations import to_steps
from jaxdl.errors import UserError
from jaxdl.optim.cyclical import exp_range, one_cycle, triangular, triangular2, warm_restarts
from jaxdl.optim.schedules import (
    constant,
    exponential,
    inverse_sqrt,
    linear,
    polynomial,
    step,
    warmup_cosine,
)

RUNS = [(1, 0), (1, 1), (2, 1), (10, 0), (10, 10), (100, 7), (4321, 432)]
TORCH = json.loads((Path(__file__).parent / "references/schedules_torch.json").read_text())
CYCLE = {"half_cycle": 5, "low": 0.25}
ONE_CYCLE = {"warmup": 12, "start": 1 / 25, "end": 1 / 25e3}
AS_TORCH = {
    "warmup": (constant, {"warmup": 8}),
    "cosine": (warmup_cosine, {"warmup": 0, "end": 0.1}),
    "polynomial": (polynomial, {"warmup": 0, "power": 0.9}),
    "step": (step, {"every": 7, "factor": 0.5}),
    "exponential": (exponential, {"every": 1, "rate": 0.9}),
    "triangular": (triangular, CYCLE),
    "triangular2": (triangular2, CYCLE),
    "exp_range": (exp_range, {**CYCLE, "gamma": 0.95}),
    "restarts": (warm_restarts, {"first_cycle": 7, "cycle_mult": 1, "end": 0.1}),
    "restarts_doubled": (warm_restarts, {"first_cycle": 5, "cycle_mult": 2, "end": 0.1}),
    "one_cycle": (one_cycle, ONE_CYCLE),
    "one_cycle_linear": (one_cycle, {**ONE_CYCLE, "anneal": "linear"}),
    "one_cycle_three_phase": (one_cycle, {**ONE_CYCLE, "anneal": "linear", "three_phase": True}),
}


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


@pytest.mark.parametrize("case", AS_TORCH)
def test_as_pytorch(case):
    build, args = AS_TORCH[case]
    expected = TORCH[case]
    close(values(build(len(expected), **args), len(expected)), expected)


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


@pytest.mark.parametrize(("power", "end"), [(0.9, 0.0), (2.0, 0.1)])
@pytest.mark.parametrize(("total", "warmup"), RUNS)
def test_polynomial(total, warmup, power, end):
    fall = end + (1 - end) * (1 - progress(total, warmup)) ** power
    schedule = polynomial(total, power=power, warmup=warmup, end=end)
    close(values(schedule, total), ramp(total, warmup) * fall)


def test_inverse_sqrt_is_the_transformers_rate_over_its_peak():
    total, d_model, warmup = 100_000, 512, 4000
    s = np.arange(1, total + 1)
    rate = d_model**-0.5 * np.minimum(s**-0.5, s * warmup**-1.5)
    assert rate.max() == pytest.approx(6.99e-4, rel=1e-3)
    close(values(inverse_sqrt(total, warmup=warmup), total), rate / rate.max())


@pytest.mark.parametrize("warmup", [0, 1])
def test_inverse_sqrt_without_a_warmup(warmup):
    close(values(inverse_sqrt(9, warmup=warmup), 9), np.arange(1, 10) ** -0.5)


def test_noam_is_its_other_name():
    assert registry.find("schedules", "noam").build is inverse_sqrt


def test_cycles_count_from_the_end_of_the_warmup():
    # warm-up of 4: steps 0 to 3 reach the start of the first cycle, which goes on from step 3
    ramped = [0.25, 0.5, 0.75]
    restarts = warm_restarts(9, first_cycle=2, cycle_mult=2, end=0.2, warmup=4)
    quarter, three = (0.6 + 0.4 * np.cos(np.pi * f) for f in (0.25, 0.75))
    close(values(restarts, 9), [*ramped, 1, 0.6, 1, quarter, 0.6, three])
    triangles = triangular(8, half_cycle=2, low=0.5, warmup=4)
    close(values(triangles, 8), [*np.multiply(ramped, 0.5), 0.5, 0.75, 1, 0.75, 0.5])


def test_restarts_of_the_defaults_are_three_cycles():
    found = values(warm_restarts(1000, first_cycle=143), 1000)
    assert np.flatnonzero(found == 1).tolist() == [0, 143, 429]
    assert found[-1] < 1e-3


def test_one_cycle_of_three_phases_by_hand():
    schedule = one_cycle(8, warmup=3, start=0.2, end=0.0, anneal="linear", three_phase=True)
    close(values(schedule, 8), [0.2, 0.6, 1, 0.6, 0.2, 0.4 / 3, 0.2 / 3, 0])


@pytest.mark.parametrize("entry", registry.entries("schedules"), ids=lambda e: e.name)
def test_rests_at_the_end_of_the_run(entry):
    """A step or two more than planned must not leave [0, 1]."""
    args = {"warmup": 2} if "warmup" in entry.arguments() else {}
    args |= {"half_cycle": 3} if "half_cycle" in entry.arguments() else {}
    args |= {"first_cycle": 3} if "first_cycle" in entry.arguments() else {}
    args |= {"every": 3} if "every" in entry.arguments() else {}
    found = values(entry.build(10, **args), 40)
    assert np.all((found >= 0) & (found <= 1))


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
    if total > 2:  # triangles begin at their lowest, and take a step at least to rise
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
        ("polynomial", {"power": 0}, "power"),
        ("inverse_sqrt", {"warmup": "101%"}, "longer than the run"),
        ("triangular", {"half_cycle": 0}, "half_cycle.*at least 1 step"),
        ("triangular", {"low": 0.0}, "low"),
        ("exp_range", {"gamma": 1.1}, "gamma"),
        ("warm_restarts", {"first_cycle": 0}, "first_cycle.*at least 1 step"),
        ("warm_restarts", {"cycle_mult": 0}, "cycle_mult"),
        ("one_cycle", {"anneal": "cos"}, "anneal"),
        ("one_cycle", {"warmup": 101}, "longer than the run"),
        ("one_cycle", {"warmup": 51, "three_phase": True}, "longer than half of the run"),
    ],
)
def test_mistakes_are_named(name, args, message):
    def steps(duration):
        return to_steps(duration, examples=64, batch_size=8, total=100)

    with pytest.raises(UserError, match=message):
        registry.bind("schedules", part(name, **args), steps)(100)
