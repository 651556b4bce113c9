"""Early stopping and the journal."""

import json
import math

import pytest

from jaxdl.errors import UserError
from jaxdl.rundir.journal import MetricLog
from jaxdl.train.stopping import best, should_stop

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
