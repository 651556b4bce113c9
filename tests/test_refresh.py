"""Changes between steps: made when they are due, seen by the next step, exact after a kill."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from conftest import ROOT

from jaxdl import tree
from jaxdl.assemble import assemble
from jaxdl.config import Checkpoint, Config, Data, Evaluation, Log, Population, part
from jaxdl.config_file import to_json
from jaxdl.errors import UserError
from jaxdl.main import main
from jaxdl.population.members import check as check_population
from jaxdl.run import run
from jaxdl.rundir.read import read_config
from jaxdl.session import Session, final_state

FILE = str(ROOT / "tests" / "refreshed.py")
SOURCE = part("fake", examples=48, size=[4, 4, 1], num_classes=3)
CONFIG = Config(
    data=Data(SOURCE, train="train[:32]", validation="train[32:]", test=None, batch_size=8),
    model=part("mlp", widths=[8]),
    regularizers=(part("scaled_loss"),),
    refresh=(part("measured_scale", every=3),),
    duration="14 steps",
    evaluation=Evaluation(every="2 steps"),
    checkpoint=Checkpoint(every="3 steps", keep_latest=9),
    log=Log(every="1 steps", sinks=()),
    imports=(FILE,),
)


def changed(**fields):
    return dataclasses.replace(CONFIG, **fields)


def reached(config, workdir):
    state = final_state(config, assemble(config), workdir)
    return tree.flatten(dataclasses.replace(state, key=jax.random.key_data(state.key)))


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name, leaf in one.items():
        np.testing.assert_array_equal(other[name], leaf, err_msg=name)


def scales(workdir):
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["train/scale"] for line in lines if "train/scale" in line}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("alone")
    run(CONFIG, workdir)
    return workdir


def test_each_step_has_what_the_last_refresh_before_it_gave(alone):
    found = scales(alone)
    assert list(found) == list(range(1, 15))
    groups = [
        {found[t] for t in group} for group in ((1, 2, 3), (4, 5, 6), (7, 8, 9), (10, 11, 12))
    ]
    assert groups[0] == {1.0} and all(len(group) == 1 for group in groups)
    assert len(set.union(*groups)) == 4  # each refresh gave another number


@pytest.mark.parametrize("step", [6, 9, 12])  # checkpoints that were saved where one was due
def test_a_run_that_goes_on_from_a_checkpoint_is_equal_to_one_left_alone(alone, tmp_path, step):
    workdir = tmp_path / "resumed"
    shutil.copytree(alone, workdir)
    for folder in (workdir / "checkpoints").iterdir():
        if int(folder.name) > step:
            shutil.rmtree(folder)
    run(CONFIG, workdir)
    assert_equal(reached(CONFIG, workdir), reached(CONFIG, alone))
    assert scales(workdir) == scales(alone)


def test_several_steps_in_a_call_end_where_a_refresh_is_due(tmp_path):
    config = changed(steps_per_execution=4, log=Log(every="14 steps", sinks=()))
    with Session(config, assemble(config), tmp_path) as session:
        chunks = [(chunk.start, chunk.stop) for chunk in session.step_chunks(0)]
    assert {3, 6, 9, 12} <= {stop for _, stop in chunks}


@pytest.mark.slow
def test_killed_in_the_middle_of_a_refresh_and_resumed(tmp_path):
    lethal = changed(refresh=(part("measured_scale", every=3, kill=9),))
    file = tmp_path / "config.json"
    file.write_text(to_json(lethal))
    command = [sys.executable, "-m", "jaxdl.main", "--config", str(file), "--workdir"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    start = lambda name, **more: subprocess.run(
        [*command, str(tmp_path / name)], env={**environment, **more}, capture_output=True
    )
    assert start("killed", LETHAL="1").returncode == -9
    assert start("killed").returncode == start("alone").returncode == 0
    config = read_config(tmp_path / "alone")
    assert_equal(reached(config, tmp_path / "killed"), reached(config, tmp_path / "alone"))


def test_the_kind_is_listed_with_and_without_a_part_of_ones_own(capsys):
    command = [sys.executable, "-m", "jaxdl.main", "--list", "refreshes"]
    empty = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert empty.returncode == 2 and "no refreshes come with jaxdl" in empty.stderr
    assert main(["--list", "refreshes", "--import", FILE]) == 0
    assert 'every: duration = "1 epoch"' in capsys.readouterr().out


def test_what_cannot_be_refreshed_is_refused_in_one_line(tmp_path):
    with pytest.raises(UserError, match="'measured_scale' has nothing to set: this objective"):
        run(changed(regularizers=()), tmp_path / "a")
    with pytest.raises(UserError, match="'measured_scale': `every` must be at least 1 step"):
        run(changed(refresh=(part("measured_scale", every=0),)), tmp_path / "b")
    with pytest.raises(UserError, match="config.refresh is not for a population"):
        check_population(changed(population=Population(seeds=2)))
    assert not (tmp_path / "a").exists()
    for value, message in {
        "name": "sets an unknown 'scales': did you mean 'scale'",
        "shape": "gives 'scale' another shape or type",
        "type": "gives 'scale' another shape or type",
    }.items():
        refresh = (part("measured_scale", every=3, value=value),)
        with pytest.raises(UserError, match=f"refresh 'measured_scale' {message}"):
            run(changed(refresh=refresh, duration="4 steps"), tmp_path / value)
