"""The weights of a run, read from its directory alone."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.assemble import assemble
from jaxdl.config import Checkpoint, Config, Data, EarlyStopping, Evaluation, part
from jaxdl.errors import UserError
from jaxdl.run import run
from jaxdl.rundir.checkpoint import Checkpoints
from jaxdl.rundir.digest import digest_on_host, digests
from jaxdl.rundir.weights import kept_steps, run_weights
from jaxdl.session import final_state
from jaxdl.train import stopping


def small(**more):
    fields = {
        "data": Data(source=part("fake", examples=64), batch_size=16),
        "model": part("resnet20", width=2),
        "optimizer": part("sgd", learning_rate=0.05),
        "schedule": part("constant"),
        "duration": "4 steps",
    }
    return Config(**{**fields, **more})


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run whose best checkpoint is not its newest, with an average of the weights."""
    workdir = tmp_path_factory.mktemp("runs") / "best"
    config = small(
        average=part("ema", decay=0.5),
        early_stopping=EarlyStopping(patience=9),
        evaluation=Evaluation(every=1),
        checkpoint=Checkpoint(every=1, keep_latest=2),
    )
    run(config, workdir)
    return config, workdir


def test_they_are_those_that_a_run_is_judged_by(stopped):
    config, workdir = stopped
    state = final_state(config, assemble(config), workdir)
    found = run_weights(workdir)
    assert found.step == int(state.step) and found.averaged and found.config == config
    chex.assert_trees_all_equal((found.params, found.variables), state.weights(True))
    raw = run_weights(workdir, "raw")
    assert raw.step == found.step and not raw.averaged
    chex.assert_trees_all_equal((raw.params, raw.variables), (state.params, state.variables))


def test_or_those_of_another_checkpoint(stopped):
    config, workdir = stopped
    steps = kept_steps(workdir / "checkpoints")
    assert run_weights(workdir, "latest").step == max(steps) == 4
    like = assemble(config).abstract_state(config.seed)
    with Checkpoints(workdir / "checkpoints", writes=False) as checkpoints:
        for step in steps:
            state = checkpoints.restore(step, like).state
            chex.assert_trees_all_equal(
                run_weights(workdir, str(step), "raw").params, jax.device_get(state.params)
            )
    with pytest.raises(UserError, match="has no '@lates': did you mean 'latest'"):
        run_weights(workdir, "lates")
    with pytest.raises(UserError, match=r"has no '@7': .*3, 4, latest, raw"):
        run_weights(workdir, "7")


def test_the_best_is_asked_for_by_early_stopping_alone(stopped, monkeypatch):
    _, workdir = stopped
    monkeypatch.setattr(stopping, "best", lambda history, mode: 0)
    assert run_weights(workdir).step == kept_steps(workdir / "checkpoints")[0] < 4


def test_an_optimizer_that_averages_has_its_average(tmp_path):
    config = small(
        model=part("mlp", widths=[4]), optimizer=part("schedule_free_adamw", learning_rate=0.05)
    )
    config = dataclasses.replace(config, freeze="backbone/dense0/bias")
    run(config, tmp_path)
    state = final_state(config, assemble(config), tmp_path)
    found = run_weights(tmp_path)
    assert found.averaged
    chex.assert_trees_all_close(found.params, state.weights()[0], rtol=1e-6, atol=1e-7)
    raw = run_weights(tmp_path, "raw").params
    chex.assert_trees_all_equal(raw, jax.device_get(state.params))
    kernels = [p["backbone"]["dense0"]["kernel"] for p in (found.params, raw)]
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-4


def test_a_damaged_leaf_is_refused_and_an_older_checkpoint_taken(tmp_path):
    run(small(model=part("mlp", widths=[4]), checkpoint=Checkpoint(every=2)), tmp_path)
    folder = tmp_path / "checkpoints"
    largest = max((folder / "4").rglob("d/*"), key=lambda f: f.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    with pytest.raises(UserError, match="checkpoint .*4 is damaged"):
        run_weights(tmp_path, "4")
    with pytest.warns(UserWarning, match="is damaged.*using step 2 instead"):
        assert run_weights(tmp_path).step == 2


def test_what_is_no_run_says_so(tmp_path):
    with pytest.raises(UserError, match="has no checkpoints: is it a run directory"):
        run_weights(tmp_path)
    (tmp_path / "members" / "0").mkdir(parents=True)
    (tmp_path / "checkpoints" / "4").mkdir(parents=True)  # of all members at once
    with pytest.raises(UserError, match="is a population: name a member, such as '.*members/0'"):
        run_weights(tmp_path)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "bool", "uint8", "float16"])
@pytest.mark.parametrize("shape", [(), (7,), (3, 5, 4)])
def test_the_digest_of_a_leaf_is_one_number_on_host_and_device(dtype, shape):
    x = (np.random.default_rng(0).normal(size=shape) * 9).astype(jnp.dtype(dtype))
    assert digests({"x": jnp.asarray(x)}) == {"x": digest_on_host(np.asarray(x))}
