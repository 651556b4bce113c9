"""Early stopping and the journal."""

import json
import math

import pytest

from jaxdl.errors import UserError
from jaxdl.judging import badness, best, score, series
from jaxdl.rundir.journal import MetricLog
from jaxdl.train.stopping import should_stop

NAN = math.nan


@pytest.mark.parametrize(
    ("history", "patience", "min_delta", "mode", "stop"),
    [
        ([], 1, 0.0, "max", False),
        ([0.5], 1, 0.0, "max", False),
        ([0.5, 0.4], 1, 0.0, "max", True),
        ([0.5, 0.4], 2, 0.0, "max", False),
        ([0.5, 0.4, 0.6, 0.5], 2, 0.0, "max", False),
        ([0.5, 0.5], 1, 0.0, "max", True),  # equal is no gain
        ([0.5, 0.55, 0.58], 2, 0.1, "max", True),  # gains within min_delta
        ([0.5, 0.55, 0.61], 2, 0.1, "max", False),  # together they exceed it
        ([0.5, 0.4], 1, 0.0, "min", False),
        ([0.5, 0.4, 0.45, 0.41], 2, 0.0, "min", True),
        ([NAN, NAN], 2, 0.0, "max", True),
        ([NAN, 0.1], 2, 0.0, "max", False),
        ([0.1, NAN, NAN], 2, 0.0, "min", True),
    ],
)
def test_should_stop(history, patience, min_delta, mode, stop):
    assert should_stop(history, patience=patience, min_delta=min_delta, mode=mode) is stop


def test_best_is_the_first_of_equals():
    assert best([0.1, 0.3, 0.3, 0.2], "max") == 1
    assert best([0.1, 0.3, NAN], "min") == 0
    assert best([NAN], "max") is None


def test_which_is_better_is_one_order():
    values = [0.3, NAN, 0.1, None, -math.inf, 0.2]
    assert sorted(values[:1] + values[2:3] + values[5:], key=lambda v: badness(v, "max")) == [
        0.3, 0.2, 0.1,
    ]  # fmt: skip
    assert badness(NAN, "max") == badness(None, "min") == math.inf
    assert badness(-math.inf, "min") < badness(0.1, "min") < badness(0.3, "min")


def test_a_score_is_over_the_steps_at_which_all_were_measured():
    lines = [
        {"step": 1, "a/x": 0.5}, {"step": 1, "b/x": 0.25},
        {"step": 2, "a/x": 0.75, "b/x": None}, {"step": 3, "a/x": 1.0},
        {"step": 4, "b/x": 0.5, "a/x": 0.0},
    ]  # fmt: skip
    assert series(lines, "a/x") == [(1, 0.5), (2, 0.75), (3, 1.0), (4, 0.0)]
    for name, first, last in [("mean", 0.375, 0.25), ("min", 0.25, 0.0), ("max", 0.5, 0.5)]:
        (one, two, four) = series(lines, f"{name}(a/x, b/x)")
        assert one == (1, first) and four == (4, last)
        assert two[0] == 2 and math.isnan(two[1])


def test_scores_that_are_none():
    assert score("validation/iou/crane (2)").keys == ("validation/iou/crane (2)",)
    with pytest.raises(UserError, match="mean"):
        score("maen(a/x, b/x)")
    with pytest.raises(UserError, match="over nothing"):
        score("mean()")


def test_the_journal_forgets_what_lies_beyond_the_resumed_step(tmp_path):
    journal = MetricLog(tmp_path)
    for step in (10, 20, 30):
        journal.write(step, {"train/loss": 1 / step})
    journal.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "train/lo')  # torn by a kill
    again = MetricLog(tmp_path, step=20)
    assert again.series("train/loss") == [(10, 1 / 10), (20, 1 / 20)]
    again.write(30, {"train/loss": math.inf})
    again.close()
    lines = [json.loads(text) for text in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20, 30]
    assert lines[-1]["train/loss"] is None
    assert math.isnan(again.series("train/loss")[-1][1])


def test_a_damaged_journal_names_its_line(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\nnonsense\n{"step": 3}\n')
    with pytest.raises(UserError, match=r"metrics.jsonl, line 2"):
        MetricLog(tmp_path)
