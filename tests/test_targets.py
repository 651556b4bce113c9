"""Targets of several kinds in one source: a head for each, and what is not of its kind refused."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from jaxdl import registry
from jaxdl.assemble import assemble
from jaxdl.config import Config, Data, Evaluation, Held, Log, part
from jaxdl.data.source import Source
from jaxdl.data.target import Target, infer, targets_of
from jaxdl.errors import UserError
from jaxdl.loaded import load_run
from jaxdl.run import run
from jaxdl.rundir.outputs import read_outputs


@pytest.fixture
def many(own_registry):
    """A source whose images say six things: a class, another, tags, a mixture, two numbers, one."""

    @registry.register("sources")
    def many(split: str, /):
        n = {"train": 64, "validation": 24, "test": 20}[split]
        rng = np.random.default_rng(n)
        z = rng.normal(size=(n, 6)).astype(np.float32)
        soft = np.exp(z[:, :3])
        return {
            "image": z.reshape(n, 2, 3, 1),
            "label": np.arange(n) % 2,
            "colour": np.arange(n).astype(np.uint8) % 5,
            "tags": (z[:, :4] > 0).astype(np.int64),
            "mixture": soft / soft.sum(axis=1, keepdims=True),
            "box": z[:, :2] * 3,
            "age": z[:, 0] + 1,
        }


def config(target, loss="cross_entropy", metric="accuracy", **fields):
    defaults = {
        "data": Data(source=part("many"), batch_size=16),
        "model": part("mlp", widths=[16]),
        "objective": part("supervised", target=target, loss=part(loss)),
        "optimizer": part("adamw", learning_rate=3e-2),
        "preprocess": (),
        "duration": "60 steps",
        "evaluation": Evaluation(
            every="60 steps", metrics=(part(metric),), monitor=f"validation/{metric}", mode="max"
        ),
        "log": Log(sinks=()),
    }
    return Config(**{**defaults, **fields})


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def nll(logits, q):
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return -(q * log_p).sum(axis=1).mean()


# target: loss, metric, head, the metric by hand, a bound that only a head that learned reaches
RUNS = {
    "tags": ("binary_cross_entropy", "multilabel_accuracy", 4,
             lambda y, t: ((y > 0) == (t > 0.5)).mean(), lambda v: v > 0.8),
    "mixture": ("cross_entropy", "soft_cross_entropy", 3, nll, lambda v: v < 1.0),
    "box": ("squared_error", "mean_absolute_error", 2,
            lambda y, t: np.abs(y - t).mean(), lambda v: v < 1.5),
    "age": ("huber", "mean_squared_error", 1,
            lambda y, t: ((y[:, 0] - t) ** 2).mean(), lambda v: v < 0.7),
}  # fmt: skip


@pytest.mark.parametrize("target", RUNS)
def test_a_head_for_each_target(many, tmp_path, target):
    loss, metric, size, by_hand, learned = RUNS[target]
    asked = config(target, loss, metric)
    values = run(asked, tmp_path)
    outputs = read_outputs(tmp_path)
    truth = assemble(asked).splits["test"].arrays[target]
    np.testing.assert_array_equal(outputs.label, truth)
    assert outputs.logits.shape == (20, size)
    value = values[f"test/{metric}"]
    assert value == pytest.approx(by_hand(outputs.logits.astype(np.float64), truth), rel=1e-5)
    assert learned(value), value
    data = json.loads((tmp_path / "manifest.json").read_text())["data"]
    assert data["target"] == target and data["targets"][target]["size"] == size
    page = (tmp_path / "report.html").read_text()
    assert f"{target} ({size} {data['targets'][target]['kind']}, learned)" in page
    assert "box (2 numbers" in page and "tags (4 multilabel" in page
    # The finished run is read without its data.
    found = load_run(tmp_path)
    images = assemble(asked).splits["test"].arrays["image"]
    np.testing.assert_allclose(found.predict(images)["logits"], outputs.logits, rtol=1e-5)
    if target == "tags":
        answers = found.predict(images)
        np.testing.assert_allclose(answers["probability"], sigmoid(outputs.logits), rtol=1e-5)


def test_another_class_than_the_label_is_learned_as_the_label_would_be(many, tmp_path):
    # The same examples, the classes under the usual name: bit for bit the same run.
    @registry.register("sources")
    def renamed(split: str, /):
        arrays = registry.find("sources", "many").build(split)
        return {"image": arrays["image"], "label": arrays["colour"]}

    told = config("colour", duration="6 steps")
    usual = dataclasses.replace(
        told, objective=part("supervised"), data=Data(source=part("renamed"), batch_size=16)
    )
    values = [run(c, tmp_path / name) for c, name in [(told, "told"), (usual, "usual")]]
    keys = [k for k in values[1] if not k.endswith(("images_per_second", "data_wait"))]
    assert {k: values[0][k] for k in keys} == {k: values[1][k] for k in keys}
    assert "train/accuracy" in keys
    told, usual = (load_run(tmp_path / name).params for name in ("told", "usual"))
    jax.tree.map(np.testing.assert_array_equal, told, usual)
    kept = np.load(tmp_path / "told" / "predictions.npz")
    assert kept["confusion"].shape == (5, 5)


def test_metrics_on_other_targets_stand_beside_the_learned_one(many, tmp_path):
    metrics = {
        "own": part("accuracy"),
        "other": part("on", target="label", metric=part("accuracy")),
    }
    asked = config("colour", duration="2 steps")
    asked = dataclasses.replace(
        asked, evaluation=Evaluation(metrics=metrics, monitor="validation/own")
    )
    values = run(asked, tmp_path)
    arrays = assemble(asked).splits["test"].arrays
    answer = read_outputs(tmp_path).logits.argmax(axis=1)
    assert values["test/own"] == pytest.approx((answer == arrays["colour"]).mean())
    assert values["test/other"] == pytest.approx((answer == arrays["label"]).mean())


BAD = [
    (config("coluor"), "learns target 'coluor', and source 'many' has none.*'colour'"),
    (config("tags"), "loss 'cross_entropy' is of classes or .*target 'tags' holds 4 classes, any"),
    (config("tags", "binary_cross_entropy"), "metric 'accuracy' is of classes, and target 'tags'"),
    (config("box", "hinge"), "loss 'hinge' is of classes, and target 'box' holds 2 numbers"),
    (config("colour", metric="mean_squared_error"), "metric 'mean_squared_error' is of numbers"),
    (
        config("tags", "binary_cross_entropy", "multilabel_accuracy",
               regularizers=(part("center_loss"),)),
        "regularizer 'center_loss' is of classes",
    ),
    (
        config("box", objective=part("supervised", target="box",
                                     loss=part("balanced", loss=part("focal")))),
        "loss 'balanced' is of classes",
    ),
    (
        config("colour", evaluation=Evaluation(metrics=(
            part("on", target="tags", metric=part("accuracy")),), monitor="validation/x")),
        "metric 'accuracy' is of classes, and target 'tags'",
    ),
    (
        config("colour", evaluation=Evaluation(metrics=(
            part("on", target="tgas", metric=part("accuracy")),), monitor="validation/x")),
        "metric 'on' reads target 'tgas'.*tags",
    ),
    (
        config("tags", objective=part("segmentation", target="tags")),
        "objective 'segmentation' is of each pixel",
    ),
    (
        config("colour", evaluation=Evaluation(monitor="validation/accuracy", splits={
            "ood": Held(source=part("fake", size=[2, 3, 1]), split="test")})),
        "splits.ood holds",
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(BAD)), ids=[message[:40] for _, message in BAD])
def test_what_is_not_of_its_kind_is_refused_in_one_line(many, case):
    asked, message = BAD[case]
    with pytest.raises(UserError, match=message) as refused:
        assemble(asked)
    assert "\n" not in str(refused.value)


def test_targets_follow_from_shapes_and_values():
    rows = np.array([[0.25, 0.75], [1.0, 0.0]])
    found = {
        "label": infer("label", np.array([0, 3]), True, None),
        "mask map": infer("m", np.array([[[0, 2], [255, 1]]]), True, None),
        "tags": infer("tags", np.array([[0, 1, 1]]), True, None),
        "counts": infer("counts", np.array([[0, 4, 1]]), True, None),
        "soft": infer("soft", rows, True, None),
        "numbers": infer("box", rows + 1, True, None),
        "one": infer("age", np.array([1.5]), True, None),
        "signed": infer("shift", np.array([-1, 1]), True, None),
        "unseen": infer("colour", np.array([1]), False, None),
        "declared": infer("label", np.array([1]), False, 7),
        "image": infer("image", np.zeros((1, 2, 2, 3)), True, None),
        "tokens": infer("tokens", np.zeros((1, 4), int), True, 9),
    }
    kinds = {name: target and (target.kind, target.size) for name, target in found.items()}
    assert kinds == {
        "label": ("classes", 4), "mask map": ("mask", 3), "tags": ("multilabel", 3),
        "counts": ("numbers", 3), "soft": ("soft", 2), "numbers": ("numbers", 2),
        "one": ("numbers", 1), "signed": ("numbers", 1), "unseen": ("classes", None),
        "declared": ("classes", 7), "image": None, "tokens": ("tokens", 9),
    }  # fmt: skip


def test_a_source_says_what_its_arrays_are():
    stars = Target("numbers", 1)
    found = targets_of({"label": np.arange(3)}, True, {"label": stars}, None, None, ())
    assert found == {"label": stars}
    source = Source(range(3), targets={"label": stars})
    assert source.targets["label"].kind == "numbers"
    named = targets_of({"label": np.arange(2)}, True, {}, 2, None, ("cat", "dog"))
    assert named["label"] == Target("classes", 2, ("cat", "dog"))
