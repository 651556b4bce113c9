"""Metrics of several numbers: each is written, drawn and judged by under its own name."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import registry
from jaxdl.assemble import assemble
from jaxdl.config import Checkpoint, Config, Data, Evaluation, Held, Log, Population, part
from jaxdl.config_file import from_json, to_json
from jaxdl.errors import UserError
from jaxdl.loaded import load_run
from jaxdl.main import main
from jaxdl.metrics.base import Metric, by_name, class_keys
from jaxdl.override import override
from jaxdl.population.run import run as run_members
from jaxdl.run import run
from jaxdl.rundir.matrices import read_matrices

THREE = ("low", "mean", "high")


@pytest.fixture
def three(own_registry):
    """A metric of three numbers, and a source with a second target, `colour`."""

    @registry.register("metrics")
    def three_hits(*, scale: float = 1.0) -> Metric:
        """Hits among labels 0 to 2, all labels, and labels 3 and above."""

        def sums(outputs, batch):
            label = batch["label"]
            hit = (jnp.argmax(outputs["logits"], -1) == label).astype(jnp.float32)
            groups = jnp.stack([label < 3, label >= 0, label >= 3]) * batch["mask"][None]
            return scale * groups @ hit, jnp.sum(groups, axis=1)

        return Metric(sums, names=THREE)

    @registry.register("sources")
    def coloured(split: str, /):
        rng = np.random.default_rng(len(split))
        n = {"train": 48, "validation": 21, "test": 19}[split]
        return {
            "image": rng.integers(0, 256, (n, 4, 4, 1)).astype(np.uint8),
            "label": np.arange(n) % 5,
            "colour": np.arange(n) % 4,
        }


def config(**fields):
    metrics = (part("three_hits"), part("on", target="colour", metric=part("three_hits")))
    defaults = {
        "data": Data(source=part("coloured"), batch_size=16),
        "model": part("mlp", widths=[8]),
        "evaluation": Evaluation(
            every="2 steps", metrics=metrics, monitor="validation/on_colour_three_hits/high"
        ),
        "duration": "4 steps",
    }
    return Config(**{**defaults, **fields})


def lines_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def by_hand(hit, label):
    return [hit[label < 3].mean(), hit.mean(), hit[label >= 3].mean()]


def test_three_numbers_alone_and_on_another_target_stand_by_name(three, tmp_path):
    asked = config()
    values = run(asked, tmp_path)
    predictions = np.load(tmp_path / "predictions.npz")
    test = assemble(asked).splits["test"].arrays
    for name, label in [("three_hits", "label"), ("on_colour_three_hits", "colour")]:
        expected = by_hand(predictions["prediction"] == test[label], test[label])
        found = [values[f"test/{name}/{entry}"] for entry in THREE]
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    steps = [x["step"] for x in lines_of(tmp_path) if "validation/three_hits/low" in x]
    assert steps == [2, 4]
    (events,) = (tmp_path / "tensorboard").glob("events*")
    page = (tmp_path / "report.html").read_text()
    for entry in THREE:
        assert f"test/on_colour_three_hits/{entry}".encode() in events.read_bytes()
        assert f"on colour three hits {entry}" in page
    assert load_run(tmp_path, config=asked).evaluate() == {
        k.removeprefix("test/"): v for k, v in values.items() if k.startswith("test/")
    }
    # The one it is judged by decides which checkpoint is the best.
    monitored = [x for x in lines_of(tmp_path) if asked.evaluation.monitor in x]
    assert len(monitored) == 2


def test_a_population_writes_them_for_each_member(three, tmp_path):
    members = config(
        population=Population(seeds=2), log=Log(sinks=()), checkpoint=Checkpoint(every="4 steps")
    )
    rows = run_members(members, tmp_path)
    for row in rows:
        values = lines_of(tmp_path / "members" / row["member"])[-1]
        assert {f"test/three_hits/{entry}" for entry in THREE} <= values.keys()
        assert row["validation/on_colour_three_hits/high"] is not None


def test_names_of_ones_own_and_what_a_run_is_not_judged_by(three):
    asked = config()
    named = {"a": part("accuracy"), "b": part("confusion"), "c": part("three_hits")}
    judged = lambda by: dataclasses.replace(
        asked, evaluation=dataclasses.replace(asked.evaluation, metrics=named, monitor=by)
    )
    plan = assemble(judged("validation/c/low"))
    assert plan.measured("test") == ["test/a", "test/c/low", "test/c/mean", "test/c/high"]
    assert from_json(to_json(judged("validation/a"))) == judged("validation/a")
    for by in ("validation/c", "validation/b", "validation/three_hits/low", "test/a"):
        with pytest.raises(UserError, match=f"'{by}' is not measured while training"):
            assemble(judged(by))
    bad = {"a/b": part("accuracy")}
    with pytest.raises(UserError, match="'a/b'"):
        assemble(
            dataclasses.replace(asked, evaluation=Evaluation(metrics=bad, monitor="validation/a"))
        )


def test_each_class_has_its_iou_and_a_matrix_has_its_file(tmp_path, capsys):
    asked = Config(
        data=Data(source=part("shapes", size=8, examples=80), batch_size=16),
        model=part("unet", width=4, depth=1),
        objective=part("segmentation"),
        evaluation=Evaluation(
            every="2 steps",
            monitor="validation/iou/disc",
            splits={"again": Held(split="test", metrics=(part("confusion"),), when="end")},
        ),
        duration="2 steps",
        log=Log(sinks=()),
    )
    asked = override(asked, [("evaluation.metrics", "iou, mean_iou, confusion")])
    values = run(asked, tmp_path)
    assert all(len(line) > 1 for line in lines_of(tmp_path))  # none of the step alone
    printed = capsys.readouterr().out
    assert "final  \n" not in printed and "final  test" in printed
    matrix = read_matrices(tmp_path)["test/confusion"]
    np.testing.assert_array_equal(read_matrices(tmp_path)["again/confusion"], matrix)
    assert matrix.shape == (4, 4) and matrix.sum() == pytest.approx(1)
    names = assemble(asked).splits["test"].class_names
    # Of a class: hits by all that is true or predicted, and no class at all is no number.
    union = matrix.sum(0) + matrix.sum(1) - np.diag(matrix)
    with np.errstate(invalid="ignore"):
        expected = np.diag(matrix) / union
    found = np.array([values[f"test/iou/{n}"] for n in names], float)  # null is NaN
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(values["test/mean_iou"], np.nanmean(expected), rtol=1e-6)
    assert "test/confusion" not in values and "test/iou" not in values
    page = (tmp_path / "report.html").read_text()
    assert "iou disc" in page and "Test confusion" in page

    capsys.readouterr()
    assert main(["evaluate", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    np.testing.assert_allclose(told["confusion"], matrix)
    assert told["iou/disc"] == pytest.approx(values["test/iou/disc"], nan_ok=True)
    assert main(["evaluate", str(tmp_path)]) == 0
    assert "test/confusion\n[[" in capsys.readouterr().out


def test_what_a_value_may_hold():
    values = {
        "one": np.float64(2),
        "dict": {"a": 1, "b": np.float32(0.5)},
        "vector": np.array([1.0, 2.0]),
        "named": np.array([3.0, 4.0]),
        "bins": np.arange(3.0),
        "matrix": np.eye(2),
    }
    metrics = dict.fromkeys(values, Metric(None)) | {"named": Metric(None, names=("x", "y"))}
    numbers, matrices = by_name(values, metrics, ("cat", "dog"))
    assert numbers == {
        "one": 2, "dict/a": 1, "dict/b": 0.5, "vector/cat": 1, "vector/dog": 2,
        "named/x": 3, "named/y": 4, "bins/0": 0, "bins/1": 1, "bins/2": 2,
    }  # fmt: skip
    assert list(matrices) == ["matrix"]


def test_class_names_are_keys():
    assert class_keys(("crane", "owl", "crane"), 4) == ("crane (0)", "owl", "crane (2)", "3")
    assert class_keys(("on/off",), 1) == ("on|off",)
    assert class_keys((), None) == ()


def test_on_reads_the_outputs_that_bear_its_targets_name():
    metric = registry.bind("metrics", part("on", target="colour", metric="accuracy"))()
    logits = jnp.eye(3)
    own = {"logits": jnp.zeros((3, 3)), "colour": {"logits": logits}}
    batch = {"label": jnp.zeros(3, int), "colour": jnp.arange(3)}
    total, count = jax.jit(metric.sums)(own, batch)
    assert (total, count) == (3, 3)


def test_a_metric_named_twice_is_refused(three):
    asked = override(config(), [("evaluation.metrics", "accuracy, accuracy")])
    with pytest.raises(UserError, match="metric 'accuracy' is named twice"):
        assemble(asked)
