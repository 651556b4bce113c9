"""Where a run's numbers go: each sink, and what a resumed run drops from it."""

import csv
import sys
import types

import pytest

from jaxdl.config import Config, Log, part
from jaxdl.errors import UserError
from jaxdl.run import run
from jaxdl.rundir.journal import MetricLog
from jaxdl.rundir.sinks import csv_file, tensorboard, wandb


def written(workdir, sink, step=0):
    journal = MetricLog(workdir, step=step, sinks=[sink])
    for t in (step + 1, step + 2):
        journal.write(t, {"train/loss": 0.5 / t, "train/bad": float("nan")})
    journal.close()


def test_tensorboard_events(tmp_path):
    written(tmp_path, tensorboard)
    (events,) = (tmp_path / "tensorboard").glob("events*")
    assert b"train/loss" in events.read_bytes()


def rows(workdir):
    with (workdir / "metrics.csv").open(newline="") as file:
        return list(csv.reader(file))


def test_a_csv_file_holds_finite_numbers_and_no_step_twice(tmp_path):
    written(tmp_path, csv_file)
    first = [["step", "metric", "value"], ["1", "train/loss", "0.5"], ["2", "train/loss", "0.25"]]
    assert rows(tmp_path) == first
    written(tmp_path, csv_file, step=1)  # resumed from step 1: the second step comes anew
    assert rows(tmp_path) == [*first, ["3", "train/loss", str(0.5 / 3)]]


def test_wandb_is_handed_config_and_numbers(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text('{"seed": 3}')
    calls = []
    client = types.SimpleNamespace(
        log=lambda values, step: calls.append((step, values)), finish=lambda: calls.append("end")
    )
    fake = types.ModuleType("wandb")
    fake.init = lambda **options: calls.append(options) or client
    monkeypatch.setitem(sys.modules, "wandb", fake)
    written(tmp_path, lambda workdir, step, /: wandb(workdir, step, project="p", mode="offline"))
    begun, *logged = calls
    assert begun["config"] == {"seed": 3} and begun["project"] == "p" and begun["resume"] == "allow"
    assert logged == [(1, {"train/loss": 0.5}), (2, {"train/loss": 0.25}), "end"]


def test_wandb_ids_are_of_directories_and_not_of_their_names(tmp_path, monkeypatch):
    ids = []
    client = types.SimpleNamespace(log=lambda values, step: None, finish=lambda: None)
    fake = types.ModuleType("wandb")
    fake.init = lambda **options: ids.append(options["id"]) or client
    monkeypatch.setitem(sys.modules, "wandb", fake)
    members = [tmp_path / population / "members" / "0" for population in ("a", "b")]
    for workdir in [*members, members[0]]:
        workdir.mkdir(parents=True, exist_ok=True)
        (workdir / "config.json").write_text("{}")
        wandb(workdir, 0)
    assert ids[0] != ids[1] and ids[2] == ids[0] and ids[0].startswith("0-")
    # A run that began when its directory's name was its id goes on under it.
    (tmp_path / "old" / "wandb").mkdir(parents=True)
    (tmp_path / "old" / "config.json").write_text("{}")
    wandb(tmp_path / "old", 0)
    assert ids[3] == "old"


def test_members_of_a_population_do_not_share_a_wandb_run(tmp_path, monkeypatch):
    active, logged = [], []

    def init(**options):
        # A second call in one process returns the first run, unless it asks for a new one:
        # https://docs.wandb.ai/models/runs/multiple-runs-per-process
        if not active or options.get("reinit") == "create_new":
            log = lambda values, step: logged.append((options["id"], step))
            active.append(types.SimpleNamespace(log=log, finish=lambda: None))
        return active[-1]

    fake = types.ModuleType("wandb")
    fake.init = init
    monkeypatch.setitem(sys.modules, "wandb", fake)
    journals = []
    for member in ("0", "1"):
        workdir = tmp_path / "members" / member
        workdir.mkdir(parents=True)
        (workdir / "config.json").write_text("{}")
        journals.append(MetricLog(workdir, step=0, sinks=[wandb]))
    for journal in journals:
        journal.write(1, {"train/loss": 0.5})
    for journal in journals:
        journal.close()
    assert len({run for run, step in logged}) == len(logged) == 2


def test_a_missing_client_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="pip install 'wandb>=0.19.10'"):
        wandb(tmp_path, 0)


def test_sinks_of_a_config(tmp_path):
    config = Config(
        model=part("mlp", widths=[8]),
        duration="4 steps",
        log=Log(every=2, sinks=(part("csv"), part("tensorboard"))),
    )
    run(config, tmp_path)
    steps = {row[0] for row in rows(tmp_path)[1:] if row[1] == "train/loss"}
    assert steps == {"2", "4"} and (tmp_path / "tensorboard").is_dir()
