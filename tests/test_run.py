"""Whole runs in this process: every shipped config, resuming, stopping early, repeating."""

import json

import chex
import jax
import numpy as np
import pytest
from conftest import ROOT
from test_checkpoint import assert_same_bits

from jaxdl.assemble import assemble
from jaxdl.config import (
    Config,
    Data,
    EarlyStopping,
    Evaluation,
    Gradient,
    from_json,
    load,
    part,
    to_json,
)
from jaxdl.errors import UserError
from jaxdl.override import override
from jaxdl.run import Session, run
from jaxdl.train.step import compile_step

ARGUMENTS = {
    "efficientnet": ["digits", "cifar10", "imagenet"],
    "lenet": ["digits", "mnist"],
    "cnn": ["digits", "mnist", "cifar10"],
    "resnet": ["digits", "mnist", "cifar10", "cifar10,32", "cifar10,18", "imagenet", "imagenet,18"],
}
SHIPPED = [f"configs/{name}.py:{a}" for name, arguments in ARGUMENTS.items() for a in arguments]
CHANNELS = {"digits": 1, "mnist": 1, "cifar10": 3, "imagenet": 3}


def shrunk(spec):
    """A shipped config on a little fake data; its recipe untouched, its network made narrow."""
    config = load(str(ROOT / spec))
    data = spec.split(":")[1].split(",")[0]
    fake = part("fake", size=[32, 32, CHANNELS[data]], num_classes=10, examples=64)
    changes = [
        ("data.source", json.dumps({"name": fake.name, "args": fake.args})),
        *((f"data.{role}", role) for role in ("train", "validation", "test")),
        ("data.batch_size", "16"),
        ("data.evaluation_batch_size", "32"),
    ]
    if "efficientnet" in spec:
        changes += [("model.width", "0.25"), ("model.depth", "0.3")]
    if "resnet" in spec:
        changes += [("model.width", "8")]
    return override(config, changes)


def test_every_shipped_config_is_walked():
    assert {p.stem for p in (ROOT / "configs").glob("*.py")} == set(ARGUMENTS)


@pytest.mark.parametrize("spec", SHIPPED)
def test_a_shipped_config_keeps_its_promise_to_be_json(spec):
    config = load(str(ROOT / spec))
    assert from_json(to_json(config)) == config
    text = (ROOT / spec.split(":")[0]).read_text()
    assert f"python -m jaxdl.main --config {spec.split(':')[0]}" in text and "https://" in text


@pytest.mark.parametrize("spec", SHIPPED)
def test_a_shipped_config_builds_and_takes_a_step(spec, tmp_path):
    config = shrunk(spec)
    plan = assemble(config)
    with Session(config, plan, tmp_path) as session:
        state, _ = session.start()
        batches = session.batches(0)
        state, metrics = compile_step(plan.step, state)(state, next(iter(batches)))
        batches.close()
    chex.assert_tree_all_finite((state.params, state.variables, metrics))
    assert int(state.step) == 1


def small(**fields):
    """Batch norm, dropout, augmentation, EMA and accumulation, in seconds."""
    defaults = {
        "data": Data(batch_size=64),
        "model": part("cnn", widths=[8, 8], drop_rate=0.1),
        "optimizer": part("adamw", learning_rate=5e-3),
        "augment": (part("random_crop", padding=1),),
        "gradient": Gradient(accumulate=2, clip_norm=1.0),
        "duration": "60 steps",
        "ema_decay": 0.9,
    }
    return Config(**{**defaults, **fields})


def final_state(config, workdir):
    with Session(config, assemble(config), workdir) as session:
        return session.start().state


def test_a_run_leaves_all_that_it_promises_and_repeats_bit_for_bit(tmp_path, capsys):
    config = small()
    first = run(config, tmp_path / "a")
    # Again from what the first run left behind.
    again = run(load(str(tmp_path / "a" / "config.json")), tmp_path / "b")
    timing = ("train/images_per_second", "train/data_wait")
    assert {k: v for k, v in first.items() if k not in timing} == {
        k: v for k, v in again.items() if k not in timing
    }
    assert_same_bits(final_state(config, tmp_path / "a"), final_state(config, tmp_path / "b"))
    left = {p.name for p in (tmp_path / "a").iterdir()}
    assert left == {
        "config.json", "manifest.json", "metrics.jsonl", "tensorboard", "checkpoints",
        "predictions.npz", "report.html",
    }  # fmt: skip
    assert first["test/accuracy"] > 0.3  # chance is 0.1
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text())
    assert manifest["status"] == "finished" and manifest["data"]["train"] == 1258
    assert manifest["parameters"] == 72 + 3 * 576 + 4 * 16 + 90  # convolutions, norms, head
    predictions = np.load(tmp_path / "a" / "predictions.npz")
    hits = predictions["label"] == predictions["prediction"]
    assert np.mean(hits) == pytest.approx(first["test/accuracy"])
    assert predictions["confusion"].trace() == hits.sum() and predictions["confusion"].sum() == 359
    assert f"run directory  {tmp_path / 'a'}" in capsys.readouterr().out


def test_a_finished_run_is_not_trained_again(tmp_path, capsys):
    config = small(duration="10 steps")
    first = run(config, tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text()
    capsys.readouterr()
    assert run(config, tmp_path) == first
    assert (tmp_path / "metrics.jsonl").read_text() == lines
    assert "compiled" not in capsys.readouterr().out


def test_a_longer_run_goes_on_from_a_shorter_one(tmp_path, capsys):
    run(small(duration="10 steps"), tmp_path)
    run(small(duration="14 steps"), tmp_path)
    assert "duration: '10 steps' -> '14 steps'" in capsys.readouterr().out
    steps = [json.loads(x)["step"] for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps) and steps[-1] == 14


def test_another_config_does_not_take_over_a_directory(tmp_path):
    run(small(duration="2 steps"), tmp_path)
    with pytest.raises(UserError, match=r"another config \(seed: 0 -> 1\): choose another"):
        run(small(duration="2 steps", seed=1), tmp_path)


def test_seeds_differ(tmp_path):
    a = run(small(duration="3 steps"), tmp_path / "a")
    b = run(small(duration="3 steps", seed=1), tmp_path / "b")
    assert a["train/loss"] != b["train/loss"]


def test_early_stopping_restores_the_best(tmp_path, capsys):
    # So high a rate that accuracy soon falls.
    config = small(
        optimizer=part("sgd", learning_rate=3.0),
        gradient=Gradient(),
        early_stopping=EarlyStopping(patience=2),
        evaluation=Evaluation(every="5 steps"),
        duration="400 steps",
    )
    run(config, tmp_path)
    lines = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    history = [(x["step"], x["validation/accuracy"]) for x in lines if "validation/accuracy" in x]
    status = json.loads((tmp_path / "manifest.json").read_text())["status"]
    last, best = history[-1][0], max(history, key=lambda pair: pair[1])
    assert status == f"stopped early at step {last}" and last < 400
    assert [v for _, v in history[-2:]] < [best[1]] * 2
    (tested,) = [x["step"] for x in lines if "test/accuracy" in x]
    assert tested == best[0]
    # Started again, it knows that it has stopped.
    capsys.readouterr()
    run(config, tmp_path)
    assert "compiled" not in capsys.readouterr().out


def test_the_loop_can_be_written_by_hand(tmp_path):
    """What the README shows a notebook."""
    from jaxdl.train.loop import fit

    config = small(duration="5 steps")
    plan = assemble(config)
    with Session(config, plan, tmp_path) as session:
        state, _ = session.start()
        step = compile_step(plan.step, state)
        losses = []
        steps = fit(state, step, session.batches(0))
        for state, metrics in steps:  # noqa: B007
            losses.append(float(metrics["loss"][0] / metrics["loss"][1]))
        assert len(losses) == 5 and session.evaluate(state, "test")["test/accuracy"] >= 0


@pytest.mark.data
def test_real_cifar10_trains(tmp_path):
    config = load(str(ROOT / "configs/resnet.py:cifar10"))
    changes = [
        ("data.train", "train[:2000]"), ("data.validation", "test[:500]"), ("data.test", "null"),
        ("duration", "60 steps"), ("model.width", "8"), ("optimizer.learning_rate", "0.05"),
    ]  # fmt: skip
    values = run(override(config, changes), tmp_path)
    assert values["validation/accuracy"] > 0.2  # chance is 0.1
    assert jax.device_count() == 8
