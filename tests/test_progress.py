"""Progress: what asks for it finds the step divided by the run's steps in its batch."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo import QUICK

from jaxdl import registry
from jaxdl.assemble import assemble
from jaxdl.config import Config, Data, Gradient, Log, part
from jaxdl.run import run
from jaxdl.rundir.read import read_metrics
from jaxdl.session import first_state, training_batches
from jaxdl.train.progress import with_progress
from jaxdl.train.step import compile_step
from jaxdl.types import mask_of, progress_of

RUN = Config(
    data=Data(
        source=part("fake", size=(4, 4, 1), num_classes=3, examples=48),
        batch_size=16,
        validation=None,
        test=None,
    ),
    model=part("mlp", widths=[4]),
    optimizer=part("sgd", learning_rate=0.1),
    regularizers=(part("ramp"),),
    log=Log(every=1, sinks=()),
    duration="6 steps",
)
FORMS = {
    "plain": {},
    "accumulated": {"gradient": Gradient(accumulate=2)},
    "several a call": {"steps_per_execution": 4},
    "half precision first exact": {"precision": part("bfloat16", start="50%")},
}


@pytest.fixture(autouse=True)
def ramp(own_registry):
    @registry.register("regularizers")
    def ramp(progress, objective, /):
        """Adds nothing until it is told how far the run is."""

        def loss(params, variables, batch, key):
            value, aux = objective.loss(params, variables, batch, key)
            done, count = progress(batch), jnp.sum(mask_of(batch))
            assert done.shape == () and done.dtype == jnp.float32
            metrics = {**aux.metrics, "progress": (done * count, count)}
            return value + 0 * done, aux._replace(metrics=metrics)

        return objective._replace(loss=loss)


@pytest.mark.parametrize("form", FORMS)
def test_it_is_the_step_divided_by_all_steps(form, tmp_path):
    run(dataclasses.replace(RUN, **FORMS[form]), tmp_path)
    lines = [line for line in read_metrics(tmp_path) if "train/progress" in line]
    steps = [line["step"] for line in lines]
    if form != "several a call":
        assert steps == [1, 2, 3, 4, 5, 6]
    # A line is of the steps since the line before it.
    means = [np.mean(np.arange(a, b)) / 6 for a, b in zip([0, *steps], steps, strict=False)]
    np.testing.assert_allclose([line["train/progress"] for line in lines], means, rtol=1e-6)


def test_a_resumed_run_goes_on_from_where_it_was():
    plan = assemble(RUN)
    state = first_state(RUN, plan)
    state = state.replace(step=jax.device_put(jnp.int32(4), state.step.sharding))
    step = compile_step(plan.step, state)
    batch = next(iter(training_batches(RUN, plan, 4, 5)))
    _, metrics = step.lower(state, batch).compile(QUICK)(state, batch)
    total, count = metrics["progress"]
    np.testing.assert_allclose(total / count, np.float32(4 / 6), rtol=1e-7)


def test_batches_of_runs_that_do_not_ask_are_as_they_were():
    plan = assemble(dataclasses.replace(RUN, regularizers=()))
    spec = plan.batch_spec(16)
    state = plan.abstract_state(0)
    asked = jax.make_jaxpr(assemble(RUN).step)(state, spec)
    silent = jax.make_jaxpr(plan.step)(state, spec)
    assert len(silent.eqns) < len(asked.eqns)
    batch = {"image": np.zeros((16, 4, 4, 1))}
    assert plan.told(batch, 3) is batch
    np.testing.assert_array_equal(assemble(RUN).told(batch, 3)["progress"], np.full(16, 0.5, "f"))


def test_outside_of_training_steps_a_run_counts_as_done():
    batch = {"image": np.zeros((4, 2))}
    assert progress_of(batch) == 1
    told = with_progress({"target": {"image": np.zeros((3, 2))}, **batch}, 3, 4)
    np.testing.assert_array_equal(told["progress"], np.full(4, 0.75, "f"))
