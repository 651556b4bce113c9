"""Attention, its masks and positions, and models of tokens."""

import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import ROOT
from test_models import matmuls
from zoo import initial, quick

from jaxdl import models, registry, tree
from jaxdl.config import part
from jaxdl.errors import UserError
from jaxdl.nn.attention import (
    MultiHeadAttention,
    attention_weights,
    dot_product_attention,
    scaled_products,
)
from jaxdl.nn.drop import drop_path
from jaxdl.nn.positions import resize_positions, sinusoids
from jaxdl.nn.stack import drop_path_rates, stacked
from jaxdl.nn.transformer import TransformerBlock
from jaxdl.objectives.base import Model
from jaxdl.objectives.language import language
from jaxdl.objectives.supervised import supervised

sys.path.append(str(ROOT / "tests" / "references"))
from fill import tensor  # noqa: E402

REFERENCE = np.load(ROOT / "tests" / "references" / "attention.npz")
SMALL = {"width": 16, "depth": 2, "heads": 2, "hidden": 32, "drop_rate": 0.0}
TASKS = {
    "transformer_encoder": (supervised, {"vocabulary": 11}),
    "transformer_decoder": (language, {}),
    "transformer": (language, {}),
}
PRE = {"placement": "pre", "position": part("learned", length=8)}


def drawn(name, *shape):
    return jnp.asarray(tensor(name, shape, 1.0), jnp.float32)


# Attention


def reference_attention():
    """Our parameters of self-attention and of attention to a source, from PyTorch's one layer."""
    weight = drawn("in_proj.weight", 24, 8).T.reshape(8, 3, 2, 4)
    bias = drawn("in_proj.bias", 24).reshape(3, 2, 4)
    kernel = drawn("out_proj.weight", 8, 8).T.reshape(2, 4, 8)
    out = {"kernel": kernel, "bias": drawn("out_proj.bias", 8)}
    itself = {"qkv": {"kernel": weight, "bias": bias}, "out": out}
    query = {"kernel": weight[:, 0], "bias": bias[0]}
    return itself, {
        "query": query,
        "key_value": {"kernel": weight[:, 1:], "bias": bias[1:]},
        "out": out,
    }


def test_attention_equals_pytorch():
    itself, other = reference_attention()
    x, source = drawn("x.weight", 2, 5, 8), drawn("source.weight", 2, 3, 8)
    layer = MultiHeadAttention(2, causal=True)
    y, kept = layer.apply({"params": itself}, x, mutable=["intermediates"])
    np.testing.assert_allclose(y, REFERENCE["causal"], atol=1e-5)
    (weights,) = kept["intermediates"]["attention_weights"]
    np.testing.assert_allclose(weights, REFERENCE["weights"], atol=1e-6)
    mask = jnp.asarray([[True] * 3, [True, False, False]])[:, None, None]
    y = MultiHeadAttention(2).apply({"params": other}, x, source, mask)
    np.testing.assert_allclose(y, REFERENCE["source"], atol=1e-5)


def test_attention_equals_the_formula_and_jax():
    q, k, v = (jax.random.normal(jax.random.key(i), (2, 4, 3, 5)) for i in range(3))
    bias = jax.random.normal(jax.random.key(4), (1, 3, 4, 4))
    mask = jax.random.bernoulli(jax.random.key(3), 0.7, (2, 1, 4, 4))
    mask = mask | jnp.eye(4, dtype=bool)[None, None]
    ours = dot_product_attention(q, k, v, mask, lambda q, k: scaled_products(q, k) + bias)
    np.testing.assert_allclose(
        ours, jax.nn.dot_product_attention(q, k, v, bias, mask), rtol=1e-5, atol=1e-6
    )
    for b, n, t in np.ndindex(2, 3, 4):
        logits = np.asarray(k[b, :, n] @ q[b, t, n]) / np.sqrt(5) + np.asarray(bias[0, n, t])
        e = np.exp(logits) * np.asarray(mask[b, 0, t])
        np.testing.assert_allclose(ours[b, t, n], e / e.sum() @ np.asarray(v[b, :, n]), atol=1e-5)


def test_the_softmax_is_float32_under_bfloat16():
    # 256 equal logits: in bfloat16 their sum would stop growing long before 256.
    x = jnp.ones((1, 256, 1, 4), jnp.bfloat16)
    jaxpr = jax.make_jaxpr(attention_weights)(x, x)
    exps = [e for e in jaxpr.eqns if e.primitive.name == "exp"]
    inner = [e for j in jaxpr.eqns if "jaxpr" in j.params for e in j.params["jaxpr"].eqns]
    exps += [e for e in inner if e.primitive.name == "exp"]
    assert [str(e.invars[0].aval.dtype) for e in exps] == ["float32"]
    weights = attention_weights(x, x)
    assert weights.dtype == jnp.bfloat16
    np.testing.assert_array_equal(weights.astype(jnp.float32), 1 / 256)


def test_a_query_that_sees_nothing_is_finite():
    x = jnp.ones((1, 3, 1, 4))
    loss = lambda x: dot_product_attention(x, x, x, jnp.zeros((1, 1, 3, 3), bool)).sum()
    assert np.all(np.isfinite(jax.grad(loss)(x)))


def test_heads_divide_the_width():
    with pytest.raises(UserError, match="width of 8 does not divide into 3 heads"):
        MultiHeadAttention(3).init(jax.random.key(0), jnp.ones((1, 2, 8)))


def test_weights_are_dropped_in_training_alone():
    layer = MultiHeadAttention(2, drop_rate=0.5)
    x = drawn("x.weight", 2, 5, 8)
    params = {"params": reference_attention()[0]}
    whole = layer.apply(params, x)
    dropped = layer.apply(params, x, train=True, rngs={"dropout": jax.random.key(0)})
    np.testing.assert_array_equal(whole, MultiHeadAttention(2).apply(params, x))
    assert np.abs(whole - dropped).max() > 0.1


# Positions


def test_sinusoids_by_hand():
    # d = 4: sin p, cos p, sin p/100, cos p/100
    expected = [[np.sin(p), np.cos(p), np.sin(p / 100), np.cos(p / 100)] for p in range(3)]
    np.testing.assert_allclose(sinusoids(3, 4), expected, rtol=1e-6)


@pytest.mark.parametrize("size", [(14, 14), (5, 3), (8, 10), (7, 7)])
def test_resized_positions_equal_timm(size):
    positions = drawn("positions.weight", 1, 50, 4)
    ours = resize_positions(positions, (7, 7), size)
    expected = positions if size == (7, 7) else REFERENCE["{}x{}".format(*size)]
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_positions_must_fit_their_grid():
    with pytest.raises(UserError, match="50 positions are not 0 and a grid of 7x7"):
        resize_positions(jnp.zeros((1, 50, 4)), (7, 7), (8, 8), prefix=0)


# The scan


def vit(**args):
    return models.create("vit_tiny_patch16_224", 5, patch_size=8, width=24, depth=3, **args)


def images():
    return jax.random.normal(jax.random.key(1), (4, 16, 16, 3))


def test_scanned_blocks_are_the_blocks_in_turn():
    model = vit()
    variables = model.init(jax.random.key(0), images())
    kernels = variables["params"]["backbone"]["blocks"]["mlp"]["dense1"]["kernel"]
    assert kernels.shape == (3, 24, 96) and np.abs(kernels[0] - kernels[1]).max() > 0.01
    _, kept = model.apply(variables, images(), capture_intermediates=True, mutable="intermediates")
    (weights,) = kept["intermediates"]["backbone"]["blocks"]["attention"]["attention_weights"]
    assert weights.shape == (3, 4, 3, 5, 5)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    block = TransformerBlock(heads=3, hidden=96)
    x = kept["intermediates"]["backbone"]["position_embed"]["__call__"][0]
    for i in range(3):
        params = jax.tree.map(lambda p, i=i: p[i], variables["params"]["backbone"]["blocks"])
        x = block.apply({"params": params}, x, False)
    final = nn.LayerNorm(epsilon=1e-6)
    x = final.apply({"params": variables["params"]["backbone"]["norm"]}, x)
    tokens = model.apply(variables, images(), method=lambda m, x: m.backbone.tokens(x))
    np.testing.assert_allclose(tokens, x, rtol=1e-4, atol=1e-5)


def test_each_block_drops_at_its_own_rate():
    # Blocks whose branches are constant: what is left of them counts the draws.
    class Counter(nn.Module):
        @nn.compact
        def __call__(self, x, rate):
            y = drop_path(jnp.ones_like(x), rate, self.make_rng("dropout"))
            self.sow("intermediates", "kept", y > 0)
            self.sow("intermediates", "scale", jnp.max(y))
            return x + y

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            rates = drop_path_rates(0.8, 3)
            return stacked(Counter(name="blocks"), lambda b, x, r: b(x, r), x, 3, rates)

    x = jnp.zeros((4000, 1))
    _, kept = Net().apply({}, x, rngs={"dropout": jax.random.key(0)}, mutable=["intermediates"])
    blocks = kept["intermediates"]["blocks"]
    seen = blocks["kept"][0][..., 0]
    np.testing.assert_allclose(seen.mean(1), [1, 0.6, 0.2], atol=0.03)
    np.testing.assert_allclose(blocks["scale"][0], [1, 1 / 0.6, 5], rtol=1e-5)
    # Draws of two blocks are independent: both stay in 0.6 * 0.2 of the examples.
    np.testing.assert_allclose((seen[1] & seen[2]).mean(), 0.12, atol=0.02)


def test_pooled_patches_have_no_class_token():
    shapes = jax.eval_shape(vit(pool="avg").init, jax.random.key(0), images())
    backbone = shapes["params"]["backbone"]
    assert "class_token" not in backbone
    assert backbone["position_embed"]["positions"].shape == (1, 4, 24)


def test_patches_divide_the_image():
    with pytest.raises(UserError, match="patches of 8 do not divide an image of 20x16"):
        vit().init(jax.random.key(0), jnp.ones((1, 20, 16, 3)))


# Models of tokens


def batch_of(name, length=7):
    tokens = jax.random.randint(jax.random.key(1), (4, length), 1, 11)
    batch = {"tokens": tokens.at[0, 4:].set(0)}
    if name == "transformer":
        batch["source"] = jax.random.randint(jax.random.key(2), (4, 5), 1, 11).at[0, 3:].set(0)
    if name == "transformer_encoder":
        batch["label"] = jnp.arange(4) % 3
    return batch


def task_of(name, dtype="float32", **args):
    objective, more = TASKS[name]
    model = models.create(name, 3 if objective is supervised else 11, **SMALL | more | args)
    return objective(Model(model, jnp.dtype(dtype)))


@pytest.fixture(scope="module")
def started():
    cache = {}

    def start(name, **args):
        key = (name, repr(args))
        if key not in cache:
            goal, batch = task_of(name, **args), batch_of(name)
            cache[key] = (goal, batch, *initial(goal.init, jax.random.key(0), batch))
        return cache[key]

    return start


def logits_of(goal, params, batch, **changed):
    return quick(goal.predict)(params, {}, batch | changed)["logits"]


@pytest.mark.parametrize(("name", "form"), [*((name, {}) for name in TASKS), ("transformer", PRE)])
def test_every_parameter_gets_a_gradient(name, form, started):
    goal, batch, params, variables = started(name, **form)
    take = quick(jax.value_and_grad(goal.loss, has_aux=True))
    (loss, aux), grads = take(params, variables, batch, jax.random.key(2))
    for leaf, grad in tree.flatten(grads).items():
        assert np.any(grad) and np.all(np.isfinite(grad)), leaf
    classes = 3 if name == "transformer_encoder" else 11
    assert np.log(classes) / 3 < loss < 3 * np.log(classes)
    total, count = aux.metrics["loss"]
    np.testing.assert_allclose(loss, total / count, rtol=1e-6)
    # Four sequences of seven tokens less the first of each, one of them three shorter.
    assert count == (4 if classes == 3 else 4 * 6 - 3)


@pytest.mark.parametrize(
    ("name", "form"), [("transformer_decoder", {}), ("transformer", {}), ("transformer", PRE)]
)
def test_a_place_knows_nothing_of_what_comes_later(name, form, started):
    goal, batch, params, _ = started(name, **form)
    before = logits_of(goal, params, batch)
    for j in (1, 4):
        tokens = batch["tokens"].at[1:, j].set(batch["tokens"][1:, j] % 10 + 1)
        after = logits_of(goal, params, batch, tokens=tokens)
        np.testing.assert_array_equal(after[1:, :j], before[1:, :j])
        assert np.all(np.abs(after[1:, j:] - before[1:, j:]).max(axis=(0, 2)) > 1e-4)


@pytest.mark.parametrize("pool", ["mean", "first"])
def test_padding_changes_nothing_in_the_encoder(pool, started):
    goal, batch, params, _ = started("transformer_encoder", pool=pool)
    short = logits_of(goal, params, {"tokens": batch["tokens"][:1, :4]})
    np.testing.assert_allclose(logits_of(goal, params, batch)[:1], short, rtol=1e-5, atol=1e-6)


def test_the_decoder_sees_the_source_but_not_its_padding(started):
    goal, batch, params, _ = started("transformer")
    before = logits_of(goal, params, batch)
    short = logits_of(
        goal, params, {"tokens": batch["tokens"][:1], "source": batch["source"][:1, :3]}
    )
    np.testing.assert_allclose(before[:1], short, rtol=1e-4, atol=1e-5)
    source = batch["source"].at[:, 0].set(batch["source"][:, 0] % 10 + 1)
    changed = np.abs(logits_of(goal, params, batch, source=source) - before)
    assert np.all(changed.max(axis=2) > 1e-4)


@pytest.mark.parametrize("name", TASKS)
def test_every_product_is_in_the_compute_type(name):
    goal, batch = task_of(name, "bfloat16", drop_attention=0.1), batch_of(name)
    params, variables = jax.eval_shape(goal.init, jax.random.key(0), batch)
    take = jax.value_and_grad(goal.loss, has_aux=True)
    jaxpr = jax.make_jaxpr(take)(params, variables, batch, jax.random.key(0))
    found = list(matmuls(jaxpr.jaxpr))
    assert len(found) >= 20
    assert {str(v.aval.dtype) for e in found for v in e.invars} == {"bfloat16"}


def test_parameters_of_the_base_model():
    # Table 3 says 65 million. One attention is four dense layers of 512 -> 512.
    attention, mlp, norm = 4 * (512 * 512 + 512), 2 * 512 * 2048 + 2048 + 512, 2 * 512
    encoder, decoder = attention + mlp + 2 * norm, 2 * attention + mlp + 3 * norm
    shared = 37_000 * 512
    assert shared + 6 * encoder + 6 * decoder == 63_082_496
    counts = {"transformer": 63_082_496, "transformer_decoder": shared + 6 * encoder}
    for name, count in counts.items():
        model = models.create(name, 37_000)
        tokens = [jnp.zeros((1, *models.input_shape(name)), jnp.int32)] * len(model.inputs)
        shapes = jax.eval_shape(model.init, jax.random.key(0), *tokens)
        assert tree.count(shapes["params"]) == count
    untied = models.create("transformer_decoder", 37_000, tied=False)
    shapes = jax.eval_shape(untied.init, jax.random.key(0), tokens[0])
    assert tree.count(shapes["params"]) == counts["transformer_decoder"] + shared + 37_000


def test_learned_positions_end():
    position = part("learned", length=4)
    model = models.create("transformer_decoder", 11, **SMALL, position=position)
    with pytest.raises(UserError, match="5 places are more than the 4"):
        model.init(jax.random.key(0), jnp.ones((1, 5), jnp.int32))


def test_metrics_of_the_next_token_by_hand():
    # Uniform logits over 5 tokens: log 5 a token. Three tokens follow another and are not padding;
    # the padded example and its NaN count for nothing.
    batch = {
        "tokens": jnp.asarray([[1, 2, 3, 0], [1, 0, 0, 0], [4, 4, 0, 0], [1, 1, 1, 1]]),
        "mask": jnp.asarray([1.0, 1.0, 1.0, 0.0]),
    }
    logits = jnp.zeros((4, 4, 5)).at[3].set(jnp.nan)
    entropy = registry.bind("metrics", part("next_token_cross_entropy"))().sums
    total, count = entropy({"logits": logits}, batch)
    np.testing.assert_allclose([total, count], [3 * np.log(5), 3], rtol=1e-6)
    right = logits.at[0, 0, 2].set(1.0).at[2, 0, 4].set(1.0)
    accuracy = registry.bind("metrics", part("next_token_accuracy"))().sums
    assert tuple(map(float, accuracy({"logits": right}, batch))) == (2.0, 3.0)


def test_a_decoder_learns_a_periodic_sequence():
    # Two tokens in turn, any two: from the third on, each is the one before the one before it.
    args = SMALL | {"depth": 1}
    goal = language(Model(models.create("transformer_decoder", 8, **args), jnp.dtype("float32")))
    tx = optax.adam(1e-2)

    def batch_of(seed):
        motif = np.random.default_rng(seed).integers(1, 8, (32, 2), dtype=np.int32)
        return {"tokens": jnp.tile(motif, (1, 5))}

    @quick
    def step(params, opt_state, batch):
        grads, _ = jax.grad(goal.loss, has_aux=True)(params, {}, batch, jax.random.key(0))
        updates, opt_state = tx.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state

    params, _ = initial(goal.init, jax.random.key(0), batch_of(0))
    opt_state = tx.init(params)
    for seed in range(150):
        params, opt_state = step(params, opt_state, batch_of(seed))
    batch = batch_of(1000)
    logits = goal.predict(params, {}, batch)["logits"]
    hit = jnp.argmax(logits[:, 1:-1], -1) == batch["tokens"][:, 2:]
    assert hit.mean() > 0.95
