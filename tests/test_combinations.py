"""Everything combines: random valid configs take two steps on 8 devices, finite and resumable."""

import contextlib

import chex
import jax
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from test_checkpoint import assert_same_bits
from zoo import QUICK

from jaxdl import registry
from jaxdl.assemble import assemble
from jaxdl.config import Config, Data, Evaluation, Gradient, Mesh, part
from jaxdl.errors import UserError
from jaxdl.rundir.checkpoint import Checkpoints
from jaxdl.session import first_state, training_batches
from jaxdl.train.step import compile_step

RATES = {"prodigy": 1.0, "lars": 1.0}
MIXING = ("mixup", "cutmix", "mixup_or_cutmix")
# What a part needs besides its defaults, on 8 steps and 12x12 pixels.
ARGUMENTS = {
    "in_order": {"augmentations": ["random_flip", "random_crop"]},
    "sometimes": {"augmentation": "random_flip", "probability": 0.5},
    "one_of": {"augmentations": ["random_blur", "random_flip"], "weights": []},
    "center_crop": {"size": 12},
    "random_resized_crop": {"size": 12},
    "cutout": {"size": 4},
    "variational_dropout": {"examples": 64},
    "reduce_on_plateau": {"every": 1},
    "swa": {"start": 1, "every": 1},
    "drop_block": {"block_size": 3},
}


def parts(kind):
    """Any registered part of a kind."""
    names = [e.name for e in registry.entries(kind) if e.name != "normalize"]
    return st.sampled_from(names).map(lambda name: part(name, **ARGUMENTS.get(name, {})))


def some(kind, most):
    return st.lists(parts(kind), max_size=most, unique_by=lambda p: p.name).map(tuple)


def optimizers():
    names = st.sampled_from([e.name for e in registry.entries("optimizers")])
    return names.map(lambda name: part(name, learning_rate=RATES.get(name, 1e-3)))


def schedules():
    names = st.sampled_from([e.name for e in registry.entries("schedules")])
    return names.map(lambda name: part(name))


def mixing_last(augmentations):
    return tuple(sorted(augmentations, key=lambda p: p.name in MIXING))


CONFIGS = st.builds(
    Config,
    data=st.just(
        Data(
            source=part("fake", size=[12, 12, 3], num_classes=10, examples=64),
            batch_size=32,
            evaluation_batch_size=32,
        )
    ),
    model=st.sampled_from([part("cnn", widths=[4, 4], drop_rate=0.2), part("mlp", widths=[8])]),
    dropout=st.none() | parts("dropouts"),
    freeze_norms=st.booleans(),
    regularizers=some("regularizers", 2).filter(lambda p: "embedding_loss" not in str(p)),
    optimizer=optimizers(),
    wrappers=some("wrappers", 1),
    schedule=schedules(),
    freeze=st.sampled_from([None, None, "backbone/.*"]),
    lr_multipliers=st.sampled_from([{}, {}, {"head/.*": 10.0}]),
    layer_decay=st.sampled_from([None, None, 0.5]),
    gradient=st.builds(
        Gradient,
        accumulate=st.sampled_from([1, 2, 4]),
        transforms=some("gradient_transforms", 2),
        remat=st.sampled_from([None, "blocks", "products"]),
    ),
    augment=some("augmentations", 2)
    .map(mixing_last)
    .filter(lambda parts: sum(p.name in MIXING for p in parts) < 2),
    duration=st.just("8 steps"),
    precision=parts("precisions"),
    average=st.none() | parts("averages"),
    evaluation=st.just(Evaluation(metrics=(part("accuracy"),))),
    mesh=st.sampled_from([Mesh(), Mesh(data=2, fsdp=4)]),
    seed=st.integers(0, 3),
)


@settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.filter_too_much,
    ],
)
@given(config=CONFIGS)
def test_any_combination_takes_two_steps_and_resumes(config, tmp_path_factory):
    try:
        plan = assemble(config)
    except UserError as error:
        # What does not go together is said before anything compiles.
        assert "\n" not in str(error)
        reject()
    state = first_state(config, plan)
    with contextlib.closing(training_batches(config, plan, 0, 2)) as batches:
        first, second = batches
    step = compile_step(plan.phases[0][1], state).lower(state, first)
    step = step.compile(QUICK)
    state, metrics = step(state, first)
    assert metrics["skipped"][0] == 0 or config.precision.name == "float16"
    folder = tmp_path_factory.mktemp("run")
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(1, state, None, {})
    with Checkpoints(folder) as checkpoints:
        like = plan.abstract_state(config.seed)
        resumed = checkpoints.restore_newest(lambda step: like).state
    assert_same_bits(resumed, state)
    state, metrics = step(state, second)
    resumed, _ = step(resumed, second)
    assert_same_bits(resumed, state)
    assert int(state.step) == 2
    chex.assert_tree_all_finite((state.params, state.variables, metrics))
    moved = {k: v for k, v in metrics.items() if k == "update_norm"}
    assert jax.tree.all(jax.tree.map(lambda x: x >= 0, moved))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": part("adamw", learning_rate=-1.0)}, "learning_rate"),
        ({"model": part("cnn", drop_rate=1.0)}, "drop_rate"),
        ({"gradient": Gradient(transforms=(part("clip_norm", limit=0.0),))}, "limit"),
        ({"wrappers": (part("sam", rho=0.0),)}, "rho"),
        ({"average": part("ema", decay=1.0)}, "decay"),
        ({"regularizers": (part("l2", weight=-1e-4),)}, "weight"),
        ({"regularizers": (part("drop_connect", rate=1.0),)}, "rate"),
        ({"schedule": part("warmup_cosine", end=2.0)}, "end"),
        ({"precision": part("float64")}, "unknown precision 'float64'"),
        ({"precision": part("float16", minimum=0.0)}, "minimum"),
        ({"dropout": part("drop_block", block_size=0)}, "block_size"),
        ({"augment": (part("mixup", alpha=0.0),)}, "alpha"),
        ({"augment": (part("mixup"), part("random_flip"))}, "the last in config.augment"),
        ({"objective": part("embedding"), "augment": (part("mixup"),)}, "one label each"),
        (
            {
                "optimizer": part("schedule_free_sgd", learning_rate=1.0),
                "lr_multipliers": {"head/.*": 2.0},
            },
            "averages its own steps",
        ),
        ({"data": Data(batch_size=32), "gradient": Gradient(accumulate=3)}, "batch_size 32"),
    ],
    ids=str,
)
def test_what_is_out_of_range_is_refused_by_name_before_compiling(changes, message, monkeypatch):
    monkeypatch.setattr(jax, "jit", lambda *_, **__: pytest.fail("something was compiled"))
    with pytest.raises(UserError, match=message):
        assemble(Config(**changes))
