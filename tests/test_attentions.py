"""Attentions are one value of a model: one of a user's own works wherever the built-in ones do."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT
from test_sharding import OWN, mesh_of, trained
from zoo import initial, quick

from jaxdl import models, registry, tree
from jaxdl.aliases import current_config
from jaxdl.assemble import import_user_module
from jaxdl.config import Config, Data, part
from jaxdl.config import Mesh as MeshConfig
from jaxdl.errors import UserError
from jaxdl.nn.attention import MultiHeadAttention, attention_layer
from jaxdl.objectives.base import Model
from jaxdl.train.sharding import tree_shardings

FILE = str(ROOT / "tests" / "near_attention.py")
NEAR = part("near")
SMALL = {"width": 16, "depth": 2, "heads": 2, "hidden": 32, "drop_rate": 0.0}
TOKENS = jnp.asarray([[3, 1, 4, 1, 5, 9, 2], [6, 5, 3, 5, 0, 0, 0]], jnp.int32)
IMAGE = jax.random.normal(jax.random.key(1), (2, 8, 12, 3))
# Arguments, a batch, and the paths of the attentions.
CASES = {
    "vit_tiny_patch16_224": ({"patch_size": 4}, {"image": IMAGE}, ["blocks/attention"]),
    "transformer_encoder": ({"vocabulary": 11}, {"tokens": TOKENS}, ["encoder/blocks/attention"]),
    "transformer_decoder": ({}, {"tokens": TOKENS}, ["decoder/blocks/attention"]),
    "transformer": (
        {},
        {"tokens": TOKENS, "source": TOKENS[:, :5]},
        [
            "encoder/blocks/attention",
            "decoder/blocks/attention",
            "decoder/blocks/source_attention",
        ],
    ),
}


@pytest.fixture
def own(own_registry):
    import_user_module(FILE)


def model_of(name, attention, dtype="float32"):
    module = models.create(name, 11, **SMALL, **CASES[name][0], attention=attention)
    return Model(module, jnp.dtype(dtype))


def with_one_projection(params):
    """The same parameters with queries, keys and values of each self-attention in one kernel."""
    if not isinstance(params, dict):
        return params
    if "query" in params and params["query"]["kernel"].shape[1] == SMALL["width"]:
        together = lambda q, kv, axis: jnp.concatenate([jnp.expand_dims(q, axis), kv], axis)
        query, pair = params["query"], params["key_value"]
        kernel = together(query["kernel"], pair["kernel"], 2)
        joined = {"kernel": kernel, "bias": together(query["bias"], pair["bias"], 1)}
        return {"qkv": joined, "out": params["out"]}
    return {k: v if k == "source_attention" else with_one_projection(v) for k, v in params.items()}


@pytest.mark.parametrize("name", CASES)
def test_one_of_ones_own_in_every_transformer(name, own):
    _, batch, paths = CASES[name]
    model = model_of(name, NEAR)
    params, variables = initial(model.init, jax.random.key(0), batch)
    outputs = quick(lambda p: model.outputs(p, variables, batch, capture=["attention_weights"]))(
        params
    )
    flat, built_in = model_of(name, part("near", slope=0.0)), model_of(name, "full")
    expected = quick(built_in.predict)(with_one_projection(params), variables, batch)
    without = quick(flat.predict)(params, variables, batch)
    np.testing.assert_allclose(without["logits"], expected["logits"], atol=1e-5)
    assert np.abs(outputs["logits"] - without["logits"]).max() > 1e-3

    weights = outputs["captured"]
    assert sorted(weights) == sorted(f"backbone/{path}/attention_weights" for path in paths)
    for path, value in weights.items():
        depth, b, n, t, s = value.shape
        assert (depth, b, n) == (2, 2, 2)
        np.testing.assert_allclose(value.sum(-1), 1, rtol=1e-5)
        if "source" in path:
            assert (t, s) == (7, 5) and np.all(value[:, 1, :, :, 4] == 0)
        elif "decoder" in path:
            assert np.all(np.triu(value, 1) == 0)
    # The first block reads the same either way: e^-|i - j| is all the difference.
    inside = quick(lambda p: flat.outputs(p, variables, batch, capture=["attention_weights"]))(
        params
    )["captured"]
    first = f"backbone/{paths[0]}/attention_weights"
    i = np.arange(inside[first].shape[-1])
    wanted = np.asarray(inside[first][0]) * np.exp(-np.abs(i[:, None] - i))
    np.testing.assert_allclose(weights[first][0], wanted / wanted.sum(-1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_its_heads_are_split_over_devices(name, own):
    _, batch, paths = CASES[name]
    model = model_of(name, NEAR)
    params, variables = initial(model.init, jax.random.key(0), batch)
    mesh = mesh_of(1, 1, 2)
    placed = jax.device_put(params, tree_shardings(params, mesh, (), OWN))
    alone, split = (quick(model.predict)(p, variables, batch)["logits"] for p in (params, placed))
    np.testing.assert_allclose(split, alone, atol=1e-5)
    kernels = {k: v for k, v in tree.flatten(placed).items() if "attention/" in k and "kernel" in k}
    assert len(kernels) == 3 * len(paths)
    for path, kernel in kernels.items():
        held = [shard.data.size for shard in kernel.addressable_shards]
        assert max(held) * 2 <= kernel.size, path


def test_it_trains_under_muon_on_a_split_mesh(own_registry):
    config = Config(
        imports=(FILE,),
        data=Data(source=part("fake", size=(8, 8, 3), num_classes=4, examples=64), batch_size=16),
        model=part("vit_tiny_patch16_224", **SMALL, patch_size=4, attention=NEAR),
        optimizer=part("muon", learning_rate=0.02),
        schedule=part("constant"),
        duration="24 steps",
        mesh=MeshConfig(4, 1, 2),
    )
    params, losses, _ = trained(config, 24)
    assert losses[-1] < 0.9 * losses[0]
    # Muon finds its projections by their names: it makes each an orthogonal matrix of its own.
    normal = lambda x: np.random.default_rng(x.size).normal(size=x.shape).astype("f")
    tx = registry.bind("optimizers", part("muon", learning_rate=1.0))()
    updates, _ = tx.update(jax.tree.map(normal, params), tx.init(params), params)
    kernels = {
        name: np.asarray(updates["backbone"]["blocks"]["attention"][name]["kernel"])[0]
        for name in ("query", "key_value", "out")
    }
    pair = kernels.pop("key_value")
    for matrix in (*kernels.values(), pair[:, 0], pair[:, 1]):
        sizes = np.linalg.svd(matrix.reshape(16, 16))[1]
        assert np.all(sizes[:-2] > 0.4) and np.all(sizes < 1.3)


# Values from inside


def test_gradients_of_weights_by_hand():
    class Tiny(nn.Module):
        @nn.compact
        def outputs(self, image, train):
            return {"logits": MultiHeadAttention(2, name="attention")(image)}

        def __call__(self, image, train):
            return self.outputs(image, train)

    model, x = Model(Tiny(), jnp.dtype("float32")), jax.random.normal(jax.random.key(0), (2, 5, 8))
    batch, c = {"image": x}, np.random.default_rng(0).normal(size=(2, 5, 8)).astype("f")
    params, variables = model.init(jax.random.key(1), batch)
    score = lambda outputs: jnp.sum(outputs["logits"] * c)
    outputs = model.outputs(params, variables, batch, ["attention_weights"], score)
    inner = jax.tree.map(np.asarray, params["attention"])
    qkv = np.einsum("btd,dmnh->mbtnh", x, inner["qkv"]["kernel"])
    # dL/dA[b, n, t, s] = sum_h (dL/dY W_o^T)[b, t, n, h] V[b, s, n, h]
    back = np.einsum("btd,nhd->btnh", c, inner["out"]["kernel"])
    expected = np.einsum("btnh,bsnh->bnts", back, qkv[2])
    (path,) = outputs["captured_gradients"]
    assert path == "attention/attention_weights"
    np.testing.assert_allclose(outputs["captured_gradients"][path], expected, rtol=1e-4, atol=1e-5)
    plain = model.predict(params, variables, batch)["logits"]
    np.testing.assert_array_equal(outputs["logits"], plain)


@pytest.mark.parametrize("attention", ["full", "flash"])
def test_each_block_gives_its_own_gradient(attention):
    batch, path = CASES["vit_tiny_patch16_224"][1], "backbone/blocks/attention/attention_weights"
    model = model_of("vit_tiny_patch16_224", attention, "bfloat16")
    params, variables = initial(model.init, jax.random.key(0), batch)
    score = lambda outputs: jnp.sum(outputs["logits"][:, 3])
    outputs = quick(lambda p: model.outputs(p, variables, batch, ["attention_weights"], score))(
        params
    )
    gradients = outputs["captured_gradients"][path]
    assert gradients.shape == outputs["captured"][path].shape == (2, 2, 2, 7, 7)
    assert gradients.dtype == jnp.float32
    # Only the class token is read: of the last block, only its row counts.
    assert np.all(gradients[0].any((0, 1, 3))) and np.all(gradients[1, :, :, 0].any(-1))
    assert not np.any(gradients[1, :, :, 1:])


def test_an_unknown_value_is_named():
    batch = CASES["transformer_decoder"][1]
    model = model_of("transformer_decoder", "full")
    params, variables = jax.eval_shape(model.init, jax.random.key(0), batch)
    ask = lambda p: model.outputs(p, variables, batch, capture=["attention_weight"])
    with pytest.raises(UserError, match="no 'attention_weight': did you mean 'attention_weights'"):
        jax.eval_shape(ask, params)


# Refusals, and configs of older versions


def test_what_an_attention_does_not_declare_it_is_not_asked(own):
    built = {"heads": 2, "causal": False, "kernel_init": nn.initializers.zeros, "name": None}
    near = registry.bind("attentions", NEAR)
    with pytest.raises(UserError, match="'near' has no weights to drop: set drop_attention=0"):
        attention_layer(near, **built, drop_rate=0.1)
    bidirectional = lambda heads, name, /: None
    with pytest.raises(UserError, match="sees what comes later: it is not for a decoder"):
        attention_layer(bidirectional, **built | {"causal": True}, drop_rate=0.0)


def test_positions_are_one_value():
    moved = IMAGE[:, :, [4, 5, 6, 7, 0, 1, 2, 3, 8, 9, 10, 11]]  # two patches change places
    pooled = {}
    for position in ("none", "learned", "sinusoidal"):
        args = {**SMALL, "patch_size": 4, "pool": "avg", "position": position}
        model = Model(models.create("vit_tiny_patch16_224", 11, **args), jnp.dtype("float32"))
        params, variables = initial(model.init, jax.random.key(0), {"image": IMAGE})
        predict = quick(model.predict)
        here, there = (predict(params, variables, {"image": x})["logits"] for x in (IMAGE, moved))
        pooled[position] = float(np.abs(here - there).max())
    # Without positions a set of patches is all that is seen.
    assert pooled["none"] < 1e-5 < 1e-4 < min(pooled["learned"], pooled["sinusoidal"])


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("vit_tiny_patch16_224", {"attend": "plain"}, {"attention": "full"}),
        ("transformer", {"attend": "flash", "max_length": 8}, {"attention": "flash"}),
        (
            "transformer_decoder",
            {"positions": "learned", "max_length": 8},
            {"position": {"name": "learned", "args": {"length": 8}}},
        ),
        (
            "transformer_decoder",
            {"positions": "learned"},
            {"position": {"name": "learned", "args": {"length": 512}}},
        ),
        (
            "transformer_encoder",
            {"positions": "sinusoidal", "max_length": 8},
            {"position": {"name": "sinusoidal", "args": {}}},
        ),
        ("my_net", {"positions": 3, "attend": "flash"}, {"positions": 3, "attend": "flash"}),
    ],
)
def test_configs_of_older_versions(name, old, new):
    tree = {"model": {"name": name, "args": {"depth": 2, **old}}}
    assert current_config(tree) == {"model": {"name": name, "args": {"depth": 2, **new}}}
