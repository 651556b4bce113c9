"""Defaults that follow from the data: loss, metrics, monitor and class weights."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from sklearn import metrics as sk
from sklearn.utils.class_weight import compute_class_weight

from jaxdl.assemble import assemble
from jaxdl.config import Config, Data, Evaluation, Log, Population, part
from jaxdl.config_file import load
from jaxdl.data.split import open_split
from jaxdl.data_defaults import balanced_weights
from jaxdl.errors import UserError
from jaxdl.init_from import first_state
from jaxdl.main import main
from jaxdl.population.run import run as run_population
from jaxdl.research.run_all import run_all
from jaxdl.rundir.outputs import read_outputs

N = 60
SPLITS = {"train": "all[:32]", "validation": "all[32:44]", "test": "all[44:]"}
Z = np.random.default_rng(4).random((N, 4))


def softmax(y):
    e = np.exp(y - y.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


# Kind: the labels; the loss and the metric that is monitored, as scikit-learn computes it; mode.
KINDS = {
    "multilabel": (
        (Z[:, :3] > 0.5).astype(int), "binary_cross_entropy", "mean_multilabel_auroc",
        lambda y, t: sk.roc_auc_score(t, y, average="macro"), "max",
    ),
    "soft": (
        (Z[:, :3] / Z[:, :3].sum(axis=1, keepdims=True)).astype(np.float32), "cross_entropy",
        "soft_cross_entropy", lambda y, t: -np.mean(np.sum(t * np.log(softmax(y)), axis=1)), "min",
    ),
    "numbers": (
        (Z[:, :2] * 8 - 3).astype(np.float32), "squared_error", "mean_absolute_error",
        sk.mean_absolute_error, "min",
    ),
}  # fmt: skip


def npz(path, label):
    np.savez(path, image=(255 * Z).astype(np.uint8).reshape(N, 2, 2, 1), label=label)
    return path


def config_of(path, **fields):
    defaults = {
        "data": Data(source=part("npz", path=str(path)), batch_size=16, **SPLITS),
        "model": part("mlp", widths=[4]),
        "duration": 4,
        "log": Log(every=1, sinks=()),
    }
    return Config(**{**defaults, **fields})


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_learns_and_measures_what_its_labels_are(kind, tmp_path, capsys):
    label, loss, metric, by_sklearn, mode = KINDS[kind]
    command = ["--config", "cnn", "--config.model=mlp", "--config.model.widths=[4]"]
    command += [f"--config.data.source=npz(path={npz(tmp_path / 'x.npz', label)})"]
    command += [f"--config.data.{role}={split}" for role, split in SPLITS.items()]
    command += ["--config.augment=", "--config.log.sinks=", "--config.data.batch_size=16"]
    command += ["--workdir", str(tmp_path / "run"), "--config.evaluation.every=1"]
    assert main([*command, "--config.duration=2"]) == 0
    shown = capsys.readouterr().out
    assert f"supervised(loss={loss})" in shown and f"monitor=validation/{metric}" in shown
    assert main([*command, "--config.duration=4"]) == 0  # the same command, resumed
    evaluation = load(str(tmp_path / "run" / "config.json")).evaluation
    assert (evaluation.monitor, evaluation.mode) == (f"validation/{metric}", mode)
    outputs = read_outputs(tmp_path / "run")
    expected = by_sklearn(outputs.logits.astype(np.float64), outputs.label)
    lines = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    (measured,) = [line[f"test/{metric}"] for line in lines if f"test/{metric}" in line][-1:]
    np.testing.assert_allclose(measured, expected, rtol=1e-5)
    assert main(["report", str(tmp_path / "run")]) == 0
    assert main(["evaluate", str(tmp_path / "run")]) == 0


def test_what_is_set_stays(tmp_path):
    path = npz(tmp_path / "x.npz", KINDS["numbers"][0])
    evaluation = Evaluation(metrics=(part("r2"),), monitor="validation/r2")
    objective = part("supervised", loss=part("huber"))
    config = config_of(path, objective=objective, evaluation=evaluation)
    assert assemble(config).config == config
    with pytest.raises(UserError, match="loss 'hinge' is of classes, and target 'label' holds 2 n"):
        assemble(config_of(path, objective=part("supervised", loss="hinge")))
    classes = config_of(npz(tmp_path / "y.npz", np.arange(N) % 3))
    assert assemble(classes).config == classes


def test_members_and_trials_are_judged_by_it_too(tmp_path):
    path = npz(tmp_path / "x.npz", KINDS["numbers"][0])
    rows = run_population(config_of(path, population=Population(seeds=2)), tmp_path / "members")
    errors = [row["validation/mean_absolute_error"] for row in rows]
    assert errors == sorted(errors)
    config = config_of(path)
    seeds = {str(seed): dataclasses.replace(config, seed=seed) for seed in (0, 1)}
    first = list(run_all(seeds, tmp_path / "all", ["test/r2"]))
    files = {f: f.stat().st_mtime_ns for f in tmp_path.rglob("all/*/manifest.json")}
    assert [row.metrics["test/r2"] for row in run_all(seeds, tmp_path / "all", ["test/r2"])] == [
        row.metrics["test/r2"] for row in first
    ]
    assert len(files) == 2 and files == {f: f.stat().st_mtime_ns for f in files}  # not run again


LABEL = np.repeat([0, 1, 2], [6, 18, 36])


def test_class_weights_are_those_of_scikit_learn(tmp_path):
    order = np.random.default_rng(1).permutation(N)
    path = npz(tmp_path / "x.npz", LABEL[order])
    objective = part("supervised", loss=part("balanced", loss="focal"))
    plan = assemble(config_of(path, objective=objective))
    loss = plan.config.objective.args["loss"]
    train = plan.splits["train"].labels("the test")
    expected = compute_class_weight("balanced", classes=np.arange(3), y=train)
    np.testing.assert_allclose(loss.args["weights"], expected, rtol=1e-12)
    # The first step's loss is the weighted mean of the examples' cross-entropies.
    status = main(
        [
            "--config", "cnn", "--config.model=mlp", "--config.model.widths=[4]",
            f"--config.data.source=npz(path={path})", "--config.data.batch_size=32",
            "--config.data.validation=None", "--config.data.test=None", "--config.augment=",
            "--config.data.train=all[:32]", "--config.objective=supervised(loss=balanced)",
            "--config.duration=1", "--config.log.sinks=", "--workdir", str(tmp_path / "run"),
        ]
    )  # fmt: skip
    assert status == 0
    (line,) = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    stored = load(str(tmp_path / "run" / "config.json"))
    plan = assemble(stored)
    assert plan.config == stored
    state = jax.device_get(first_state(stored, plan))
    batch = plan.splits["train"].arrays
    logits = plan.objective.predict(state.params, state.variables, batch)["logits"]
    log_p = np.log(softmax(np.asarray(logits, np.float64)))[np.arange(32), train]
    np.testing.assert_allclose(line["train/loss"], np.mean(-expected[train] * log_p), rtol=1e-4)


def test_weights_of_masks_are_those_of_their_pixels():
    mask = np.array([[[0, 1], [1, 255]], [[1, 1], [0, 255]]], np.int64)
    split = open_split(lambda _: {"image": np.zeros((2, 2, 2, 1)), "label": mask}, "x", memory=2**9)
    np.testing.assert_allclose(balanced_weights(split), [6 / (2 * 2), 6 / (2 * 4)])


def test_weights_of_soft_labels_are_those_of_their_sums():
    q = np.array([[0.5, 0.5], [0.25, 0.75], [1, 0], [0.25, 0.75]], np.float32)
    split = open_split(lambda _: {"image": np.zeros((4, 2, 2, 1)), "label": q}, "x", memory=2**20)
    np.testing.assert_allclose(balanced_weights(split), [4 / (2 * 2), 4 / (2 * 2)])


@pytest.mark.parametrize(
    ("label", "says"),
    [
        (np.where(LABEL == 1, 0, LABEL), "class 1 has no training label"),
        (KINDS["multilabel"][0], "loss 'balanced' "),
        (KINDS["numbers"][0], "loss 'balanced' "),
    ],
)
def test_weights_that_cannot_be_found_are_refused(label, says, tmp_path):
    config = config_of(
        npz(tmp_path / "x.npz", label), objective=part("supervised", loss=part("balanced"))
    )
    with pytest.raises(UserError, match=says):
        assemble(dataclasses.replace(config, data=dataclasses.replace(config.data, train="all")))
