"""Evaluation splits of a config's own: measured, logged, monitored and reported like the usual."""

import dataclasses
import json
import re

import numpy as np
import pytest

from jaxdl.assemble import assemble
from jaxdl.config import (
    Checkpoint,
    Config,
    Data,
    EarlyStopping,
    Evaluation,
    Held,
    Log,
    Population,
    part,
)
from jaxdl.config_file import from_json, to_json
from jaxdl.errors import UserError
from jaxdl.held import order_of
from jaxdl.loaded import load_run
from jaxdl.override import override
from jaxdl.population.run import run as run_members
from jaxdl.run import run

SIZE = {"size": [4, 4, 1], "num_classes": 3}
OTHER = part("fake", **SIZE, examples=90, seed=7)
OOD = Held(split="test", source=OTHER)
BOTH = "mean(validation/accuracy, ood/accuracy)"


def config(monitor=BOTH, splits=None, **fields):
    defaults = {
        "data": Data(source=part("fake", **SIZE, examples=96), batch_size=16),
        "model": part("mlp", widths=[8]),
        "optimizer": part("adamw", learning_rate=3e-2),
        "duration": "12 steps",
        "evaluation": Evaluation(
            every="4 steps", monitor=monitor, splits={"ood": OOD} if splits is None else splits
        ),
        "checkpoint": Checkpoint(every="4 steps", keep_latest=1),
        "log": Log(sinks=()),
    }
    return Config(**{**defaults, **fields})


def lines_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def curve(folder, key):
    return {line["step"]: line[key] for line in lines_of(folder) if key in line}


def test_a_third_split_is_measured_logged_monitored_and_reported(tmp_path, capsys):
    asked = config()
    values = run(asked, tmp_path)
    ood, validation = (curve(tmp_path, f"{name}/accuracy") for name in ("ood", "validation"))
    assert list(ood) == list(validation) == [4, 8, 12]
    split = assemble(asked).splits["ood"]
    assert len(split) == json.loads((tmp_path / "manifest.json").read_text())["data"]["ood"]
    # The last weights on the other source, from the outside.
    found = load_run(tmp_path)
    hit = found.predict(split.arrays["image"])["label"] == split.arrays["label"]
    assert values["ood/accuracy"] == pytest.approx(hit.mean())
    assert found.evaluate("ood")["accuracy"] == pytest.approx(hit.mean())
    # The best of the mean of both is the checkpoint that is kept beside the last.
    score = {step: (ood[step] + validation[step]) / 2 for step in ood}
    best = max(score, key=score.get)
    kept = {int(f.name) for f in (tmp_path / "checkpoints").iterdir() if f.name.isdecimal()}
    assert {best, 12} <= kept
    page = (tmp_path / "report.html").read_text()
    assert "ood accuracy" in page and "mean(validation accuracy, ood accuracy)" in page
    assert re.search(rf"{len(split)} ood", page)
    # Nothing is left to measure, and nothing is measured again.
    capsys.readouterr()
    before = (tmp_path / "metrics.jsonl").read_text()
    assert run(asked, tmp_path) == values
    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_an_evaluation_that_was_interrupted_between_two_splits_is_made_up_for(tmp_path):
    asked = config()
    run(asked, tmp_path)
    lines = lines_of(tmp_path)
    last = [line for line in lines if line["step"] == 12 and "ood/accuracy" in line]
    left = [line for line in lines if line not in last]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in left))
    run(asked, tmp_path)
    assert [x for x in lines_of(tmp_path) if "ood/accuracy" in x][-1:] == last
    assert len([x for x in lines_of(tmp_path) if "validation/accuracy" in x]) == 3


def test_early_stopping_follows_any_split_that_is_measured_while_training(tmp_path):
    # The usual splits are none here, and the rate is too small for a gain.
    asked = config(
        monitor="ood/accuracy",
        data=Data(
            source=part("fake", **SIZE, examples=96), batch_size=16, validation=None, test=None
        ),
        optimizer=part("adamw", learning_rate=1e-12),
        early_stopping=EarlyStopping(patience=1),
    )
    run(asked, tmp_path)
    assert list(curve(tmp_path, "ood/accuracy")) == [4, 8]
    assert "stopped early at step 8" in (tmp_path / "manifest.json").read_text()


def test_one_that_is_measured_at_the_end_has_preprocessing_metrics_and_a_sampler(tmp_path):
    dark = Held(
        split="test",
        preprocess=(part("normalize", mean=(0.5,), std=(0.25,)),),
        metrics={"recalls": part("recall"), "hits": part("accuracy")},
        sampler=part("balanced"),
        when="end",
    )
    asked = config(monitor="validation/accuracy", splits={"dark": dark})
    asked = dataclasses.replace(
        asked, data=dataclasses.replace(asked.data, evaluation_batch_size=16)
    )
    values = run(asked, tmp_path)
    assert {k for k in values if k.startswith("dark/")} == {"dark/recalls", "dark/hits"}
    assert list(curve(tmp_path, "dark/hits")) == [12]
    # By hand: the rows that the sampler draws, as the network sees them.
    plan, found = assemble(asked), load_run(tmp_path)
    split = plan.splits["dark"]
    order = order_of(asked, "dark", plan.held["dark"], split)
    rows = np.concatenate([order(t) for t in range(-(-len(split) // 16))])
    batch = {name: array[rows] for name, array in split.arrays.items()}
    outputs = plan.held["dark"].objective.predict(found.params, found.variables, batch)
    hit = np.argmax(outputs["logits"], axis=-1) == batch["label"]
    assert values["dark/hits"] == pytest.approx(float(np.mean(hit)))
    usual = plan.objective.predict(found.params, found.variables, batch)["logits"]
    assert not np.allclose(outputs["logits"], usual)


def test_an_oracle_is_named_in_one_line(tmp_path, capsys):
    run(config(monitor="oracle/accuracy", splits={"oracle": OOD}), tmp_path)
    assert "an oracle, oracle/accuracy" in capsys.readouterr().out
    run(config(monitor="validation/accuracy", splits={"oracle": OOD}), tmp_path / "other")
    assert "an oracle" not in capsys.readouterr().out


def test_members_of_a_population_are_judged_by_the_score(tmp_path):
    asked = config(
        optimizer=part("adamw", learning_rate=1e-3),
        population=Population(
            grid={"optimizer.learning_rate": (1e-9, 1e-2, 1.0)}, successive_halving="8 steps"
        ),
    )
    rows = run_members(asked, tmp_path)
    folders = [tmp_path / "members" / name for name in "012"]
    judged = [
        np.mean([curve(f, f"{name}/accuracy")[8] for name in ("validation", "ood")])
        for f in folders
    ]
    worst = min(range(3), key=lambda i: (judged[i], -i))
    (left,) = [r["member"] for r in rows if r["step"] == 8]
    assert left == str(worst)
    (tmp_path / "report.html").read_text().index("ood accuracy")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (config(monitor="odd/accuracy"), "'odd/accuracy' is not measured.*ood/accuracy"),
        (config(monitor="test/accuracy"), "'test/accuracy' is not measured while training"),
        (config(monitor="mean(ood/accuracy, test/accuracy)"), "'test/accuracy' is not measured"),
        (config(monitor="median(ood/accuracy)"), "mean"),
        (config(splits={"train": OOD}), "cannot be called 'train'"),
        (config(splits={"a/b": OOD}), "cannot be called 'a/b'"),
        (config(splits={"test": OOD}), "set config.data.test to null"),
        (config(splits={"ood": Held(source=part("fake", size=(5, 5, 1)))}), "splits.ood holds"),
        (
            config(splits={"ood": Held(source=part("fake", size=(4, 4, 1), num_classes=9))}),
            "labels of 9 classes",
        ),
        (config(splits={"ood": Held(metrics=(part("iou"),))}), "metric 'iou' is of each pixel"),
        (
            config(splits={"ood": Held(preprocess=(part("random_flip"),))}),
            "config.evaluation.splits.ood.preprocess is done",
        ),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_refusals(asked, message):
    with pytest.raises(UserError, match=message):
        assemble(asked)


def test_splits_are_set_from_the_shell():
    source, metrics = "fake(size=[4,4,1],num_classes=3,examples=90,seed=7)", "accuracy, recall"
    path = "evaluation.splits.ood"
    asked = override(config(splits={}), [(f"{path}.source", source), (f"{path}.metrics", metrics)])
    assert asked.evaluation.splits["ood"] == Held(
        source=OTHER, metrics=(part("accuracy"), part("recall"))
    )
    assert {"ood/accuracy", "ood/recall"} == set(assemble(asked).measured("ood"))


def test_a_config_with_splits_is_plain_data():
    asked = config(splits={"ood": dataclasses.replace(OOD, metrics={"a": part("accuracy")})})
    assert from_json(to_json(asked)) == asked
