"""Optimizers by path: each group has its own rule and memory, under one clip and one clock."""

import dataclasses

import chex
import jax
import numpy as np
import pytest

from jaxdl import tree
from jaxdl.assemble import assemble
from jaxdl.config import Checkpoint, Config, Data, Gradient, Population, part
from jaxdl.config_file import from_json, to_json
from jaxdl.errors import UserError
from jaxdl.main import main
from jaxdl.override import override
from jaxdl.population.run import run as run_members
from jaxdl.run import run
from jaxdl.rundir import integrity
from jaxdl.rundir.weights import run_weights
from jaxdl.session import first_state, training_batches

SGD = part("sgd", learning_rate=0.5, momentum=0.9)


def small(**more):
    fields = {
        "data": Data(source=part("fake", examples=64, size=[4, 4, 1]), batch_size=16),
        "model": part("mlp", widths=[4]),
        "optimizer": part("adam", learning_rate=0.1, eps=1e-8),
        "optimizers": {"head/.*": SGD},
        "schedule": part("linear", end=0.0, warmup=0),
        "gradient": Gradient(transforms=(part("clip_norm", limit=0.1),)),
        "duration": "4 steps",
        "precision": part("float32"),
    }
    return Config(**{**fields, **more})


def stepped(config, steps=4, look=None):
    """The state after these steps of the compiled step; `look` sees each before it is spent."""
    plan = assemble(config)
    state, step = first_state(config, plan), jax.jit(plan.step)
    for t, batch in enumerate(training_batches(config, plan, 0, steps)):
        if look:
            look(plan, t, state, batch)
        state, _ = step(state, batch)
    return plan, state


def test_two_groups_are_two_updates_by_hand():
    config = small()
    weights, mean, square, velocity = {}, {}, {}, {}
    schedule = lambda t: 1 - t / 3  # the last of the four steps is at the end

    def by_hand(plan, t, state, batch):
        if t == 0:
            weights.update({k: np.asarray(v) for k, v in tree.flatten(state.params).items()})
        key = jax.random.fold_in(state.key, state.step)
        gradient = jax.grad(plan.objective.loss, has_aux=True)
        found, _ = gradient(state.params, state.variables, batch, key)
        g = {k: np.asarray(v) for k, v in tree.flatten(found).items()}
        norm = np.sqrt(sum(np.sum(v**2) for v in g.values()))
        assert norm > 0.1  # all are clipped, together
        for k, v in g.items():
            v = v * min(1, 0.1 / norm)
            if k.startswith("head/"):
                velocity[k] = 0.9 * velocity.get(k, 0) + v
                weights[k] = weights[k] - 0.5 * schedule(t) * velocity[k]
            else:
                mean[k] = 0.9 * mean.get(k, 0) + 0.1 * v
                square[k] = 0.999 * square.get(k, 0) + 0.001 * v**2
                m, s = mean[k] / (1 - 0.9 ** (t + 1)), square[k] / (1 - 0.999 ** (t + 1))
                weights[k] = weights[k] - 0.1 * schedule(t) * m / (np.sqrt(s) + 1e-8)

    _, state = stepped(config, look=by_hand)
    for k, v in tree.flatten(state.params).items():
        np.testing.assert_allclose(v, weights[k], rtol=2e-4, atol=2e-6, err_msg=k)
    kept = tree.flatten(state.opt_state)
    assert not any("head" in k and ("/mu/" in k or "/nu/" in k) for k in kept)
    assert sum("/trace/" in k for k in kept) == 2  # the momentum of the head alone


def test_the_first_pattern_holds_and_the_rest_is_the_optimizers():
    still = part("sgd", learning_rate=1e-30)
    groups = {".*/bias": still, "head/.*": SGD}
    plan, state = stepped(small(optimizers=groups), steps=1)
    before = first_state(small(), plan)
    moved = {
        k: float(np.abs(a - b).max())
        for (k, a), b in zip(
            tree.flatten(state.params).items(), jax.tree.leaves(before.params), strict=True
        )
    }
    assert max(moved["head/logits/bias"], moved["backbone/dense0/bias"]) < 1e-20
    assert min(moved["head/logits/kernel"], moved["backbone/dense0/kernel"]) > 1e-4


def test_with_freezing_multipliers_sam_and_averages():
    config = small(
        freeze="backbone/dense0/bias",
        lr_multipliers={"head/logits/bias": 0.0},
        wrappers=(part("sam"),),
        average=part("ema"),
    )
    _, state = stepped(config, steps=2)
    fresh = first_state(config, assemble(config))
    a, b = tree.flatten(state.params), tree.flatten(fresh.params)
    still = {name for name in a if np.array_equal(a[name], b[name])}
    assert still == {"backbone/dense0/bias", "head/logits/bias"}


def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(tmp_path):
    config = small(
        checkpoint=Checkpoint(every=2), optimizers={"head/.*": part("muon", learning_rate=0.02)}
    )
    config = dataclasses.replace(config, schedule=part("constant"))
    run(config, tmp_path / "whole")
    run(dataclasses.replace(config, duration="2 steps"), tmp_path / "halves")
    run(config, tmp_path / "halves")
    folders = [tmp_path / name / "checkpoints" / "4" for name in ("whole", "halves")]
    whole, halves = (integrity.read(folder, 4).digests for folder in folders)
    assert whole == halves and any("group0" in name for name in whole)


def test_members_of_a_population_have_their_own(tmp_path):
    config = override(small(), [("population", '{"seeds": 2}')])
    run_members(config, tmp_path / "all")
    alone = dataclasses.replace(config, population=None, seed=1)
    run(alone, tmp_path / "alone")
    found = [run_weights(d).params for d in (tmp_path / "all/members/1", tmp_path / "alone")]
    chex.assert_trees_all_close(*found, rtol=1e-4, atol=1e-6)


def test_a_schedule_free_group_is_evaluated_at_its_average(tmp_path):
    groups = {"head/.*": part("schedule_free_sgd", learning_rate=0.1)}
    config = small(optimizers=groups, schedule=part("constant"))
    run(config, tmp_path)
    judged, raw = run_weights(tmp_path), run_weights(tmp_path, "raw")
    assert judged.averaged
    chex.assert_trees_all_equal(judged.params["backbone"], raw.params["backbone"])
    kernels = [w.params["head"]["logits"]["kernel"] for w in (judged, raw)]
    assert np.abs(kernels[0] - kernels[1]).max() > 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"optimizers": {"stem/.*": SGD}}, "config.optimizers='stem/.*' matches no parameter"),
        ({"optimizers": {"(": SGD}}, r"config.optimizers='\(' is not a regular expression"),
        (
            {"optimizers": {"head/.*": SGD, "head/logits/.*": SGD}},
            "those before 'head/logits/.*' take all it matches",
        ),
        (
            {"optimizers": {".*": SGD}},
            "config.optimizers leave no parameter to config.optimizer",
        ),
        ({"optimizers": {"head/.*": SGD}, "freeze": "head/.*"}, "matches no parameter"),
        ({"optimizers": {"head/.*": part("sdg")}}, "unknown optimizer 'sdg': did you mean 'sgd'"),
        (
            {
                "optimizers": {"head/.*": part("schedule_free_sgd", learning_rate=0.1)},
                "lr_multipliers": {".*": 0.5},
            },
            "'schedule_free_sgd' averages its own steps, and config.lr_multipliers would scale",
        ),
    ],
)
def test_mistakes_are_answered_in_a_line(fields, message, tmp_path, capsys):
    with pytest.raises(UserError, match=message):
        assemble(small(**fields)).abstract_state(0)
    (tmp_path / "c.json").write_text(to_json(small(**fields)))
    assert main(["--config", str(tmp_path / "c.json"), "--workdir", str(tmp_path / "r")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "r").exists()  # the command, once it is mended, finds its place free


@pytest.mark.parametrize("start", [run, run_members])
@pytest.mark.parametrize("fields", [{"freeze": "nothing.*"}, {"optimizers": {"no/.*": SGD}}])
def test_a_pattern_in_vain_leaves_the_directory_free(start, fields, tmp_path):
    population = Population(seeds=2) if start is run_members else None
    with pytest.raises(UserError, match=r"config\.(freeze|optimizers)"):
        start(small(**fields, population=population), tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_they_are_said_in_the_shell():
    text = '{"head/.*": "sgd(learning_rate=0.5, momentum=0.9)", ".*/bias": "lion"}'
    config = override(Config(), [("optimizers", text), ("optimizers.head", "sgd")])
    assert config.optimizers == {"head/.*": SGD, ".*/bias": part("lion"), "head": part("sgd")}
    changed = override(config, [("optimizers.head/.*.learning_rate", "0.25")])
    assert changed.optimizers["head/.*"].args == {"learning_rate": 0.25, "momentum": 0.9}
    assert from_json(to_json(changed)) == changed
