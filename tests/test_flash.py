"""Flash attention against the formula: values, gradients, masks, memory, devices, models."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxdl import models
from jaxdl.errors import UserError
from jaxdl.nn import conv, flash
from jaxdl.nn.attention import attention_layer, causal_mask, dot_product_attention
from jaxdl.nn.flash import Tile, flash_attention
from jaxdl.perf.flops import macs

# b, t, s, n, h, whether causal, whether keys are hidden: lengths that do and do not divide into
# tiles, one shorter than a tile, heads that are no power of two.
CASES = [
    (2, 40, 40, 3, 12, True, True),
    (1, 70, 33, 2, 16, False, True),
    (2, 5, 50, 1, 20, False, False),
]


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setitem(flash.TILES, "loops", Tile(32, 16))


def drawn(b, t, s, n, h, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(t), 4)
    shapes = [(b, t, n, h), (b, s, n, h), (b, s, n, h), (b, t, n, h)]
    return [jax.random.normal(k, x, dtype) for k, x in zip(keys, shapes, strict=True)]


def hidden_at_random(b, s):
    return jax.random.bernoulli(jax.random.key(s), 0.6, (b, s)).at[:, 0].set(True)


def plain(query, key, value, visible=None, causal=False):
    mask = None if visible is None else visible[:, None, None, :]
    if causal:
        earlier = causal_mask(query.shape[1])
        mask = earlier if mask is None else earlier & mask
    return dot_product_attention(query, key, value, mask)


def with_gradients(attend, *settings):
    """(query, key, value, weight of the outputs) -> the output and three gradients."""

    def summed(query, key, value, weight):
        out = attend(query, key, value, *settings)
        return jnp.sum((out * weight).astype(jnp.float32)), out

    def both(*arrays):
        (_, out), gradients = jax.value_and_grad(summed, (0, 1, 2), has_aux=True)(*arrays)
        return out, *gradients

    return jax.jit(both)


def by_hand(query, key, value, visible, causal):
    """In float64, one query at a time."""
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    out = np.zeros(query.shape)
    for b, t, n in np.ndindex(query.shape[:3]):
        seen = np.ones(key.shape[1], bool) if visible is None else np.array(visible[b])
        if causal:
            seen[t + 1 :] = False
        e = np.exp(key[b, seen, n] @ query[b, t, n] / np.sqrt(query.shape[-1]))
        out[b, t, n] = e / e.sum() @ value[b, seen, n]
    return out


@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients_equal_the_formula(case, small_tiles):
    b, t, s, n, h, causal, masked = case
    arrays, visible = drawn(b, t, s, n, h), hidden_at_random(b, s) if masked else None
    ours = with_gradients(flash_attention, visible, causal)(*arrays)
    expected = with_gradients(plain, visible, causal)(*arrays)
    for given, other in zip(ours, expected, strict=True):
        np.testing.assert_allclose(given, other, atol=5e-6)
    np.testing.assert_allclose(ours[0], by_hand(*arrays[:3], visible, causal), atol=2e-6)


@pytest.mark.parametrize(("where", "triton"), [("gpu", True), ("gpu", False), ("tpu", False)])
def test_what_other_backends_run_gives_the_same(where, triton, monkeypatch):
    # Their grids, blocks and tiles, interpreted; or the loops, which are run as they are.
    original = flash.pl.pallas_call
    changed = {"interpret": True, "compiler_params": None}
    interpreted = lambda *args, **kwargs: original(*args, **(kwargs | changed))
    monkeypatch.setattr(flash.pl, "pallas_call", interpreted)
    monkeypatch.setattr(flash, "TRITON", triton)
    for name in (where, "loops"):
        monkeypatch.setitem(flash.TILES, name, Tile(16, 32))
    for causal, t, s in [(True, 40, 40), (False, 40, 50)]:
        arrays, visible = drawn(2, t, s, 3, 12), hidden_at_random(2, s)
        with conv.target(where):
            ours = with_gradients(flash_attention, visible, causal)(*arrays)
        for given, other in zip(ours, with_gradients(plain, visible, causal)(*arrays), strict=True):
            np.testing.assert_allclose(given, other, atol=5e-6)


@pytest.mark.parametrize(("where", "platform"), [("gpu", "cuda"), ("tpu", "tpu")])
@pytest.mark.parametrize("case", CASES[:2], ids=str)
def test_it_lowers_for_accelerators(where, platform, case):
    b, t, s, n, h, causal, masked = case
    arrays, visible = drawn(b, t, s, n, h, jnp.bfloat16), jnp.ones((b, s), bool)
    with conv.target(where):
        traced = with_gradients(flash_attention, visible, causal).trace(*arrays)
        text = traced.lower(lowering_platforms=(platform,)).as_text()
    kernels = re.findall(r"custom_call @(__gpu\$xla\.gpu\.triton|triton\w*|tpu_custom_call)", text)
    # Forward; gradients of queries; gradients of keys and values.
    assert len(kernels) == (0 if where == "gpu" and not flash.TRITON else 3)


def test_loops_keep_no_more_than_a_tile_of_each_head(monkeypatch):
    monkeypatch.setattr(flash, "TRITON", False)
    with conv.target("gpu"):
        traced = with_gradients(flash_attention).trace(*drawn(1, 2048, 2048, 1, 16))
    assert max(sizes(traced.jaxpr.jaxpr)) <= max(2048 * 16, np.prod(flash.TILES["loops"]))
    assert "custom_call" not in traced.lower(lowering_platforms=("cuda",)).as_text()


def test_a_query_that_sees_nothing_gives_zeros(small_tiles):
    arrays = drawn(2, 20, 20, 1, 16)
    visible = jnp.stack([jnp.zeros(20, bool), jnp.ones(20, bool)])
    for x in with_gradients(flash_attention, visible)(*arrays):
        assert np.all(x[0] == 0) and np.all(np.isfinite(x)) and np.any(x[1] != 0)


def test_half_precision_multiplies_in_its_type_and_sums_in_float32():
    arrays = drawn(1, 128, 128, 2, 32, jnp.bfloat16)
    exact = by_hand(*arrays[:3], None, False)
    error = lambda attend: np.abs(np.asarray(attend(*arrays[:3]), np.float64) - exact).max()
    assert error(flash_attention) < 1.1 * error(plain)
    assert flash_attention(*arrays[:3]).dtype == jnp.bfloat16
    products = re.findall(
        r"(\w+)\[.*?\] = dot_general\[\s*dimension.*?\] (\w+) (\w+)",
        str(jax.make_jaxpr(with_gradients(flash_attention))(*arrays)),
        flags=re.S,
    )
    assert len(products) == 2 + 3 + 4


def sizes(jaxpr):
    for equation in jaxpr.eqns:
        yield from (v.aval.size for v in equation.outvars)
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from sizes(inner)


def test_no_array_has_all_the_logits():
    arrays = drawn(1, 2048, 2048, 1, 16)
    biggest = lambda attend: max(sizes(with_gradients(attend).trace(*arrays).jaxpr.jaxpr))
    assert biggest(plain) >= 2048 * 2048
    assert biggest(flash_attention) <= max(2048 * 16, *map(np.prod, flash.TILES.values()))


def test_memory_grows_with_the_length_not_with_its_square():
    def temporaries(attend, t):
        compiled = with_gradients(attend).lower(*drawn(1, t, t, 1, 16)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(plain, 2048) > 3.5 * temporaries(plain, 1024)
    assert temporaries(flash_attention, 2048) < 2.2 * temporaries(flash_attention, 1024)


def test_multiply_adds_are_those_of_the_formula():
    arrays = drawn(1, 512, 512, 2, 64)[:3]
    assert macs(flash_attention, *arrays) == macs(plain, *arrays) == 2 * 2 * 512 * 512 * 64
    causal = lambda *arrays: flash_attention(*arrays, None, True)
    assert macs(causal, *arrays) == macs(plain, *arrays) // 2


# Devices


def test_devices_attend_to_their_own_examples_and_heads(small_tiles):
    mesh = jax.make_mesh((4, 2), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
    split = NamedSharding(mesh, PartitionSpec("data", None, "tensor"))
    arrays = drawn(4, 20, 20, 2, 16)
    placed = [jax.device_put(x, split) for x in arrays]
    function = with_gradients(flash_attention, None, True)
    text = function.lower(*placed).compile().as_text()
    assert not re.search("all-gather|all-to-all|collective-permute|all-reduce", text)
    for given, other in zip(function(*placed), function(*arrays), strict=True):
        np.testing.assert_allclose(given, other, atol=1e-6)
        assert given.sharding.spec == split.spec


@pytest.mark.parametrize(
    ("sizes", "examples", "heads", "expected"),
    [
        ({"data": 4, "fsdp": 2, "tensor": 2}, 8, 6, (("data", "fsdp"), "tensor")),
        ({"data": 4, "fsdp": 2, "tensor": 4}, 4, 6, (("data",), None)),
        ({"data": 4, "stage": 2}, 1, 6, (None, None)),
        ({}, 8, 6, (None, None)),
    ],
)
def test_what_does_not_divide_stays_whole(sizes, examples, heads, expected):
    assert flash._split(sizes, examples, heads) == expected


def test_vmap_is_one_more_axis_of_examples(small_tiles):
    query, key, value, weight = drawn(2, 20, 20, 1, 16)
    queries = jnp.stack([query, query + 1, 2 * query])
    over = lambda attend: jax.vmap(with_gradients(attend), (0, None, None, None))
    ours, expected = (over(f)(queries, key, value, weight) for f in (flash_attention, plain))
    for given, other in zip(ours, expected, strict=True):
        np.testing.assert_allclose(given, other, atol=5e-6)


# Models


SMALL = {"width": 16, "depth": 2, "heads": 2, "hidden": 32, "drop_rate": 0.0}
TOKENS = jnp.asarray([[3, 1, 4, 1, 5, 9], [2, 6, 5, 0, 0, 0]], jnp.int32)
MODELS = {
    "vit_tiny_patch16_224": ({"patch_size": 4}, (jnp.ones((2, 8, 12, 3)).at[0, 3].set(2.0),)),
    "transformer_encoder": ({"vocabulary": 11}, (TOKENS,)),
    "transformer_decoder": ({}, (TOKENS,)),
    "transformer": ({}, (TOKENS[:, :5], TOKENS)),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_gives_the_same_either_way(name):
    args, inputs = MODELS[name]
    made = {a: models.create(name, 11, **SMALL, **args, attention=a) for a in ("full", "flash")}
    params = made["full"].init(jax.random.key(0), *inputs)
    ours, expected = (jax.jit(made[a].apply)(params, *inputs) for a in ("flash", "full"))
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def layer(drop_rate=0.0):
    built = {"heads": 2, "causal": False, "drop_rate": drop_rate, "name": None}
    return attention_layer(flash.flash, **built, kernel_init=nn.initializers.xavier_uniform())


def test_what_it_cannot_do_is_refused():
    with pytest.raises(UserError, match="'flash' has no weights to drop: set drop_attention=0"):
        layer(drop_rate=0.1)
    with pytest.raises(UserError, match="hides keys, not pairs"):
        layer().init(jax.random.key(0), jnp.ones((1, 4, 8)), mask=causal_mask(4))


def test_weights_are_still_there_for_who_asks():
    x = jnp.ones((1, 4, 8))
    params = layer().init(jax.random.key(0), x)
    y, kept = layer().apply(params, x, mutable=["intermediates"])
    assert kept["intermediates"]["attention_weights"][0].shape == (1, 2, 4, 4)
    np.testing.assert_allclose(y, layer().apply(params, x), atol=1e-6)
