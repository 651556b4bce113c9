"""A full disk: the fast form of `python -m tests.chaos disk`, and what a run makes of it."""

import csv
import json
import struct
import warnings

import pytest
from chaos import disk
from tensorboardX.proto.event_pb2 import Event
from test_run import small

from jaxdl.config import Checkpoint, Evaluation
from jaxdl.errors import UserError
from jaxdl.run import run
from jaxdl.rundir import integrity
from jaxdl.rundir import journal as journals
from jaxdl.rundir.journal import MetricLog
from jaxdl.rundir.sinks import csv_file, tensorboard

FULL = OSError(28, "No space left on device")


def test_a_save_without_room_leaves_the_others_whole(tmp_path):
    found = disk.saves(tmp_path, disk.bytes_a_file, [0.0, 0.02, 0.5])
    assert found == {disk.FULL: 3}


def events(workdir):
    """(step, tag, value) of all event files in order, and that nothing follows a torn record."""
    for file in sorted((workdir / "tensorboard").iterdir(), key=lambda f: f.name.split(".")[-1]):
        data = file.read_bytes()
        while len(data) > 12 and len(data) >= (size := 16 + struct.unpack("<Q", data[:8])[0]):
            event = Event.FromString(data[12 : size - 4])
            yield from ((event.step, v.tag, v.simple_value) for v in event.summary.value)
            data = data[size:]


@pytest.mark.parametrize("budget", [0, 1, 300, 1000, 1063])
def test_numbers_wait_until_there_is_room(tmp_path, monkeypatch, budget):
    monkeypatch.setattr(journals, "RETRY", 0.0)
    expected = [
        {"step": step, key: step / 4}
        for step in range(1, 31)
        for key in ("train/loss", "validation/loss")
    ]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        journal = MetricLog(tmp_path, sinks=[csv_file, tensorboard])
        for i, line in enumerate(expected):
            if i == 10:
                limit = disk.bytes_a_file(tmp_path, budget)
                limit.__enter__()
            if i == 40:
                limit.__exit__(None, None, None)
            journal.write(line["step"], {k: v for k, v in line.items() if k != "step"})
        journal.close()
    told = [str(w.message) for w in caught]
    assert 1 <= len(told) <= 3 and all("kept and tried again" in t for t in told), told
    lines = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == expected == journal.lines
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    values = [(line["step"], *list(line.items())[1]) for line in expected]
    assert [(int(s), k, float(v)) for s, k, v in rows] == values
    # TensorBoard itself drops what a later file has anew.
    assert set(events(tmp_path)) == set(values)
    assert not list(tmp_path.rglob("*.tmp"))


def test_what_stays_unwritten_is_said_at_the_end(tmp_path):
    with pytest.warns(UserWarning) as caught:
        journal = MetricLog(tmp_path)
        with disk.bytes_a_file(tmp_path, 0):
            journal.write(1, {"train/loss": 0.5})
            journal.close()
    refused, unwritten = [str(w.message) for w in caught]
    assert "metrics.jsonl cannot be written: File too large" in refused
    assert unwritten.endswith("metrics.jsonl: 1 lines were not written")
    assert journal.series("train/loss") == [(1, 0.5)]


def refusing(monkeypatch, steps):
    """Saves of these steps find no room."""
    write = integrity.write

    def refuse(folder, step, *rest):
        if step in steps:
            raise FULL
        write(folder, step, *rest)

    monkeypatch.setattr(integrity, "write", refuse)


def steps_in(workdir):
    return [json.loads(x)["step"] for x in (workdir / "metrics.jsonl").read_text().splitlines()]


CONFIG = small(
    duration="12 steps",
    checkpoint=Checkpoint(every="4 steps"),
    evaluation=Evaluation(every="100 steps"),
)


def test_training_goes_on_without_a_save(tmp_path, monkeypatch):
    expected = run(CONFIG, tmp_path / "whole")
    refusing(monkeypatch, {4, 8})
    with pytest.warns(UserWarning, match="was not written: OSError.*No space left") as caught:
        values = run(CONFIG, tmp_path / "run")
    assert len(caught) == 2 and values["test/accuracy"] == expected["test/accuracy"]
    assert [f.name for f in (tmp_path / "run/checkpoints").iterdir()] == ["12"]


def test_a_run_whose_last_save_failed_says_so_and_goes_on_later(tmp_path, monkeypatch):
    expected = run(CONFIG, tmp_path / "whole")
    with monkeypatch.context() as patch:
        refusing(patch, {8, 12})
        with (
            pytest.warns(UserWarning, match="training goes on"),
            pytest.raises(UserError, match=r"checkpoints/12 was not written: .* from step 4"),
        ):
            run(CONFIG, tmp_path / "run")
    status = json.loads((tmp_path / "run/manifest.json").read_text())["status"]
    assert "12 was not written" in status and (tmp_path / "run/report.html").is_file()
    assert run(CONFIG, tmp_path / "run")["test/accuracy"] == expected["test/accuracy"]
    assert steps_in(tmp_path / "run") == steps_in(tmp_path / "whole")
