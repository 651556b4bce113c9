"""Numbers that are not finite: steps skipped, runs stopped or taken back, layers named."""

import contextlib
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from chaos import numbers
from chaos.numbers import SETTINGS, Trial

from jaxdl import registry
from jaxdl.assemble import assemble
from jaxdl.config import Checkpoint, Config, Data, Gradient, Log, part
from jaxdl.config_file import to_json
from jaxdl.data.pipeline import train_indices
from jaxdl.errors import UserError
from jaxdl.main import main
from jaxdl.optim.gradient_transforms import skip_spikes
from jaxdl.registry import register
from jaxdl.run import run
from jaxdl.rundir.digest import digests
from jaxdl.rundir.progress import Diverged
from jaxdl.session import ROLLED_BACK, final_state, first_state, training_batches
from jaxdl.train.step import compile_step


@pytest.mark.parametrize("setting", ["float16, accumulated", "SAM, clipped"])
def test_a_bad_number_is_skipped_or_harmless(setting):
    found, wrong = numbers.experiment(8, 0, [setting])
    assert not wrong
    assert found.total() == 8 and sum(n for (_, kind), n in found.items() if kind == "skipped") > 4


@pytest.fixture(scope="module")
def made():
    config = SETTINGS["bfloat16, accumulated"]
    made = numbers.bench(config)
    jax.eval_shape(made.plan.step, made.state, made.batch(0, None))
    return made


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("pixel", "'image' of the batch"),
        ("loss", "the loss, of finite outputs"),
        ("gradient", "the gradient of backbone/"),
        ("parameter", "params/backbone/"),
    ],
)
def test_what_is_not_finite_is_named(made, kind, said):
    found = numbers.named(made, Trial(kind, np.nan, 0, 0), SETTINGS["bfloat16, accumulated"])
    assert found.startswith(said)


def test_the_layer_is_named(made):
    convolution = next(i for i, path in enumerate(made.layers) if "conv1" in path)
    trial = Trial("layer", np.inf, 0, convolution)
    found = numbers.named(made, trial, SETTINGS["bfloat16, accumulated"])
    assert found.startswith(f"the output of {made.layers[convolution]} (")
    assert numbers.named(made, trial._replace(place=-1), SETTINGS["bfloat16, accumulated"]) is None


# --- Runs -----------------------------------------------------------------------------------------

STEPS, BATCH = 40, 8


@pytest.fixture
def floats(own_registry):
    """A source whose examples come once in a run; those of the batches in `bad` are NaN."""

    @register("sources")
    def floats(split: str, /, *, bad: tuple[int, ...] = ()):
        n = STEPS * BATCH
        rng = np.random.default_rng(len(split))
        label = rng.integers(0, 2, n)
        image = rng.normal(size=(n, 4, 4, 1)).astype(np.float32) + label[:, None, None, None]
        for t in bad if split == "train" else ():
            image[train_indices(0, t, n=n, batch_size=BATCH), 0, 0] = np.nan
        return {"image": image, "label": label}


def config_of(*bad, **gradient):
    return Config(
        data=Data(source=part("floats", bad=bad), batch_size=BATCH, validation=None, test=None),
        model=part("mlp", widths=[4]),
        optimizer=part("adamw", learning_rate=0.01),
        schedule=part("constant"),
        gradient=Gradient(max_skipped=3, **gradient),
        average=part("ema", decay=0.9),
        preprocess=(),
        duration=STEPS,
        checkpoint=Checkpoint(every="4 steps"),
        log=Log(sinks=(), every=1),
    )


def journal(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def final(config, workdir):
    return digests(final_state(config, assemble(config), workdir))


def test_skipped_steps_are_in_the_journal(floats, tmp_path):
    run(config_of(3, 7, 8), tmp_path)
    lines = journal(tmp_path)
    assert [line["step"] for line in lines if line["train/skipped"]] == [4, 8, 9]
    assert len(lines) == STEPS and "train/loss" not in lines[3]


def test_a_run_that_diverges_says_where_and_has_status_3(floats, tmp_path, capsys):
    (tmp_path / "c.json").write_text(to_json(config_of(5, 6, 7, 8)))
    assert main(["--config", str(tmp_path / "c.json"), "--workdir", str(tmp_path / "run")]) == 3
    error = capsys.readouterr().err
    assert "the last 3 steps, up to step 8, were not finite (first 'image' of the batch" in error
    numbers = sorted(train_indices(0, 7, n=STEPS * BATCH, batch_size=BATCH))
    assert f"in the training examples {', '.join(map(str, numbers[:5]))}" in error
    assert "Traceback" not in error and error.startswith("error: training diverged")
    status = json.loads((tmp_path / "run" / "manifest.json").read_text())["status"]
    assert status.startswith("training diverged")
    assert main(["find-nan", str(tmp_path / "run")]) == 0
    assert "not finite is first 'image' of the batch" in capsys.readouterr().out


def test_a_run_goes_back_and_on_with_later_batches(floats, tmp_path):
    config = config_of(9, 10, 11, rollback=1)
    run(config, tmp_path / "whole")
    back = [line for line in journal(tmp_path / "whole") if ROLLED_BACK in line]
    assert back == [{"step": 12, ROLLED_BACK: 8}]

    # By hand: the weights of step 8, and batches 12 to the end.
    plan = assemble(config)
    state = first_state(config, plan)
    step = compile_step(plan.step, state)
    for begin, end in ((0, 8), (12, STEPS)):
        state = state.replace(step=jax.device_put(np.int32(begin), state.step.sharding))
        with contextlib.closing(training_batches(config, plan, begin, end)) as batches:
            for batch in batches:
                state, _ = step(state, batch)
    assert digests(state) == final(config, tmp_path / "whole")


@pytest.mark.parametrize("end", [11, 13])
def test_going_back_and_resuming_end_in_the_same_bits(floats, tmp_path, end):
    config = config_of(9, 10, 11, rollback=1)
    run(config, tmp_path / "whole")
    run(dataclasses.replace(config, duration=end), tmp_path / "parts")
    run(config, tmp_path / "parts")
    assert final(config, tmp_path / "parts") == final(config, tmp_path / "whole")
    assert [x for x in journal(tmp_path / "parts") if ROLLED_BACK in x] == [
        {"step": 12, ROLLED_BACK: 8}
    ]


def test_a_second_trouble_at_once_goes_further_back(floats, tmp_path):
    run(config_of(*range(9, 15), rollback=2), tmp_path)
    back = [line for line in journal(tmp_path) if ROLLED_BACK in line]
    assert back == [{"step": 12, ROLLED_BACK: 8}, {"step": 15, ROLLED_BACK: 4}]


def test_there_is_an_end_to_going_back(floats, tmp_path):
    with pytest.raises(Diverged, match="up to step 18"):
        run(config_of(*range(9, STEPS), rollback=2), tmp_path)
    with pytest.raises(Diverged, match="up to step 3"):  # there is nothing yet to go back to
        run(config_of(0, 1, 2, rollback=2), tmp_path / "early")


def test_spikes_are_skipped_by_their_deviation():
    tx = skip_spikes(deviations=4.0, decay=0.9, warmup=10)
    grads = {"w": jnp.ones(3)}
    state = tx.init(grads)
    rng = np.random.default_rng(0)
    losses = rng.normal(1.0, 0.1, 40)
    losses[[5, 20, 30]] = 3.0
    mean, variance = 0.0, 0.0
    for n, loss in enumerate(losses):
        out, moved = tx.update(grads, state, None, value=jnp.float32(loss))
        skipped = not np.isfinite(out["w"]).all()
        spikes = n >= 10 and loss > mean + 4 * np.sqrt(variance)
        assert skipped == spikes == (n in (20, 30))
        if skipped:
            continue  # the step leaves the state as it was
        state = moved
        share = max(1 / int(state.count), 0.1)
        variance = (1 - share) * (variance + share * (loss - mean) ** 2)
        mean = mean + share * (loss - mean)
        np.testing.assert_allclose([state.mean, state.variance], [mean, variance], rtol=1e-4)
    assert state.count == 38


def test_a_loss_that_would_blind_the_variance_is_a_spike_in_the_warmup_too():
    tx, grads = skip_spikes(warmup=10), {"w": jnp.ones(3)}
    for value, skips in [(1e18, False), (1e25, True), (-1e25, True)]:
        out, state = tx.update(grads, tx.init(grads), None, value=jnp.float32(value))
        assert np.isnan(out["w"]).all() == skips
        assert skips or np.isfinite(state.variance)


@pytest.mark.parametrize("entry", registry.entries("optimizers"), ids=lambda e: e.name)
def test_no_optimizer_swallows_nan(entry):
    optimizer = optax.with_extra_args_support(entry.build(learning_rate=0.1))
    params = {"head": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}}
    state = optimizer.init(params)
    nan = jax.tree.map(lambda x: x * jnp.nan, params)
    updates, _ = jax.jit(
        lambda: optimizer.update(nan, state, params, value=jnp.float32(1), grad_fn=lambda _: nan)
    )()
    assert not jnp.isfinite(optax.tree.norm(updates))


def test_spikes_need_that_steps_may_be_skipped(floats, tmp_path):
    gradient = Gradient(transforms=(part("skip_spikes"),), skip_nonfinite=False)
    with pytest.raises(UserError, match="'skip_spikes' needs config.gradient.skip_nonfinite=true"):
        run(dataclasses.replace(config_of(), gradient=gradient), tmp_path)
