"""Whole runs in this process: every shipped config, resuming, stopping early, repeating."""

import json

import chex
import jax
import numpy as np
import pytest
from conftest import ROOT
from test_checkpoint import assert_same_bits
from zoo import QUICK

from jaxdl.assemble import assemble
from jaxdl.config import Config, Data, EarlyStopping, Evaluation, Gradient, part
from jaxdl.config_file import from_json, load, to_json
from jaxdl.errors import UserError
from jaxdl.main import main
from jaxdl.override import override
from jaxdl.run import run
from jaxdl.session import Session
from jaxdl.train.step import compile_step

ARGUMENTS = {
    "efficientnet": ["digits", "cifar10", "imagenet"],
    "lenet": ["digits", "mnist"],
    "cnn": ["digits", "mnist", "cifar10"],
    "segmentation": ["shapes", "camvid", "camvid,unet", "camvid,fcn8s"],
    "language": ["help", "shakespeare"],
    "translation": ["reversal", "multi30k"],
    "resnet": ["digits", "mnist", "cifar10", "cifar10,32", "cifar10,18", "imagenet", "imagenet,18"],
}
SHIPPED = [f"configs/{name}.py:{a}" for name, arguments in ARGUMENTS.items() for a in arguments]
CHANNELS = {"digits": 1, "mnist": 1, "cifar10": 3, "imagenet": 3}


# What stands in for other data than images with a class.
EMBEDDED = {
    "segmentation": part("shapes", size=32, examples=80),
    "language": part("characters", length=16),
    "translation": part("reversal", length=6, examples=64),
}
NARROW = {
    "efficientnet_b0": [("width", "0.25"), ("depth", "0.3")],
    "fcn8s": [("width", "4"), ("hidden", "8")],
    "segnet": [("width", "4")],
    "transformer": [("width", "16"), ("depth", "1"), ("hidden", "32")],
    "transformer_decoder": [("width", "16"), ("depth", "1"), ("hidden", "32")],
    "unet": [("width", "4"), ("depth", "2")],
}


def shrunk(spec):
    """A shipped config on a little fake data; its recipe untouched, its network made narrow."""
    config = load(str(ROOT / spec))
    name, data = spec.removeprefix("configs/").split(",")[0].split(".py:")
    images = part("fake", size=[32, 32, CHANNELS.get(data, 3)], num_classes=10, examples=64)
    fake = EMBEDDED.get(name, images)
    changes = [
        ("data.source", json.dumps({"name": fake.name, "args": fake.args})),
        *((f"data.{role}", role) for role in ("train", "validation", "test")),
        ("data.batch_size", "16"),
        ("data.evaluation_batch_size", "32"),
    ]
    narrow = [("width", "8")] if "resnet" in spec else NARROW.get(config.model.name, [])
    changes += [(f"model.{key}", value) for key, value in narrow]
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
        batch = next(iter(batches))
        step = compile_step(plan.step, state).lower(state, batch)
        step = step.compile(QUICK)
        state, metrics = step(state, batch)
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
        "gradient": Gradient(accumulate=2, transforms=(part("clip_norm"),)),
        "duration": "60 steps",
        "average": part("ema", decay=0.9),
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
        "outputs", "predictions.npz", "report.html", ".lock",
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


MAPS = part("mean_iou"), part("pixel_accuracy"), part("iou")
TOKENS = part("bits_per_token"), part("perplexity"), part("next_token_accuracy")


def small_segmentation(**fields):
    defaults = {
        "data": Data(source=part("shapes", size=24, noise=8.0, examples=160), batch_size=16),
        "model": part("unet", width=8, depth=1, norm="batch", drop_rate=0.1),
        "objective": part("segmentation"),
        "augment": (part("random_flip"), part("random_crop", padding=2)),
        "optimizer": part("adamw", learning_rate=2e-2),
        "evaluation": Evaluation(metrics=MAPS, monitor="validation/mean_iou", every="30 steps"),
        "gradient": Gradient(accumulate=2),
        "duration": "60 steps",
    }
    return Config(**{**defaults, **fields})


def small_language(**fields):
    defaults = {
        "data": Data(
            source=part("characters", length=16), train="train[:64]", validation="validation[:20]",
            test="test[:9]", batch_size=16, evaluation_batch_size=16,
        ),
        "model": part("transformer_decoder", width=16, depth=1, heads=2, hidden=32),
        "objective": part("language"),
        "optimizer": part("adamw", learning_rate=1e-2),
        "evaluation": Evaluation(
            metrics=TOKENS, monitor="validation/perplexity", mode="min", every="20 steps"
        ),
        "gradient": Gradient(accumulate=2),
        "preprocess": (),
        "duration": "40 steps",
    }  # fmt: skip
    return Config(**{**defaults, **fields})


def test_a_segmentation_run_leaves_maps_to_look_at(tmp_path):
    values = run(small_segmentation(), tmp_path)
    # To say "ground" everywhere has a mean of 0.189, a quarter of the ground's share.
    assert values["test/mean_iou"] > 0.28 and values["test/pixel_accuracy"] > 0.78
    assert not {"test/iou", "test/accuracy"} & set(values)
    lines = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [x["step"] for x in lines if "validation/mean_iou" in x] == [30, 60]
    kept = np.load(tmp_path / "predictions.npz")
    assert kept["image"].shape == (12, 24, 24, 3) and kept["prediction"].shape == (12, 24, 24)
    test = assemble(small_segmentation()).splits["test"].examples(kept["index"])
    np.testing.assert_array_equal(kept["label"], test["label"])
    np.testing.assert_array_equal(kept["image"], test["image"])
    assert 0.6 < np.mean(kept["label"] == kept["prediction"]) <= 1
    page = (tmp_path / "report.html").read_text()
    assert page.count(': prediction"') == 12 and "triangle" in page


def test_a_language_run_is_judged_by_its_perplexity(tmp_path):
    values = run(small_language(), tmp_path)
    assert values["test/perplexity"] == pytest.approx(2 ** values["test/bits_per_token"], rel=1e-5)
    # Better than a uniform guess of 257, and no better than English allows.
    assert 4 < values["validation/perplexity"] < 60
    assert not (tmp_path / "predictions.npz").exists() and (tmp_path / "report.html").exists()


@pytest.mark.parametrize("small_run", [small_segmentation, small_language])
def test_a_resumed_run_ends_in_the_same_bits(small_run, tmp_path):
    whole = small_run(duration="10 steps", schedule=part("constant"))
    half = small_run(duration="5 steps", schedule=part("constant"))
    run(whole, tmp_path / "whole")
    run(half, tmp_path / "halves")
    run(whole, tmp_path / "halves")
    states = [final_state(whole, tmp_path / name) for name in ("whole", "halves")]
    assert int(states[0].step) == 10
    assert_same_bits(*states)


UNET, DECODER = part("unet", width=4, depth=1), part("transformer_decoder", width=16, heads=2)
OF_MAPS = Evaluation(metrics=MAPS, monitor="validation/mean_iou")
OF_TOKENS = Evaluation(metrics=TOKENS, monitor="validation/perplexity")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            small_language(model=part("cnn")),
            r"model 'cnn' reads 'image', and source 'characters' gives tokens int32\[17\]",
        ),
        (
            small_language(preprocess=(part("normalize"),)),
            r"augmentation 'normalize' reads 'image', and source .* set config.preprocess to \[\]",
        ),
        (
            small_segmentation(model=DECODER),
            r"model 'transformer_decoder' reads 'tokens', and source 'shapes' gives image uint8",
        ),
        (
            small_segmentation(model=part("cnn")),
            "objective 'segmentation' is of each pixel, and model 'cnn' speaks of each example: ",
        ),
        (
            small_segmentation(objective=part("supervised")),
            "objective 'supervised' is of each example, and model 'unet' speaks of each pixel: ",
        ),
        (
            small_segmentation(evaluation=Evaluation()),
            "metric 'accuracy' is of each example, and model 'unet' speaks of each pixel: did you "
            "mean 'pixel_accuracy'",
        ),
        (
            small_language(evaluation=Evaluation()),
            "metric 'accuracy' is of each example, and model 'transformer_decoder' speaks of each",
        ),
        (
            small(data=small_segmentation().data),
            "objective 'supervised' reads a label of each example, and source 'shapes' gives a "
            "label of each pixel",
        ),
        (
            small_segmentation(data=Data(batch_size=64)),
            "'segmentation' reads a label of each pixel, and source 'digits' gives a label of each",
        ),
        (
            small_language(
                model=part("transformer_encoder", width=16, heads=2),
                objective=part("supervised"),
                evaluation=Evaluation(),
            ),
            r"'supervised' reads a label of each example, and source 'characters' gives tokens "
            r"int32\[17\], no label",
        ),
        (
            small_language(
                model=part("transformer", width=16, heads=2),
            ),
            r"model 'transformer' reads 'source', and source 'characters' gives tokens",
        ),
    ],
)  # fmt: skip
def test_parts_that_do_not_fit_are_told_in_one_line(config, said):
    with pytest.raises(UserError, match=said) as caught:
        assemble(config)
    assert "\n" not in str(caught.value)


def test_parts_that_do_not_fit_end_the_command_before_it_compiles(tmp_path, capsys):
    config = ["--config", str(ROOT / "configs/cnn.py"), "--config.preprocess=[]"]
    source = ["--config.data.source=characters", "--config.augment=[]"]
    assert main([*config, *source, "--workdir", str(tmp_path / "run")]) == 2
    told = capsys.readouterr()
    assert told.err.startswith("error: model 'cnn' reads 'image'") and told.err.count("\n") == 1
    assert "compiled" not in told.out and not (tmp_path / "run").exists()


@pytest.mark.data
def test_real_camvid_trains(tmp_path):
    config = load(str(ROOT / "configs/segmentation.py:camvid,unet"))
    changes = [
        ("data.train", "train[:48]"), ("data.validation", "validation[:16]"),
        ("data.test", "null"), ("data.batch_size", "8"), ("duration", "24 steps"),
        ("model.width", "4"), ("model.depth", "2"), ("optimizer.learning_rate", "0.01"),
        ("data.source.image_size", "48"),
    ]  # fmt: skip
    values = run(override(config, changes), tmp_path)
    # The three most frequent of eleven classes are a quarter of all pixels each.
    assert values["validation/pixel_accuracy"] > 0.3


@pytest.mark.data
@pytest.mark.parametrize("spec", ["language.py:shakespeare", "translation.py:multi30k"])
def test_real_text_is_learnt(spec, tmp_path):
    changes = [
        ("data.train", "train[:256]"), ("data.validation", "validation[:16]"),
        ("data.test", "null"), ("data.batch_size", "32"), ("duration", "30 steps"),
        ("model.width", "32"), ("model.depth", "1"), ("data.source.length", "24"),
        ("optimizer.learning_rate", "0.01"),
    ]  # fmt: skip
    config = override(load(str(ROOT / "configs" / spec)), changes)
    values = run(config, tmp_path)
    vocabulary = assemble(config).splits["train"].vocabulary
    assert values["validation/perplexity"] < vocabulary / 4


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
