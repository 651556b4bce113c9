"""Several steps in one call of the program: the same batches, the same numbers, fewer calls."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from jaxdl.assemble import assemble
from jaxdl.config import Checkpoint, Config, Data, Evaluation, Gradient, Log, part
from jaxdl.data import open_split, train_batches
from jaxdl.data.multistep import multistep_batches, multistep_spec
from jaxdl.data.sampler import shuffle
from jaxdl.data.streams import MAIN, TrainStream
from jaxdl.errors import UserError
from jaxdl.run import run
from jaxdl.session import first_state
from jaxdl.train.loop import step_chunks
from jaxdl.train.sharding import batch_sharding, make_mesh
from jaxdl.train.step import multi_step

CONFIG = Config(
    data=Data(source=part("fake", size=(8, 8, 3), examples=96), batch_size=16),
    model=part("mlp", widths=[16]),
    optimizer=part("adamw", learning_rate=1e-2),
    augment=(part("random_flip"),),
    schedule=part("constant"),
    duration=23,
    evaluation=Evaluation(every=10),
    checkpoint=Checkpoint(every=9),
    log=Log(every=4, sinks=()),
    steps_per_execution=7,
)


def test_turns_end_where_something_is_due():
    assert [tuple(r) for r in step_chunks(3, 12, 4, [5])] == [(3, 4), (5, 6, 7, 8), (9,), (10, 11)]
    assert [len(r) for r in step_chunks(0, 10, 100, [4, 6])] == [4, 2, 2, 2]
    assert [len(r) for r in step_chunks(0, 5, 1)] == [1] * 5
    assert list(step_chunks(4, 4, 3)) == []


def test_the_batches_are_those_of_single_steps():
    arrays = {"image": np.zeros((37, 1, 1, 1), np.uint8), "label": np.arange(37)}
    split = open_split(lambda name: arrays, "train", num_classes=37, memory=2**20)
    sharding = batch_sharding(make_mesh())
    options = {"seed": 3, "sharding": sharding}
    single = [b["label"] for b in train_batches(split, batch_size=8, start=2, stop=13, **options)]
    made, streams = [], {MAIN: TrainStream(split, shuffle, 8)}
    for r in multistep_batches(streams, runs=step_chunks(2, 13, 4, [5]), longest=4, **options):
        made += [np.asarray(r.batch(i)["label"]) for i in range(int(r.steps))]
    np.testing.assert_array_equal(made, single)


def metrics_of(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    timed = ("images_per_second", "data_wait")
    return [{k: v for k, v in line.items() if not k.endswith(timed)} for line in lines]


def test_a_run_says_the_same_and_goes_on_where_it_was_stopped(tmp_path):
    run(dataclasses.replace(CONFIG, steps_per_execution=1), tmp_path / "single")
    run(CONFIG, tmp_path / "several")
    single, multi_step = metrics_of(tmp_path / "single"), metrics_of(tmp_path / "several")
    assert [line["step"] for line in multi_step] == [line["step"] for line in single]
    for a, b in zip(single, multi_step, strict=True):
        assert a.keys() == b.keys()
        np.testing.assert_allclose(list(b.values()), list(a.values()), rtol=1e-5)
    run(dataclasses.replace(CONFIG, duration=12), tmp_path / "resumed")
    run(CONFIG, tmp_path / "resumed")
    resumed = metrics_of(tmp_path / "resumed")
    assert resumed[-1] == multi_step[-1]


def test_skipped_steps_are_counted_in_a_run(tmp_path):
    poisoned = dataclasses.replace(
        CONFIG, optimizer=part("sgd", learning_rate=1e38), gradient=Gradient(max_skipped=8)
    )
    plan = assemble(poisoned)
    state = first_state(poisoned, plan)
    sharding = batch_sharding(plan.mesh)
    (one,) = multistep_batches(plan.streams, seed=0, runs=[range(6)], longest=6, sharding=sharding)
    state, metrics = jax.jit(multi_step(plan.step))(state, one)
    assert int(state.step) == 6
    skipped, count = metrics["skipped"]
    assert count == 6
    assert 0 < skipped <= 6


def test_examples_that_are_not_in_memory_are_refused():
    plan = assemble(CONFIG)
    split = dataclasses.replace(plan.splits["train"], arrays=None)
    streamed = {MAIN: TrainStream(split, shuffle, 16)}
    asked = {"longest": 4, "sharding": batch_sharding(plan.mesh)}
    with pytest.raises(UserError, match="is not in memory, and several steps in one program"):
        multistep_spec(streamed, **asked)
    with pytest.raises(UserError, match="is not in memory"):
        multistep_batches(streamed, runs=[], seed=0, **asked)
