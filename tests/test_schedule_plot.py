"""The learning rate of a run before it is run: the formula's numbers, and a figure of them."""

import dataclasses

import matplotlib
import numpy as np
import pytest
from PIL import Image

from jaxdl.config import Config, Data, part
from jaxdl.errors import UserError
from jaxdl.research import schedule_plot
from jaxdl.research.schedule_plot import curve, plot

COSINE = Config(
    data=Data(source=part("fake", examples=640), batch_size=64),
    optimizer=part("sgd", learning_rate=0.4),
    schedule=part("warmup_cosine", warmup="2 epochs", end=0.1),
    duration="10 epochs",
)
STEPS = dataclasses.replace(COSINE, schedule=part("step", every="30%"))


def cosine(total, warmup):
    t = np.arange(total)
    part = np.clip((t - warmup + 1) / (total - warmup), 0, 1)
    return 0.4 * np.minimum(1, (t + 1) / warmup) * (0.1 + 0.9 * (1 + np.cos(np.pi * part)) / 2)


def test_the_curve_is_the_formula():
    found = curve(COSINE)
    assert found.steps.tolist() == list(range(100))
    np.testing.assert_allclose(found.rates, cosine(100, 20), rtol=1e-5)
    assert found.warmup == 20
    assert found.peak == (19, pytest.approx(0.4))


def test_a_size_that_is_given_opens_no_data(monkeypatch):
    monkeypatch.setattr(schedule_plot, "_examples", lambda config: pytest.fail("opened"))
    absent = dataclasses.replace(COSINE, data=Data(part("folder", path="nowhere"), batch_size=8))
    found = curve(absent, examples=80)
    np.testing.assert_allclose(found.rates, cosine(100, 20), rtol=1e-5)


def test_no_model_is_built():
    absent = dataclasses.replace(COSINE, model=part("no_such_model"))
    np.testing.assert_allclose(curve(absent).rates, cosine(100, 20), rtol=1e-5)


def test_a_schedule_without_a_warmup_has_none():
    found = curve(STEPS)
    assert found.warmup == 0 and found.peak == (0, pytest.approx(0.4))
    np.testing.assert_allclose(found.rates, 0.4 * 0.1 ** (np.arange(100) // 30), rtol=1e-5)


def test_a_png_is_drawn(tmp_path):
    before = dict(matplotlib.rcParams)
    file = plot({"cosine": COSINE}, tmp_path / "new" / "schedule.png")
    with Image.open(file) as image:
        assert image.format == "PNG" and image.width == 1050 and image.height == 600
        assert len(image.convert("RGB").getcolors(1 << 20)) > 20
    assert dict(matplotlib.rcParams) == before


def test_an_svg_names_axes_peak_warmup_and_configs(tmp_path):
    first = plot({"cosine": COSINE, "steps": STEPS}, tmp_path / "a.svg").read_text()
    legend = ["cosine: peak 0.4 at step 19, warm-up to step 19", "steps: peak 0.4 at step 0"]
    for said in ["learning rate", "step", *legend]:
        assert f">{said}<" in first, said
    assert first == plot({"cosine": COSINE, "steps": STEPS}, tmp_path / "b.svg").read_text()


def test_a_run_of_one_step_is_drawn(tmp_path):
    once = dataclasses.replace(COSINE, schedule=part("constant"), duration=1)
    assert plot({"once": once}, tmp_path / "once.svg").read_text().count("peak 0.4 at step 0") == 1


@pytest.mark.parametrize(
    ("configs", "name", "message"),
    [
        ({"a": COSINE}, "schedule.gif", "schedule.gif.*choices: pdf, png, svg"),
        ({"a": COSINE}, "schedule.pgn", "did you mean 'png'"),
        ({}, "schedule.png", "no config"),
        ({"a": dataclasses.replace(COSINE, schedule=part("cosine"))}, "a.png", "unknown schedule"),
    ],
)
def test_mistakes_are_named(configs, name, message, tmp_path):
    with pytest.raises(UserError, match=message):
        plot(configs, tmp_path / name)
    assert not list(tmp_path.iterdir())
