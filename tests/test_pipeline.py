"""Pipelines: the loss and the gradient of the method 'plain', from stages that hold less."""

import dataclasses
import json
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, Mesh
from zoo import QUICK

from jaxdl import config, models, tree
from jaxdl.augment.mixing import mixup
from jaxdl.errors import UserError
from jaxdl.nn.layout import LAYOUT, STAGED
from jaxdl.objectives.base import Model, augmented, frozen
from jaxdl.objectives.center import center_loss
from jaxdl.objectives.language import language
from jaxdl.objectives.penalty import l2
from jaxdl.objectives.supervised import supervised
from jaxdl.objectives.weight_noise import drop_connect
from jaxdl.run import run
from jaxdl.train import pipeline_schedule
from jaxdl.train.gradients import accumulate_grads, scaled
from jaxdl.train.pipeline import gpipe, one_f_one_b
from jaxdl.train.pipeline_cut import cut
from jaxdl.train.sharding import AXES, Layout, batch_sharding, tree_shardings

TAKERS = {"gpipe": gpipe, "one_f_one_b": one_f_one_b}
FLOAT32 = jnp.dtype(jnp.float32)
KEY = jax.random.key(1)


def mesh_of(data=1, fsdp=1, tensor=1, stage=1):
    shape = (data, fsdp, tensor, stage)
    devices = np.asarray(jax.devices()[: np.prod(shape)]).reshape(shape)
    return Mesh(devices, AXES, axis_types=(AxisType.Auto,) * 4)


def vit(dtype=FLOAT32, remat=None, name="vit_tiny_patch16_224", **args):
    sizes = {"patch_size": 4, "width": 8, "depth": 4} | ({"heads": 2} if "vit" in name else {})
    return supervised(Model(models.create(name, 10, **sizes | args), dtype, remat=remat))


def images(size=16, seed=0):
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(size, 8, 8, 3)).astype(np.float32)
    mask = (np.arange(size) % 5 < 3).astype(np.float32)  # so that micro-batches weigh unequally
    return {"image": image, "label": rng.integers(0, 10, size).astype(np.int32), "mask": mask}


def sentences(size=16):
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 12, (size, 7)).astype(np.int32)
    return {"tokens": np.where(np.arange(7) < rng.integers(3, 8, (size, 1)), tokens, 0)}


def gradient(method, goal, batch, mesh=None, seed=0):
    """((loss, aux), gradient), with everything where the mesh has it."""
    params, variables = goal.init(jax.random.key(seed), batch)
    places = None
    if mesh is not None:
        layout = Layout(LAYOUT, STAGED)
        places = tree_shardings({"params": params}, mesh, (), layout)["params"]
        params, batch = jax.device_put(params, places), jax.device_put(batch, batch_sharding(mesh))
    take = jax.jit(method(goal.loss), out_shardings=(None, places))
    args = (params, variables, batch, KEY)
    return take.lower(*args).compile(QUICK)(*args)


def assert_same(found, expected, rtol=1e-5):
    (loss, aux), grads = found
    (plain_loss, plain_aux), plain = expected
    np.testing.assert_allclose(loss, plain_loss, rtol=rtol / 10)
    chex.assert_trees_all_close(aux.metrics, plain_aux.metrics, rtol=rtol / 10)
    chex.assert_trees_all_close(aux.variables, plain_aux.variables, rtol=rtol, atol=1e-6)
    for name, x in tree.flatten(plain).items():
        found = np.asarray(tree.flatten(grads)[name])
        # Some gradients are zero but for rounding: those of biases before a norm.
        size = max(np.abs(x).max(), 1e-2)
        np.testing.assert_allclose(found / size, x / size, atol=rtol, err_msg=name)


@pytest.mark.parametrize("stages, n", [(2, 2), (2, 5), (4, 4), (4, 16), (8, 9)])
@pytest.mark.parametrize("plan", [pipeline_schedule.gpipe, pipeline_schedule.one_f_one_b])
def test_a_schedule_does_every_pass_once_and_nothing_before_its_time(plan, stages, n):
    schedule = plan(stages, n)
    at = {}
    for kind, table in schedule._asdict().items():
        for s in range(stages):
            done = table[:, s][table[:, s] >= 0]
            np.testing.assert_array_equal(done, np.arange(n))
        at |= {(kind, s, i): t for (t, s), i in np.ndenumerate(table) if i >= 0}
    for s in range(stages):
        for i in range(n):
            # What a tick makes is there at the next one, which is when it is read: nothing waits.
            if s + 1 < stages:
                assert at["forward", s + 1, i] == at["forward", s, i] + 1
                assert at["backward", s, i] == at["backward", s + 1, i] + 1
            assert at["forward", s, i] <= at["backward", s, i]


@pytest.mark.parametrize("plan", [pipeline_schedule.gpipe, pipeline_schedule.one_f_one_b])
@pytest.mark.parametrize("backward", [1, 2, 3])
def test_the_bubble_is_that_of_the_papers(plan, backward):
    stages, n = 4, 8
    schedule = plan(stages, n)
    cost = (schedule.forward >= 0) + backward * (schedule.backward >= 0)
    time = cost.max(axis=1).sum()  # all wait for the slowest
    # Huang et al., section 2.3; Narayanan et al. 2021, section 2.2: (K - 1) / (M + K - 1)
    assert np.all(1 - cost.sum(axis=0) / time == pytest.approx((stages - 1) / (n + stages - 1)))


def test_what_is_held_grows_with_micro_batches_in_gpipe_alone():
    plans = pipeline_schedule.gpipe, pipeline_schedule.one_f_one_b
    held = [[plan(4, n).slots for n in (4, 8, 64)] for plan in plans]
    assert held == [[4, 8, 64], [4, 5, 5]]  # by hand: 2 (S - s) - 1 at stage 1 of 4
    assert pipeline_schedule.one_f_one_b(2, 64).slots == 1


@pytest.mark.parametrize(
    "method, stages, n, args",
    [
        ("gpipe", 4, 4, {}),
        ("gpipe", 2, 4, {"drop_rate": 0.2}),
        ("one_f_one_b", 4, 8, {"drop_rate": 0.2, "drop_path": 0.3}),
        ("one_f_one_b", 2, 2, {"name": "mixer_s32_224", "width": 16}),
    ],
)
def test_a_pipeline_takes_the_gradient_of_plain(method, stages, n, args):
    goal, batch = vit(**args), images()
    found = gradient(TAKERS[method](n, mesh_of(stage=stages)), goal, batch, mesh_of(stage=stages))
    assert_same(found, gradient(accumulate_grads(n), goal, batch))
    for x in jax.tree.leaves(found[1]["backbone"]["blocks"]):
        assert x.sharding.shard_shape(x.shape)[0] == 4 // stages


@pytest.mark.parametrize(
    "method, axes, width",
    [
        ("one_f_one_b", {"data": 2, "tensor": 2}, 8),
        ("gpipe", {"fsdp": 2, "tensor": 2}, 64),  # wide enough for fsdp to split
    ],
)
def test_a_pipeline_goes_with_every_other_axis(method, axes, width):
    goal, batch, mesh = vit(width=width, drop_path=0.2), images(), mesh_of(stage=2, **axes)
    found = gradient(TAKERS[method](4, mesh), goal, batch, mesh)
    assert_same(found, gradient(accumulate_grads(4), goal, batch))


def test_a_language_model_whose_ends_share_their_vectors():
    sizes = {"width": 16, "depth": 2, "heads": 2, "hidden": 32}
    model = models.create("transformer_decoder", 12, **sizes, drop_rate=0.1)
    goal, batch, mesh = language(Model(model, FLOAT32)), sentences(), mesh_of(data=2, stage=2)
    found = gradient(one_f_one_b(4, mesh), goal, batch, mesh)
    assert_same(found, gradient(accumulate_grads(4), goal, batch))


def test_bfloat16_with_blocks_computed_again():
    goal, batch = vit(jnp.dtype(jnp.bfloat16), "blocks"), images()
    exact = gradient(accumulate_grads(4), vit(), batch)[1]
    plain = gradient(accumulate_grads(4), goal, batch)[1]
    found = gradient(one_f_one_b(4, mesh_of(stage=2)), goal, batch)[1]
    off = lambda grads: optax.tree.norm(optax.tree.sub(grads, exact)) / optax.tree.norm(exact)
    assert off(found) < 1.3 * off(plain) < 0.02


def test_what_goes_around_an_objective_goes_through_a_pipeline():
    # Weights dropped, penalised and frozen, labels mixed, centres that micro-batches pass on.
    goal = center_loss(l2(drop_connect(vit(), rate=0.2), weight=0.1), weight=0.1)
    goal = frozen(augmented(goal, [mixup]), r".*/norm1/.*")
    batch = images()

    def take(method):
        # The scale is known to the running step alone, as that of float16.
        scale = lambda batch: 8.0 + 0.0 * jnp.sum(batch["mask"])
        return lambda loss: lambda *args: scaled(method, scale(args[2]))(loss)(*args)

    found = gradient(take(one_f_one_b(4, mesh_of(stage=2))), goal, batch)
    assert_same(found, gradient(take(accumulate_grads(4)), goal, batch))
    assert np.any(found[0][1].variables["extra"]["centers"] != 0)
    assert not np.any(found[1]["backbone"]["blocks"]["norm1"]["scale"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_weight_is_of_a_block_or_of_the_rest(dtype):
    goal, batch = l2(vit(jnp.dtype(dtype), depth=3, drop_path=0.1), weight=0.1), images()
    params, variables = goal.init(KEY, batch)
    pieces = cut(goal.loss, params, variables, batch, KEY)
    rows, rest = jax.eval_shape(pieces.fixed, params)
    blocks = params["backbone"]["blocks"]
    assert pieces.depth == 3 and {x.shape[0] for x in rows} == {3}
    assert tree.count(rows) == tree.count(blocks)
    # and one number, the penalty
    assert tree.count(rest) == tree.count(params) - tree.count(blocks) + 1
    assert {x.dtype for x in (*rows, *rest)} == {FLOAT32}


def test_memory_grows_with_micro_batches_in_gpipe_alone():
    goal, mesh, each = vit(width=32, depth=4), mesh_of(stage=4), 32

    def temporary(method, n):
        batch = images(each * n)
        params, variables = goal.init(jax.random.key(0), batch)
        take = jax.jit(method(goal.loss)).lower(params, variables, batch, KEY)
        return take.compile(QUICK).memory_analysis().temp_size_in_bytes

    few, many = 8, 24
    grown = {k: temporary(t(many, mesh), many) - temporary(t(few, mesh), few)
             for k, t in TAKERS.items()}  # fmt: skip
    stage_input = each * 5 * 32 * 4  # examples, tokens, width, bytes
    copies = 1.5 * each * (8 * 8 * 3 + 2) * 4 * (many - few)  # of the batch, cut up
    assert grown["one_f_one_b"] < copies
    assert grown["gpipe"] - grown["one_f_one_b"] > 0.9 * stage_input * (many - few)


def shapes_of(method, goal, batch):
    params, variables = jax.eval_shape(goal.init, KEY, batch)
    return jax.eval_shape(method(goal.loss), params, variables, batch, KEY)


def test_what_a_pipeline_cannot_do_is_said_in_one_line():
    with pytest.raises(UserError, match="'gpipe' needs config.mesh.stage of 2 or more"):
        gpipe(4, mesh_of(data=2))
    with pytest.raises(UserError, match="'one_f_one_b' needs as many micro-batches as stages"):
        one_f_one_b(2, mesh_of(stage=4))
    take = gpipe(4, mesh_of(stage=4))
    with pytest.raises(UserError, match="stage 4 does not divide the network's 6 blocks"):
        shapes_of(take, vit(depth=6), images())
    with pytest.raises(UserError, match="one stack of equal blocks.* and this one has none"):
        shapes_of(take, supervised(Model(models.create("cnn", 10, widths=[8]), FLOAT32)), images())
    two = models.create("transformer", 12, width=8, depth=4, heads=2, hidden=8)
    pairs = {**sentences(), "source": sentences()["tokens"]}
    with pytest.raises(UserError, match="one stack of equal blocks.* and this one has 2"):
        shapes_of(take, language(Model(two, FLOAT32)), pairs)
    with pytest.raises(UserError, match="keeps statistics from one to the next"):
        shapes_of(take, vit(norm="batch"), images())


CONFIG = config.Config(
    data=config.Data(
        source=config.part("fake", size=(8, 8, 3), examples=64),
        batch_size=32,
        evaluation_batch_size=32,
    ),
    model=config.part("vit_tiny_patch16_224", patch_size=4, width=16, depth=4, heads=2),
    optimizer=config.part("adamw", learning_rate=1e-3),
    wrappers=(config.part("sam"),),
    schedule=config.part("constant"),
    gradient=config.Gradient(method=config.part("one_f_one_b"), accumulate=4),
    mesh=config.Mesh(data=2, stage=4),
    duration=2,
    log=config.Log(every=1, sinks=()),
    steps_per_execution=2,
)


def test_a_run_in_stages_of_two_gradients_and_two_steps_a_call_goes_on_without(tmp_path):
    run(CONFIG, tmp_path / "run")
    plain = config.Gradient(accumulate=4)
    changed = dataclasses.replace(CONFIG, gradient=plain, mesh=config.Mesh(data=8), duration=4)
    shutil.copytree(tmp_path / "run", tmp_path / "changed")
    (tmp_path / "changed" / "config.json").unlink()  # another method is another config
    run(changed, tmp_path / "changed")
    run(dataclasses.replace(CONFIG, duration=4), tmp_path / "run")

    def losses(name):
        lines = [
            json.loads(s) for s in (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        ]
        return {x["step"]: x["train/loss"] for x in lines if "train/loss" in x}

    assert list(losses("run")) == list(losses("changed")) == [1, 2, 3, 4]
    np.testing.assert_allclose(
        list(losses("changed").values()), list(losses("run").values()), rtol=1e-5
    )
