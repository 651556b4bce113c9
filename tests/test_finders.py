"""The range test of learning rates and the search for a batch size, before a run."""

import dataclasses
import itertools
import types

import jax
import numpy as np
import pytest
from PIL import Image

from jaxdl.assemble import assemble
from jaxdl.config import Config, Data, Gradient, part
from jaxdl.errors import UserError
from jaxdl.perf import batch_size
from jaxdl.perf.batch_size import find_batch_size
from jaxdl.research import lr_finder
from jaxdl.research.lr_finder import RangeTest, find_learning_rate, plot
from jaxdl.session import first_state

# Multinomial logistic regression by plain gradient descent, on nearly all examples at once.
LOGISTIC = Config(
    data=Data(source=part("digits"), batch_size=1024),
    model=part("mlp", widths=[]),
    optimizer=part("sgd", learning_rate=0.1, momentum=0.0),
)


def sharpness(config):
    """Largest eigenvalue of the loss's Hessian at the first state, by power iteration."""
    plan = assemble(config)
    state, split = first_state(config, plan), plan.splits["train"]
    batch = split.examples(np.arange(len(split)))
    loss = lambda params: plan.objective.loss(params, state.variables, batch, state.key)[0]
    flat, unflatten = jax.flatten_util.ravel_pytree(state.params)
    gradient = jax.grad(lambda x: loss(unflatten(x)))

    @jax.jit
    def turn(v):
        return jax.jvp(gradient, (flat,), (v / jax.numpy.linalg.norm(v),))[1]

    v = jax.random.normal(jax.random.key(1), flat.shape)
    for _ in range(50):
        v = turn(v)
    return float(jax.numpy.linalg.norm(v))


def test_the_loss_falls_below_the_edge_of_stability_and_flies_above_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = find_learning_rate(LOGISTIC, low=1e-4, high=100.0)
    # gradient descent on a quadratic diverges above this rate; here the curvature falls with the
    # loss, and it takes some steps to fly
    edge = 2 / sharpness(LOGISTIC)
    assert edge < found.rates[-1] < 40 * edge and len(found.rates) < 100
    assert edge / 3 < found.steepest < found.lowest < 10 * edge
    below = found.losses[(found.rates > edge / 10) & (found.rates < edge)]
    assert len(below) > 10 and np.all(np.diff(below) < 0)
    assert found.losses[-1] > lr_finder.DIVERGED * found.losses.min() > found.losses[-2]
    # the same factor at each step, from the first rate on
    expected = 1e-4 * (100 / 1e-4) ** (np.arange(len(found.rates)) / 99)
    np.testing.assert_allclose(found.rates, expected, rtol=1e-5)
    assert not list(tmp_path.iterdir())


def test_the_config_s_own_schedule_and_rate_play_no_part():
    short = {"low": 1e-3, "high": 0.1, "steps": 12}
    changed = dataclasses.replace(
        LOGISTIC,
        schedule=part("step", every="1 epoch"),
        optimizer=part("sgd", learning_rate=3.0, momentum=0.0),
        average=part("ema"),
        duration="3 epochs",
    )
    found, other = find_learning_rate(LOGISTIC, **short), find_learning_rate(changed, **short)
    assert len(found.rates) == 12 and found.rates[-1] == pytest.approx(0.1)
    np.testing.assert_array_equal(found.losses, other.losses)


def test_losses_are_smoothed_without_a_bias(monkeypatch):
    said = [3.0, 2.0, 1.0] + 20 * [0.5]
    metrics = lambda loss: (None, {"loss": (np.float32(4 * loss), np.float32(4))})
    monkeypatch.setattr(lr_finder, "fit", lambda *_: map(metrics, said))
    found = find_learning_rate(LOGISTIC, steps=23, smoothing=0.5)
    # weights of the mean halve with each step back
    assert found.losses[:3] == pytest.approx([3, (2 * 2 + 3) / 3, (4 + 2 * 2 + 3) / 7])


@pytest.mark.parametrize(
    ("losses", "length"),
    [
        ([2, 1, 0.5, 2.1, 1, 1], 4),  # more than four times the least
        ([-1, -2, -3, -2, 7, 7], 5),  # below zero: by three times its size above the least
        ([2, 1, 0.5, float("nan"), 1], 3),
        ([2, 1, 0.5, float("inf"), 1], 3),
        ([2, 1, 0.5, 1, 1, 1], 6),
    ],
)
def test_where_the_test_ends(monkeypatch, losses, length):
    metrics = lambda loss: (None, {"loss": (np.float32(loss), np.float32(1))})
    monkeypatch.setattr(lr_finder, "fit", lambda *_: map(metrics, losses))
    assert len(find_learning_rate(LOGISTIC, smoothing=0.0).rates) == length


def test_noise_before_the_fall_and_swings_after_it_are_not_steep():
    rates = np.geomspace(1e-6, 10, 71)
    slope = np.full(70, 0.0)
    slope[0], slope[40:50], slope[44], slope[50:60], slope[60:] = -0.5, -0.1, -0.2, 0.2, -0.15
    slope[60] = -0.9
    losses = 5 + np.concatenate([[0], np.cumsum(slope)])
    losses[61:] += 1.5  # the swing does not reach the least
    found = RangeTest(rates, losses)
    assert found.lowest == rates[50]
    assert found.steepest in (rates[44], rates[45])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"low": 1.0, "high": 1.0}, "1.0 to 1.0 does not rise"),
        ({"low": 2.0, "high": 1.0}, "does not rise"),
        ({"low": 0.0}, "does not rise from above 0"),
        ({"low": float("nan")}, "does not rise"),
        ({"high": float("inf")}, "does not rise"),
        ({"steps": 9}, "9 steps are too few"),
        ({"low": 1e6, "high": 1e9}, "never falls below its first"),
    ],
)
def test_ranges_without_an_answer_are_refused(settings, said):
    with pytest.raises(UserError, match=said):
        find_learning_rate(LOGISTIC, **settings)


@pytest.mark.parametrize("skip", [True, False])
def test_a_loss_that_is_never_a_number_is_refused(skip):
    broken = dataclasses.replace(
        LOGISTIC,
        preprocess=(part("normalize", mean=[0.0], std=[1e-45]),),
        gradient=Gradient(skip_nonfinite=skip),
    )
    with pytest.raises(UserError, match="not finite before a first step"):
        find_learning_rate(broken, steps=10)


def test_a_test_that_runs_out_of_memory_says_what_would_fit(monkeypatch):
    def exhausted(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: failed to allocate")

    monkeypatch.setattr(lr_finder, "fit", exhausted)
    with pytest.raises(UserError, match=r"out of memory: .*\n.*\n.*\n.*accumulate=2"):
        find_learning_rate(LOGISTIC)


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_loss_is_drawn_with_both_rates(tmp_path, suffix):
    rates = np.geomspace(1e-3, 1, 31)
    test = RangeTest(rates, np.concatenate([np.linspace(3, 1, 21), np.linspace(1.2, 4, 10)]))
    file = tmp_path / "new" / f"loss.{suffix}"
    plot(test, file)
    if suffix == "png":
        with Image.open(file) as image:
            assert image.format == "PNG" and len(image.convert("RGB").getcolors(1 << 20)) > 20
    else:
        assert file.read_text().lstrip().startswith("<?xml")


TINY = Config(
    data=Data(source=part("fake", size=[8, 8, 3], examples=64), batch_size=8),
    model=part("mlp", widths=[4]),
    duration="3 epochs",
)


def test_batches_double_up_to_the_largest():
    found = list(find_batch_size(TINY, largest=70))
    assert [t.batch_size for t in found] == [8, 16, 32, 64]  # 8 devices
    assert all(t.seconds > 0 for t in found)
    assert all(a.bytes < b.bytes for a, b in itertools.pairwise(found))
    # a device has one more example of bytes and labels at least
    assert found[1].bytes - found[0].bytes >= 8 * 8 * 3 + 4


def test_micro_batches_are_respected():
    accumulating = dataclasses.replace(TINY, gradient=Gradient(accumulate=3))
    assert [t.batch_size for t in find_batch_size(accumulating, largest=50)] == [24, 48]


def test_the_search_ends_at_the_first_that_does_not_fit(monkeypatch):
    first, second = find_batch_size(TINY, largest=16)
    between = (first.bytes + second.bytes) / 2
    monkeypatch.setattr(batch_size, "limit", lambda: int(2 * between))
    fits, not_fits = find_batch_size(TINY, fraction=0.5)
    assert fits.bytes == first.bytes and fits.seconds > 0
    assert not_fits == second._replace(seconds=None)


@pytest.mark.parametrize("place", ["first_state", "_program_bytes", "_timed"])
def test_running_out_ends_the_search_and_another_error_does_not(monkeypatch, place):
    def fail(*_):
        raise jax.errors.JaxRuntimeError(said)

    monkeypatch.setattr(batch_size, place, fail)
    said = "RESOURCE_EXHAUSTED: failed to allocate"
    (only,) = find_batch_size(TINY)
    assert only.batch_size == 8 and only.seconds is None
    assert (only.bytes is None) == (place != "_timed")
    said = "INTERNAL: something else"
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        list(find_batch_size(TINY))


def test_what_a_program_takes_is_not_counted_twice():
    # what is donated is an argument and a result in one place
    sizes = types.SimpleNamespace(
        argument_size_in_bytes=100,
        output_size_in_bytes=90,
        alias_size_in_bytes=80,
        temp_size_in_bytes=7,
    )
    program = types.SimpleNamespace(memory_analysis=lambda: sizes)
    assert batch_size._program_bytes(program) == 117


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"fraction": 0.0}, "above 0 and at most 1, not 0.0"),
        ({"fraction": 1.5}, "not 1.5"),
        ({"fraction": float("nan")}, "not nan"),
        ({"largest": 7}, "a batch has 8 examples or more here"),
    ],
)
def test_searches_of_nothing_are_refused(settings, said):
    with pytest.raises(UserError, match=said):
        list(find_batch_size(TINY, **settings))
