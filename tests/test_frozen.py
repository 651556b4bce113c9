"""What is frozen does not move: parameters, batch statistics, and averages of both."""

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from zoo import initial, quick

from jaxdl import models, tree
from jaxdl.assemble import assemble
from jaxdl.config_file import from_json, load, to_json
from jaxdl.errors import UserError
from jaxdl.frozen import frozen_leaves
from jaxdl.init_from import first_state
from jaxdl.nn.norm import frozen_norms
from jaxdl.objectives.base import Model
from jaxdl.objectives.supervised import supervised
from jaxdl.override import override
from jaxdl.population.run import run as run_population
from jaxdl.registry import register
from jaxdl.run import run
from jaxdl.rundir.directory import claim
from jaxdl.session import Session

SMALL = [
    ("model.widths", "[4]"), ("data.batch_size", "16"), ("duration", "20"), ("log.sinks", "[]"),
    ("freeze", "backbone/.*"), ("data.train", "train[:96]"), ("data.validation", "None"),
    ("data.test", "None"), ("seed", "3"), ("augment", "random_flip"),
]  # fmt: skip
OPTIONS = {
    "adamw, ema, bfloat16": [
        ("optimizer", "adamw(learning_rate=0.1, weight_decay=0.5)"), ("precision", "bfloat16"),
        ("average", "ema(decay=0.7)"),
    ],
    "momentum, sam, swa": [
        ("optimizer", "sgd(learning_rate=0.1, momentum=0.9)"), ("wrappers", "sam"),
        ("average", "swa(start=5)"), ("gradient.transforms", "noise(eta=0.1)"),
    ],
    "fsdp, ghost batch norm, accumulation": [
        ("mesh.fsdp", "2"), ("sync_norms", "false"), ("gradient.accumulate", "2"),
    ],
    "schedule-free": [("optimizer", "schedule_free_adamw(learning_rate=0.1)")],
}  # fmt: skip


def config_of(*changes):
    return override(load("cnn"), [*SMALL, *changes])


def ends(config, workdir):
    """(first, last) values of the frozen leaves of a run, and its last state."""
    plan = assemble(config)
    before = frozen_leaves(config, jax.device_get(first_state(config, plan, None)))
    run(config, workdir)
    with Session(config, plan, workdir) as session:
        after = session.start().state
    return before, jax.device_get(frozen_leaves(config, after)), after


@pytest.mark.parametrize("name", OPTIONS)
def test_no_bit_of_what_is_frozen_moves(name, tmp_path, capsys):
    config = config_of(*OPTIONS[name])
    before, after, state = ends(config, tmp_path)
    averaged = state.average is not None
    assert len(before) == (10 if averaged else 5) * 2  # of 2 layers: kernel, scale, bias, mean, var
    chex.assert_trees_all_equal(before, after)
    assert "frozen          6 parameters, 4 statistics" in capsys.readouterr().out
    head = [path for path in tree.flatten(state.params) if path.startswith("head")]
    assert head and not set(head) & set(after)


def test_no_bit_of_a_member_moves(tmp_path, capsys):
    config = config_of(("population.seeds", "2"), ("average", "ema(decay=0.7)"))
    run_population(config, tmp_path)
    for member in ("0", "1"):
        own = load(str(tmp_path / "members" / member / "config.json"))
        plan = assemble(own)
        with Session(own, plan, tmp_path / "members" / member) as session:
            after = frozen_leaves(own, jax.device_get(session.start().state))
        before = frozen_leaves(own, jax.device_get(first_state(own, plan, None)))
        assert len(before) == 20
        chex.assert_trees_all_equal(before, after)
    assert "frozen 6 parameters, 4 statistics" in capsys.readouterr().out


def test_a_frozen_network_is_that_of_inference():
    """The head learns by logistic regression on the features that inference computes."""
    module = models.create("cnn", 3, widths=[4, 4])
    model = Model(module, jnp.dtype("float32"), freeze_norms="backbone/.*")
    image = jax.random.normal(jax.random.key(0), (6, 8, 8, 3)) + 2
    batch = {"image": image, "label": jnp.arange(6) % 3}
    params, variables = initial(model.init, jax.random.key(1), batch)
    variables = jax.tree.map(lambda x: x + 0.3, variables)
    objective = supervised(model)
    gradient, aux = quick(jax.grad(objective.loss, has_aux=True))(
        params, variables, batch, jax.random.key(2)
    )
    outputs = quick(model.predict)(params, variables, batch)
    features, logits = (np.asarray(outputs[k], np.float64) for k in ("features", "logits"))
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    # dL/dW = h^T (p - y) / n
    expected = features.mean((1, 2)).T @ (probabilities - np.eye(3)[np.arange(6) % 3]) / 6
    kernel = next(g for path, g in tree.flatten(gradient["head"]).items() if "kernel" in path)
    np.testing.assert_allclose(kernel, expected, rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_equal(aux.variables["batch_stats"], variables["batch_stats"])


def test_norms_are_frozen_with_all_of_their_parameters():
    params = {"a": {"norm": {"scale": 1, "bias": 1}}, "b": {"norm": {"scale": 1, "bias": 1}}}
    statistics = {name: {"norm": {"mean": 0, "var": 1}} for name in ("a", "b", "c")}
    assert frozen_norms(params, statistics, "a/.*") == {"a/norm"}
    assert frozen_norms(params, statistics, ".*/scale") == set()
    assert frozen_norms(params, statistics, ".*(scale|bias)") == {"a/norm", "b/norm"}
    assert frozen_norms(params, statistics, "[bc]/.*") == {"b/norm", "c/norm"}  # c learns nothing


def test_statistics_of_frozen_norms_move_if_asked(tmp_path):
    config = config_of(("freeze_statistics", "false"), ("duration", "2"))
    before, after, state = ends(config, tmp_path)
    assert len(before) == 6
    chex.assert_trees_all_equal(before, after)
    plan = assemble(config)
    first = jax.device_get(first_state(config, plan, None)).variables
    for path, old in tree.flatten(first).items():
        assert not np.array_equal(old, tree.flatten(state.variables)[path]), path


def test_a_run_of_an_older_version_goes_on_as_it_was(tmp_path):
    """Before `freeze_statistics`, statistics of frozen norms moved."""
    config = config_of()
    stored = json.loads(to_json(config))
    del stored["freeze_statistics"]
    assert not from_json(json.dumps(stored)).freeze_statistics
    assert from_json(json.dumps({**stored, "freeze": None})).freeze_statistics
    assert from_json('{"freeze": "backbone/.*"}').freeze_statistics  # of a user, not of a run
    (tmp_path / "config.json").write_text(json.dumps(stored))
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match="freeze_statistics: False -> True"):
        claim(tmp_path, config)


def test_a_frozen_leaf_that_an_optimizer_of_ones_own_moves_is_named(tmp_path, own_registry):
    @register("wrappers")
    def shrunk(inner, /):
        def update(updates, state, params=None, **extra):
            updates, state = inner.update(updates, state, params, **extra)
            return jax.tree.map(lambda u, p: u - 1e-3 * p, updates, params), state

        return optax.GradientTransformationExtraArgs(inner.init, update)

    config = config_of(("wrappers", "shrunk"), ("duration", "2"))
    with pytest.raises(UserError, match=r"4 frozen leaves have changed, such as backbone/.*kernel"):
        run(config, tmp_path)
    assert (tmp_path / "checkpoints" / "2").is_dir()
