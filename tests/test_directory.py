"""Claiming a run directory: what may change between two starts, and what is refused untouched."""

import functools

import pytest

from jaxdl.config import Config, part
from jaxdl.errors import UserError
from jaxdl.main import main
from jaxdl.rundir import directory

MLP = Config(model=part("mlp"), duration="8 steps")


@pytest.mark.parametrize("field", directory.FREE)
def test_what_may_change_is_a_field_of_the_config(field):
    functools.reduce(getattr, field.split("."), Config())


def test_several_steps_a_call_may_be_asked_for_later(tmp_path):
    directory.claim(tmp_path, MLP)
    (tmp_path / "checkpoints" / "4").mkdir(parents=True)
    changed = Config(model=part("mlp"), duration="8 steps", steps_per_execution=2)
    assert directory.claim(tmp_path, changed) == ["steps_per_execution: 1 -> 2"]


@pytest.mark.parametrize("kept", ["checkpoints/4/state", "metrics.jsonl"])
def test_another_config_takes_over_only_where_nothing_was_done(tmp_path, kept):
    directory.claim(tmp_path, MLP)
    other = Config(model=part("mlp"), duration="8 steps", seed=1)
    assert directory.claim(tmp_path, other) == ["seed: 0 -> 1"]
    (tmp_path / kept).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / kept).write_text("{}\n")
    before = (tmp_path / "config.json").read_text()
    with pytest.raises(UserError, match=r"another config \(seed: 1 -> 0\)"):
        directory.claim(tmp_path, MLP)
    assert (tmp_path / "config.json").read_text() == before


def test_a_run_longer_than_asked_for_is_refused_and_stays(tmp_path, capsys):
    run = ["--config", "configs/cnn.py", "--config.model=mlp", "--config.data.batch_size=32"]
    run += ["--config.log.sinks=", "--workdir", str(tmp_path)]
    assert main([*run, "--config.duration=3"]) == 0
    before = {p.name: p.read_bytes() for p in tmp_path.glob("*.json*")}
    capsys.readouterr()
    assert main([*run, "--config.duration=2"]) == 2
    assert "holds 3 steps, config.duration=2 is 2: choose another" in capsys.readouterr().err
    assert {p.name: p.read_bytes() for p in tmp_path.glob("*.json*")} == before
