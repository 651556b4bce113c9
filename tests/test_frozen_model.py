"""A frozen teacher through a whole run: never moved, stored once, verified, and refused by name."""

import dataclasses
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT

from jaxdl import tree
from jaxdl.assemble import assemble
from jaxdl.config import Checkpoint, Config, Data, Evaluation, Gradient, Mesh, Population, part
from jaxdl.errors import UserError
from jaxdl.loaded import load_run
from jaxdl.main import main
from jaxdl.perf.bench import compiled
from jaxdl.population.run import run as run_population
from jaxdl.research.nonfinite import search
from jaxdl.run import run
from jaxdl.rundir.weights import run_weights
from jaxdl.session import ROLLED_BACK, final_state
from jaxdl.train.step import compile_step

FILE = str(ROOT / "tests" / "frozen_teacher.py")
SOURCE = part("fake", examples=96, size=[8, 8, 1], num_classes=4)
DATA = Data(SOURCE, train="train[:64]", validation="train[64:80]", test="train[80:]", batch_size=16)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("teacher")
    config = Config(
        data=DATA,
        model=part("mlp", widths=[512, 512]),
        optimizer=part("sgd", learning_rate=0.1),
        duration="6 steps",
        checkpoint=Checkpoint(keep_latest=1),
    )
    run(config, workdir)
    return workdir


def student(teacher, **changes):
    config = Config(
        data=DATA,
        model=part("cnn", widths=[4]),
        regularizers=(part("center_loss"), part("soft_labels", teacher=str(teacher))),
        optimizer=part("sgd", learning_rate=0.1),
        average=part("ema", decay=0.5),
        duration="20 steps",
        evaluation=Evaluation(every="5 steps"),
        checkpoint=Checkpoint(every="5 steps", keep_latest=2),
        imports=(FILE,),
    )
    return dataclasses.replace(config, **changes)


def assert_is_the_teacher(constant, teacher):
    weights = run_weights(Path(teacher))
    source = {"params": weights.params, "variables": weights.variables}
    assert constant.keys() == {"teacher"}
    kept, source = tree.flatten(constant["teacher"]), tree.flatten(source)
    assert kept.keys() == source.keys()
    for name in source:
        assert kept[name].dtype == jnp.float32
        np.testing.assert_array_equal(kept[name], source[name], err_msg=name)


def size_of(folder):
    return sum(f.stat().st_size for f in Path(folder).rglob("*") if f.is_file())


@pytest.mark.slow
@pytest.mark.parametrize("average", ["ema", "swa"])
def test_bit_equal_after_averages_bfloat16_fsdp_and_a_rollback(teacher, tmp_path, average):
    config = student(
        teacher,
        regularizers=(
            part("center_loss"),
            part("soft_labels", teacher=str(teacher)),
            part("unlucky", probability=0.04),
        ),
        average=part(average, **({"start": 4, "every": 2} if average == "swa" else {"decay": 0.5})),
        precision=part("bfloat16"),
        mesh=Mesh(fsdp=2),
        gradient=Gradient(accumulate=2, max_skipped=1, rollback=9),
        steps_per_execution=2,
        seed=6,  # whose steps 8 and 13 have no luck
    )
    values = run(config, tmp_path)
    assert ROLLED_BACK in (tmp_path / "metrics.jsonl").read_text()
    assert np.isfinite(values["train/soft_labels"]) and np.isfinite(values["test/accuracy"])
    plan = assemble(config)
    state = final_state(config, plan, tmp_path)
    assert int(state.step) == 20
    assert_is_the_teacher(state.constant, teacher)
    centers = state.variables["extra"]["centers"]
    assert np.any(np.asarray(centers) != 0) and "extra" not in state.average["variables"]
    params, variables = state.weights(average=True)
    assert params is state.average["params"]
    assert variables["extra"]["centers"] is centers and "constant" in variables


def test_a_further_checkpoint_grows_the_directory_by_little(teacher, tmp_path):
    config = student(teacher, checkpoint=Checkpoint(every="10 steps", keep_latest=9, keep_best=9))
    run(config, tmp_path)
    weights = run_weights(teacher)
    bytes_of = sum(x.nbytes for x in jax.tree.leaves(weights.params))
    kept = sorted((tmp_path / "checkpoints").iterdir())
    assert len(kept) >= 2 and size_of(tmp_path / "constant") > bytes_of / 2
    assert all(size_of(folder) < bytes_of / 10 for folder in kept)


def test_a_run_goes_on_to_the_bit_and_reads_its_own_copy(teacher, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(teacher, source)
    config = student(source)
    run(config, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    for step in (tmp_path / "resumed" / "checkpoints").iterdir():
        if step.name == "20":
            shutil.rmtree(step)
    shutil.rmtree(source / "checkpoints")  # the source is not read again
    run(config, tmp_path / "resumed")
    plan = assemble(config)
    whole, resumed = (final_state(config, plan, tmp_path / n) for n in ("whole", "resumed"))
    whole, resumed = (tree.flatten(s.replace(key=None)) for s in (whole, resumed))
    for name, leaf in whole.items():
        np.testing.assert_array_equal(resumed[name], leaf, err_msg=name)
    assert len(list((tmp_path / "resumed" / "constant").iterdir())) == 1
    assert main(["evaluate", str(tmp_path / "resumed")]) == 0
    loaded = load_run(tmp_path / "resumed")
    assert_is_the_teacher(loaded.variables["constant"], teacher)
    np.testing.assert_array_equal(
        loaded.variables["extra"]["centers"], resumed["variables/extra/centers"]
    )


def files_of(folder):
    return sorted(f for f in Path(folder).rglob("*") if f.is_file() and f.parent.name == "d")


def test_weights_that_are_missing_or_damaged_are_named_and_no_checkpoint_is_deleted(
    teacher, tmp_path
):
    config = student(teacher, duration="2 steps", checkpoint=Checkpoint(every="1 steps"))
    run(config, tmp_path)
    kept = sorted((tmp_path / "checkpoints").iterdir())
    file = max(files_of(tmp_path / "constant"), key=lambda f: f.stat().st_size)
    sound = file.read_bytes()
    damaged = bytearray(sound)
    damaged[len(damaged) // 2] ^= 1
    file.write_bytes(damaged)
    with pytest.raises(UserError, match="^teacher: what never moves, .* is damaged|cannot be read"):
        run(config, tmp_path)
    file.write_bytes(sound)
    run(config, tmp_path)
    (tmp_path / "constant").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="^teacher: .* is missing"):
        run(config, tmp_path)
    assert sorted((tmp_path / "checkpoints").iterdir()) == kept


def test_what_names_no_weights_is_refused_in_one_line(teacher):
    def asked(name):
        assemble(student(teacher, regularizers=(part("soft_labels", teacher=name),)))

    with pytest.raises(UserError, match="'runs/none' is not a run directory, and unknown model"):
        asked("runs/none")
    with pytest.raises(UserError, match="'teacher' has no weights: name a run directory"):
        asked(part("mlp", widths=[8]))
    twice = (part("soft_labels", teacher=str(teacher)),) * 2
    with pytest.raises(UserError, match="two parts name a network 'teacher'"):
        assemble(student(teacher, regularizers=twice))
    with pytest.raises(UserError, match="mesh.stage splits one network, and 'teacher' is another"):
        assemble(student(teacher, mesh=Mesh(stage=2)))


def test_the_teacher_is_an_argument_of_the_step_that_is_not_donated(teacher):
    config = student(teacher)
    plan = assemble(config)
    state, spec = plan.abstract_state(0), plan.batch_spec(16)
    lowered = compile_step(plan.step, state).lower(state, spec)
    info = jax.tree_util.tree_leaves_with_path(lowered.args_info)
    assert sum("teacher" in jax.tree_util.keystr(path) for path, _ in info) == 6
    assert all(x.donated != ("teacher" in jax.tree_util.keystr(path)) for path, x in info[:-2])
    assert len(lowered.as_text()) < 1e6  # the weights, 300,000 numbers, are not in the program
    assert compiled(config, plan, "train").cost.parameters == tree.count(state.params)
    assert [found for _, found in search(config, None, 1)] == [None]


def test_members_of_a_population_share_one_teacher(teacher, tmp_path):
    config = student(
        teacher,
        population=Population(seeds=2),
        duration="4 steps",
        evaluation=Evaluation(every="2 steps"),
        checkpoint=Checkpoint(every="2 steps"),
    )
    run_population(config, tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / "4")
    run_population(config, tmp_path)
    files = files_of(tmp_path / "constant")
    for member in sorted((tmp_path / "members").iterdir()):
        own = files_of(member / "constant")
        assert [f.stat().st_ino for f in own] == [f.stat().st_ino for f in files]
        alone = dataclasses.replace(config, population=None)
        state = final_state(alone, assemble(alone), member)
        assert_is_the_teacher(state.constant, teacher)
