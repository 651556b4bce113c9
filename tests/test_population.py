"""Members that train in one program against the runs that they would be alone."""

import dataclasses
import json
import math

import numpy as np
import pytest

from jaxdl.config import (
    Checkpoint,
    Config,
    Data,
    EarlyStopping,
    Evaluation,
    Gradient,
    Held,
    Log,
    Mesh,
    Population,
    part,
)
from jaxdl.config_file import from_json, to_json
from jaxdl.errors import UserError
from jaxdl.loaded import load_run
from jaxdl.main import main
from jaxdl.population.members import better_half, members_of, survivors
from jaxdl.population.run import run as run_members
from jaxdl.report import write_report
from jaxdl.run import run
from jaxdl.rundir.outputs import joined_outputs

GRID = {"optimizer.learning_rate": (1e-3, 3e-2), "gradient.transforms.0.limit": (0.5, 5.0)}
CONFIG = Config(
    data=Data(source=part("fake", size=(8, 8, 3), examples=96), batch_size=16),
    model=part("mlp", widths=[16]),
    optimizer=part("adamw", learning_rate=1e-3),
    gradient=Gradient(transforms=(part("clip_norm"),)),
    augment=(part("random_flip"),),
    average=part("ema"),
    duration=12,
    evaluation=Evaluation(every=4),
    checkpoint=Checkpoint(every=3),
    log=Log(every=2, sinks=()),
    steps_per_execution=3,
    population=Population(seeds=2, grid=GRID),
)


def with_population(**fields):
    return dataclasses.replace(CONFIG, population=Population(**fields))


def lines_of(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    timed = ("images_per_second", "data_wait")
    return [{k: v for k, v in line.items() if not k.endswith(timed)} for line in lines]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("population")
    return folder, run_members(CONFIG, folder)


def test_members_are_every_combination(whole):
    members = members_of(CONFIG)
    assert [m.name for m in members] == list("01234567")
    assert [m.config.seed for m in members] == [0, 1] * 4
    assert [tuple(m.values.values()) for m in members[::2]] == [
        (1e-3, 0.5), (1e-3, 5.0), (3e-2, 0.5), (3e-2, 5.0),
    ]  # fmt: skip
    folder, rows = whole
    for member in members:
        saved = from_json((folder / "members" / member.name / "config.json").read_text(), where="")
        assert saved == member.config
    assert [sorted(r["member"] for r in rows)] == [list("01234567")]


def check_outputs(alone, together):
    """A member's outputs are those of the run alone, of its weights, and told by its manifest."""
    a, b = joined_outputs([alone, together])  # of the same digest
    np.testing.assert_allclose(b.logits, a.logits, atol=1e-5, rtol=1e-5)
    np.testing.assert_array_equal(b.label, a.label)
    assert b.index.tolist() == list(range(96))
    told = [json.loads((run / "manifest.json").read_text())["outputs"] for run in (alone, together)]
    assert told[0] == told[1] == {"test": {"form": "logits", "digest": b.digest}}


def test_a_member_is_the_run_that_it_would_be_alone(whole, tmp_path):
    folder, rows = whole
    for i in (0, 3, 6):
        member = members_of(CONFIG)[i]
        run(member.config, tmp_path / member.name)
        alone, together = lines_of(tmp_path / member.name), lines_of(folder / "members" / str(i))
        assert [a.keys() for a in alone] == [b.keys() for b in together]
        for a, b in zip(alone, together, strict=True):
            np.testing.assert_allclose(list(b.values()), list(a.values()), rtol=2e-4)
        check_outputs(tmp_path / member.name, folder / "members" / member.name)
        row = next(r for r in rows if r["member"] == member.name)
        assert row["validation/accuracy"] == together[-2]["validation/accuracy"]


def test_a_member_leaves_a_run_that_everything_can_read(whole):
    folder, rows = whole
    own = folder / "members" / rows[0]["member"]
    found = load_run(own).evaluate("test")
    np.testing.assert_allclose(found["accuracy"], rows[0]["test/accuracy"], rtol=1e-6)
    assert "adamw" in write_report(own).read_text()
    assert json.loads((folder / "members.json").read_text()) == rows


def test_members_keep_outputs_of_the_predictor_and_of_every_split_of_the_end(tmp_path, capsys):
    flips = part("test_time_augmentation", augment=[part("random_flip")], samples=3)
    splits = {
        "ood": Held(source=part("fake", size=(8, 8, 3), examples=30, seed=7), when="end"),
        "drawn": Held(sampler=part("balanced"), when="end"),
    }
    config = dataclasses.replace(
        with_population(seeds=2),
        data=dataclasses.replace(CONFIG.data, test=None),
        evaluation=Evaluation(every=4, predictors=(flips,), splits=splits),
    )
    run_members(config, tmp_path / "both")
    assert capsys.readouterr().out.count("outputs of drawn: not kept") == 1
    for member in members_of(config):
        run(member.config, tmp_path / member.name)
        folder = tmp_path / "both" / "members" / member.name
        assert sorted(f.stem for f in (folder / "outputs").iterdir()) == ["ood", "validation"]
        for split in ("ood", "validation"):
            a, b = joined_outputs([tmp_path / member.name, folder], split)
            np.testing.assert_allclose(b.logits, a.logits, atol=1e-5, rtol=1e-5)
        measured = lambda folder: [line.keys() for line in lines_of(folder)]
        assert measured(folder) == measured(tmp_path / member.name)


def test_outputs_of_members_that_are_too_large_are_said_once(tmp_path, capsys):
    evaluation = Evaluation(every=4, outputs_limit=1e-4)
    run_members(dataclasses.replace(CONFIG, duration=1, evaluation=evaluation), tmp_path)
    assert capsys.readouterr().out.count("outputs of test: too many logits, not kept") == 1
    assert not list(tmp_path.glob("members/*/outputs/*"))


def test_survivors_by_hand():
    assert better_half([0, 1, 2], [0.1, math.nan, 0.3], "max") == [0, 2]
    assert better_half([0, 1, 2, 3], [1.0, 2.0, 1.0, 0.5], "min") == [0, 3]
    assert better_half([1, 4], [9, math.nan, 9, 9, math.nan], "max") == [1]
    histories = [[(5, 0.1), (10, 0.9)], [(5, 0.2), (10, 0.8)], [(5, 0.3), (10, 0.1)], [(5, 0.0)]]
    left = lambda step: survivors(histories, range(5, 20, 5), step, "max")
    # A checkpoint of step 5 still holds all of them.
    assert [left(s) for s in (0, 5, 6, 10, 11, 20)] == [
        [0, 1, 2, 3], [0, 1, 2, 3], [1, 2], [1, 2], [1], [1],
    ]  # fmt: skip


def halved(duration):
    fields = {"seeds": 1, "grid": {"optimizer.learning_rate": (1e-5, 1e-3, 1e-2, 1e38)}}
    config = with_population(**fields, successive_halving=4)
    return dataclasses.replace(config, duration=duration, schedule=part("constant"))


@pytest.mark.parametrize("stops", [(3,), (4,), (5, 8)])
def test_the_worse_half_is_left_behind_resumed_or_not(tmp_path, stops):
    rows = run_members(halved(12), tmp_path / "whole")
    assert [row["step"] for row in rows] == [12, 8, 4, 4]
    assert {row["member"] for row in rows[2:]} == {"0", "3"}  # too slow, and diverged
    for stop in stops:
        run_members(halved(stop), tmp_path / "resumed")
    assert [r["member"] for r in run_members(halved(12), tmp_path / "resumed")] == [
        r["member"] for r in rows
    ]
    # The shorter runs also measure where they end.
    due = lambda line: "validation/accuracy" in line and line["step"] % 4 == 0
    measured = lambda run, name: list(filter(due, lines_of(tmp_path / run / "members" / name)))
    for name in "0123":
        assert measured("resumed", name) == measured("whole", name)
    for begun in ("whole", "resumed"):
        manifests = [tmp_path / begun / "members" / name / "manifest.json" for name in "03"]
        statuses = {json.loads(m.read_text())["status"] for m in manifests}
        assert statuses == {"pruned at step 4"}


@pytest.mark.parametrize(
    "grid, message",
    [
        ({"seed": (1.0, 2.0)}, "seed is not an argument of a part"),
        ({"optimizer.rate": (1.0,)}, "takes no argument 'rate'"),
        ({"optimizer.learning_rate": (-1.0,)}, "learning_rate"),
        ({"model.widths": (1.0,)}, "widths"),
        ({"model.drop_rate": (0.1, 0.2)}, "decides how the program is built"),
    ],
)
def test_what_cannot_vary_is_refused(tmp_path, grid, message):
    config = with_population(grid=grid)
    if "program" in message:
        config = dataclasses.replace(config, model=part("cnn", widths=[8]))
    with pytest.raises(UserError, match=message):
        run_members(config, tmp_path)


@pytest.mark.parametrize(
    "field, value",
    [
        ("early_stopping", EarlyStopping()),
        ("evaluation", Evaluation(norm_batches=1)),
        ("mesh", Mesh(fsdp=2)),
    ],
)
def test_what_a_population_cannot_have_is_refused(tmp_path, field, value):
    with pytest.raises(UserError, match=field):
        run_members(dataclasses.replace(CONFIG, **{field: value}), tmp_path)


def test_from_the_command_line(tmp_path, capsys):
    file = tmp_path / "tiny.json"
    file.write_text(to_json(dataclasses.replace(CONFIG, population=None, duration=2)))
    grid = json.dumps({"optimizer.learning_rate": [0.1, 0.01]})
    arguments = [f"--config.population.grid={grid}", "--config.population.seeds=2"]
    assert main(["--config", str(file), "--workdir", str(tmp_path / "run"), *arguments]) == 0
    assert len(list((tmp_path / "run" / "members").iterdir())) == 4
    assert "4 members" in capsys.readouterr().out
