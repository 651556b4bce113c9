"""Who holds what: meshes, rules, the layout of layers; and no split changes what is learned."""

import dataclasses

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, Mesh
from zoo import QUICK

from jaxdl import registry, tree
from jaxdl.assemble import assemble
from jaxdl.config import Config, Data, Evaluation, part
from jaxdl.config import Mesh as MeshConfig
from jaxdl.errors import UserError
from jaxdl.nn.ghost_batch_norm import ghost_batch_norm
from jaxdl.nn.layout import LAYOUT, STAGED
from jaxdl.nn.norm import BatchNorm, batch_renorm
from jaxdl.session import first_state, training_batches
from jaxdl.train.sharding import (
    AXES,
    Layout,
    batch_shards,
    make_mesh,
    placement,
    tree_shardings,
)
from jaxdl.train.step import compile_step

FLOAT32 = jnp.dtype(jnp.float32)
OWN = Layout(LAYOUT, STAGED)
VIT = part("vit_tiny_patch16_224", width=48, depth=4, heads=4, patch_size=4)


def mesh_of(*sizes: int) -> Mesh:
    sizes = (*sizes, *[1] * (4 - len(sizes)))
    devices = np.asarray(jax.devices()[: np.prod(sizes)]).reshape(sizes)
    return Mesh(devices, AXES, axis_types=(AxisType.Auto,) * 4)


def specs(shapes, mesh, rules=(), layout=OWN):
    placed = tree_shardings(shapes, mesh, rules, layout)
    return {name: tuple(place.spec) for name, place in tree.flatten(placed).items()}


def params_of(name, *inputs, num_classes=8, **args):
    module = registry.bind("models", part(name, **args))(num_classes)
    return jax.eval_shape(lambda k: module.init(k, *inputs), jax.random.key(0))["params"]


def test_rules_decide_before_the_automatic_placement():
    shapes = {"a": {"kernel": jax.ShapeDtypeStruct((6, 64), FLOAT32)}, "b": np.zeros(3)}
    mesh = mesh_of(4, 2)
    placed = specs(shapes, mesh, [("a/kernel", ("fsdp", None)), ("b", (None,))])
    assert placed["a/kernel"] == ("fsdp", None)
    with pytest.raises(UserError, match="'kernels' matches no parameter"):
        tree_shardings(shapes, mesh, [("kernels", (None,))])
    with pytest.raises(UserError, match="unknown axis 'fdsp', did you mean 'fsdp'"):
        tree_shardings(shapes, mesh, [("b", ("fdsp",))])
    with pytest.raises(UserError, match="an axis splits one dimension, not two"):
        tree_shardings(shapes, mesh, [("a", ("fsdp", "fsdp"))])


def test_a_rule_speaks_of_the_last_dimensions_and_fits_or_is_refused():
    leaf = lambda *shape: jax.ShapeDtypeStruct(shape, FLOAT32)
    state = {"params": {"w": leaf(5, 6, 64), "b": leaf(3)}, "opt_state": {"row": {"w": leaf(5)}}}
    rules = [("w$", ("fsdp", None))]
    assert specs(state, mesh_of(4, 2), rules)["params/w"] == (None, "fsdp", None)
    # A factored moment has fewer dimensions than the rule speaks of.
    assert specs(state, mesh_of(4, 2), rules)["opt_state/row/w"] == ()
    with pytest.raises(UserError, match=r"params/w \[5, 6, 64\]: 6 does not divide over fsdp 4"):
        specs(state, mesh_of(2, 4), rules)
    with pytest.raises(UserError, match=r"params/b \[3\]: it speaks of 2 dimensions"):
        specs(state, mesh_of(2, 4), [("b$", ("fsdp", None))])


@pytest.mark.parametrize(
    "sizes", [(3, 1), (-1, -1), (0, 1), (-1, 3), (16, 1), (1, 1, 3), (2, 2, 1)]
)
def test_a_mesh_that_does_not_fit_is_refused(sizes):
    with pytest.raises(UserError, match="mesh"):
        make_mesh(*sizes)


def test_make_mesh_takes_what_is_left():
    sizes = lambda *asked: tuple(make_mesh(*asked).shape.values())
    assert sizes(-1, 2) == (4, 2, 1, 1)
    assert sizes(2, -1) == (2, 4, 1, 1)
    assert sizes(-1, 1, 2, 2) == (2, 1, 2, 2)
    assert sizes(1, 1, 1, -1) == (1, 1, 1, 8)
    assert batch_shards(make_mesh(2, 2, 2)) == 4


def test_layers_are_split_as_megatron_splits_them():
    """Columns, then rows: section 3 of the paper; heads, words and classes."""
    mesh = mesh_of(2, 1, 4)
    vit = specs(params_of(VIT.name, jnp.zeros((1, 8, 8, 3)), **VIT.args), mesh)
    block = "backbone/blocks/"
    assert vit[block + "attention/qkv/kernel"] == (None, None, None, "tensor")
    assert vit[block + "attention/qkv/bias"] == (None, None, "tensor")
    assert vit[block + "attention/out/kernel"] == (None, "tensor")
    assert vit[block + "mlp/dense1/kernel"] == (None, None, "tensor")
    assert vit[block + "mlp/dense2/kernel"] == (None, "tensor")
    assert vit[block + "mlp/dense2/bias"] == vit[block + "norm1/scale"] == ()
    assert vit["head/logits/kernel"] == (None, "tensor")
    tokens = jnp.zeros((1, 8), int)
    transformer = specs(params_of("transformer", tokens, tokens, num_classes=16), mesh)
    assert transformer["backbone/embed/table/embedding"] == ("tensor",)
    decoder = "backbone/decoder/blocks/source_attention/"
    assert transformer[decoder + "query/kernel"] == (None, None, "tensor")
    assert transformer[decoder + "key_value/kernel"] == (None, None, None, "tensor")
    vgg = specs(params_of("vgg11", jnp.zeros((1, 64, 64, 3))), mesh)
    assert vgg["backbone/fc6/kernel"] == (None, "tensor")
    assert vgg["backbone/fc7/kernel"] == ("tensor",)


def test_what_does_not_divide_stays_whole_and_axes_combine():
    params = params_of(VIT.name, jnp.zeros((1, 8, 8, 3)), num_classes=10, **VIT.args)
    placed = specs(params, mesh_of(1, 2, 4))
    assert placed["head/logits/kernel"] == ()  # 10 classes over 4
    # What is left of a large leaf goes over fsdp, the longest dimension first.
    assert placed["backbone/blocks/mlp/dense1/kernel"] == (None, "fsdp", "tensor")
    staged = specs(params, mesh_of(1, 1, 2, 4))
    assert staged["backbone/blocks/mlp/dense1/kernel"] == ("stage", None, "tensor")
    assert staged["backbone/blocks/norm1/scale"] == ("stage",)
    assert staged["backbone/norm/scale"] == ()
    # 4 blocks over 8 stages do not divide
    assert specs(params, mesh_of(1, 1, 1, 8))["backbone/blocks/norm1/scale"] == ()


def trained(config: Config, steps: int = 4):
    plan = assemble(config)
    state = first_state(config, plan)
    spec = plan.batch_spec(config.data.batch_size)
    step, losses = compile_step(plan.step, state).lower(state, spec).compile(QUICK), []
    for batch in training_batches(config, plan, 0, steps):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"][0] / metrics["loss"][1]))
    return jax.tree.map(np.asarray, state.params), losses, plan


TEXT = Data(
    source=part("reversal", length=6, examples=64), validation=None, test=None, batch_size=16
)
IMAGES = Data(source=part("fake", size=(8, 8, 3), num_classes=8, examples=64), batch_size=16)
CASES = {
    "vit": Config(data=IMAGES, model=VIT),
    "transformer": Config(
        data=TEXT,
        model=part("transformer", width=32, depth=2, heads=4, hidden=64),
        objective=part("language"),
        preprocess=(),
        evaluation=Evaluation(
            metrics=(part("perplexity"),), monitor="validation/perplexity", mode="min"
        ),
    ),
}
MESHES = {
    "tensor": MeshConfig(2, 1, 4),
    "fsdp-tensor": MeshConfig(1, 2, 4),
    "data-fsdp-tensor": MeshConfig(2, 2, 2),
    "stage": MeshConfig(2, 1, 2, 2),
}
_ALONE = {}


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("case", CASES)
def test_no_split_changes_what_is_learned(case, mesh, monkeypatch):
    monkeypatch.setattr("jaxdl.train.sharding.SHARD_FROM", 2**8)
    config = dataclasses.replace(
        CASES[case],
        # Not Adam: a key's bias has no gradient, and Adam would make steps of its rounding.
        optimizer=part("sgd", learning_rate=0.1, momentum=0.9),
        duration=4,
    )
    if case not in _ALONE:
        _ALONE[case] = trained(config)[:2]
    alone, expected = _ALONE[case]
    params, losses, plan = trained(dataclasses.replace(config, mesh=MESHES[mesh]))
    np.testing.assert_allclose(losses, expected, rtol=2e-5)
    chex.assert_trees_all_close(params, alone, atol=2e-5)
    assert losses[-1] != losses[0]


def test_the_placement_adds_up():
    config = dataclasses.replace(CASES["vit"], mesh=MeshConfig(2, 1, 4))
    state = assemble(config).abstract_state(0)
    rows = placement(state)
    assert sum(row.leaves for row in rows) == len(jax.tree.leaves(state))
    assert sum(row.bytes for row in rows) == sum(
        leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)
    )
    by_split = {row.split: row for row in rows}
    columns = by_split["2 by tensor"]
    assert columns.bytes_each * 4 == columns.bytes
    assert columns.example.endswith("dense1/kernel")
    assert by_split["whole"].bytes_each == by_split["whole"].bytes


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return BatchNorm(momentum=0.9, name="norm")(x, train)


def test_batch_statistics_of_each_part():
    """By hand: every part is normalised by itself, running statistics move to the parts' mean."""
    x = np.random.default_rng(0).normal(2.0, 3.0, (8, 3, 3, 5)).astype(np.float32)
    x[:4] += 7  # a skewed batch: the parts differ
    module = Normed()
    variables = module.init(jax.random.key(0), x, True)
    variables["params"]["norm"] = {"scale": np.full(5, 2.0, "f"), "bias": np.full(5, 0.5, "f")}

    @jax.jit
    def alone(variables, x):
        with nn.intercept_methods(ghost_batch_norm(4)):
            return module.apply(variables, x, True, mutable=["batch_stats"])

    y, new = alone(variables, x)
    parts = x.reshape(4, 2, 3, 3, 5)
    mean, var = parts.mean((1, 2, 3)), parts.var((1, 2, 3))
    wanted = (parts - mean[:, None, None, None]) / np.sqrt(var[:, None, None, None] + 1e-5)
    np.testing.assert_allclose(y, (2 * wanted + 0.5).reshape(x.shape), rtol=2e-4, atol=2e-5)
    statistics = new["batch_stats"]["norm"]
    np.testing.assert_allclose(statistics["mean"], 0.1 * mean.mean(0), rtol=1e-5)
    np.testing.assert_allclose(statistics["var"], 0.9 + 0.1 * var.mean(0), rtol=1e-5)
    with nn.intercept_methods(ghost_batch_norm(1)):
        one, _ = module.apply(variables, x, True, mutable=["batch_stats"])
    np.testing.assert_allclose(
        one, module.apply(variables, x, True, mutable=["batch_stats"])[0], rtol=1e-4, atol=1e-5
    )
    renorm = batch_renorm("renorm")
    with (
        pytest.raises(UserError, match="whole batch only"),
        nn.intercept_methods(ghost_batch_norm(2)),
    ):
        renorm.init(jax.random.key(0), x, True)


def test_sync_norms_is_a_config_line():
    """Off, no statistics travel: the step of a skewed batch is another one."""
    config = Config(
        data=IMAGES, model=part("resnet20", width=8), optimizer=part("sgd", learning_rate=0.1)
    )
    (_, synced, _), (_, own, plan) = (
        trained(dataclasses.replace(config, sync_norms=sync), 2) for sync in (True, False)
    )
    assert synced[0] != own[0]
    assert np.isfinite(own).all()
    state = first_state(config, plan)
    spec = plan.batch_spec(16)
    with_all, alone = (
        compile_step(assemble(dataclasses.replace(config, sync_norms=sync)).step, state)
        .lower(state, spec)
        .compile()
        .as_text()
        .count(" all-reduce(")
        for sync in (True, False)
    )
    assert alone < with_all
    assert optax.tree.norm(state.params) > 0
