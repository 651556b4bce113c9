"""What is done to gradients, against loops over units by hand, and one battery over all of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdl import registry, tree
from jaxdl.config import part
from jaxdl.errors import UserError
from jaxdl.optim import gradient_transforms as by

SHAPES = {
    "backbone/blocks/attention/out/kernel": (2, 2, 3, 6),
    "backbone/blocks/attention/qkv/bias": (2, 3, 2, 3),
    "backbone/blocks/attention/qkv/kernel": (2, 6, 3, 2, 3),
    "backbone/blocks/mlp/dense/bias": (2, 5),
    "backbone/blocks/mlp/dense/kernel": (2, 6, 5),
    "backbone/conv/bias": (6,),
    "backbone/conv/kernel": (3, 3, 4, 6),
    "backbone/depthwise/kernel": (3, 3, 1, 6),
    "backbone/gate": (),
    "backbone/one_input/kernel": (1, 4),
    "backbone/token/embedding": (7, 6),
    "head/logits/bias": (4,),
    "head/logits/kernel": (6, 4),
}
# The axes that count units: layers, projections, heads and outputs.
COUNTS = {
    "backbone/blocks/attention/out/kernel": (0, 3),
    "backbone/blocks/attention/qkv/bias": (0,),
    "backbone/blocks/attention/qkv/kernel": (0, 2, 3, 4),
    "backbone/blocks/mlp/dense/bias": (0,),
    "backbone/blocks/mlp/dense/kernel": (0, 2),
    "backbone/conv/kernel": (3,),
    "backbone/depthwise/kernel": (3,),
    "backbone/one_input/kernel": (1,),
    "backbone/token/embedding": (1,),
    "head/logits/kernel": (1,),
}


def wave(shape, phase):
    """Numbers in [-1, 1] that need no generator."""
    return np.sin(np.arange(np.prod(shape)) ** 1.5 + phase).reshape(shape).astype(np.float32)


def waves(phase, scale=1.0):
    """A wave for each leaf; they grow from leaf to leaf, so that none stands for all."""
    sizes = {n: np.float32(scale * (1 + i)) for i, n in enumerate(SHAPES)}
    return {n: np.asarray(wave(s, phase) * sizes[n]) for n, s in SHAPES.items()}


def nested(flat, dtype=jnp.float32):
    found = {}
    for name, leaf in flat.items():
        *path, last = name.split("/")
        functools.reduce(lambda node, key: node.setdefault(key, {}), path, found)[last] = (
            jnp.asarray(leaf, dtype)
        )
    return found


GRADIENT, PARAMS = waves(1.0), waves(4.0, 0.1)


def applied(tx, gradient, params):
    """The first step's gradient, as training asks for it: with the loss at hand."""
    tx = optax.with_extra_args_support(tx)
    return tx.update(gradient, tx.init(params), params, value=jnp.float32(1))[0]


def once(tx, gradient=GRADIENT, params=PARAMS):
    """Name to what a gradient becomes, inside jit."""
    update = lambda g, w: applied(tx, g, w)
    return tree.flatten(jax.jit(update)(nested(gradient), nested(params)))


def units(name, x):
    """Each unit's entries, as views of a copy."""
    axes = COUNTS.get(name, ())
    moved = np.moveaxis(x, axes, range(len(axes)))
    for index in np.ndindex(moved.shape[: len(axes)]):
        yield moved[index + (...,)]


def close(found, expected):
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], 2e-6, 1e-6, err_msg=name)


def norm(leaves):
    return np.sqrt(sum(np.sum(np.square(x, dtype=np.float64)) for x in leaves.values()))


@pytest.mark.parametrize("limit", [0.5, 1e6])
def test_clip_norm(limit):
    shrink = min(1, limit / norm(GRADIENT))
    close(once(by.clip_norm(limit=limit)), {n: g * shrink for n, g in GRADIENT.items()})


def test_clip_value():
    expected = {n: np.clip(g, -2.5, 2.5) for n, g in GRADIENT.items()}
    close(once(by.clip_value(limit=2.5)), expected)


def test_clip_block_rms_is_of_each_layer():
    expected = {}
    for name, g in GRADIENT.items():
        expected[name] = g.copy()
        layers = expected[name] if "/blocks/" in name else [expected[name]]
        for layer in layers:
            layer *= min(1, 3.0 / np.sqrt(np.mean(np.square(layer, dtype=np.float64))))
    clipped = {n for n in expected if not np.array_equal(expected[n], GRADIENT[n])}
    assert 0 < len(clipped) < len(SHAPES)
    close(once(by.clip_block_rms(limit=3.0)), expected)


def agc_by_hand(limit, eps, excluded):
    expected = {n: g.copy() for n, g in GRADIENT.items()}
    touched = 0
    for name in expected:
        if name in excluded:
            continue
        for g, w in zip(units(name, expected[name]), units(name, PARAMS[name]), strict=True):
            bound = limit * max(np.linalg.norm(w.ravel()), eps)
            if np.linalg.norm(g.ravel()) > bound:
                g *= bound / np.linalg.norm(g.ravel())
                touched += 1
    return expected, touched


@pytest.mark.parametrize("eps", [1e-3, 1.0])
def test_adaptive_clip_is_of_each_unit_and_spares_the_head(eps):
    head = {n for n in SHAPES if n.startswith("head/")}
    expected, touched = agc_by_hand(8.0, eps, head)
    assert 20 < touched < 150
    close(once(by.adaptive_clip(limit=8.0, eps=eps)), expected)


def test_adaptive_clip_of_what_is_not_excluded():
    biases = {n for n in SHAPES if n.endswith("bias")}
    expected, _ = agc_by_hand(8.0, 1e-3, biases)
    close(once(by.adaptive_clip(limit=8.0, exclude=".*/bias")), expected)


def test_adaptive_clip_is_optaxs_where_that_knows_the_axes():
    plain = ["backbone/conv/bias", "backbone/conv/kernel", "backbone/token/embedding"]
    gradient, params = ({n: x[n] for n in plain} for x in (GRADIENT, PARAMS))
    found = once(by.adaptive_clip(limit=8.0), gradient, params)
    close(found, once(optax.adaptive_grad_clip(8.0), gradient, params))


def test_unit_norm():
    close(once(by.unit_norm()), {n: g / norm(GRADIENT) for n, g in GRADIENT.items()})


def test_centralize_takes_each_units_mean():
    expected = {n: g.copy() for n, g in GRADIENT.items()}
    for name in expected:
        if name.endswith("kernel") and "one_input" not in name:
            for g in units(name, expected[name]):
                g -= np.mean(g, dtype=np.float64)
    close(once(by.centralize()), expected)
    assert np.array_equal(
        expected["backbone/one_input/kernel"], GRADIENT["backbone/one_input/kernel"]
    )


def test_centralize_of_convolutions_alone():
    found = once(by.centralize(leaves=".*conv/kernel"))
    same = [n for n in SHAPES if np.array_equal(found[n], GRADIENT[n])]
    assert set(SHAPES) - set(same) == {"backbone/conv/kernel"}


def test_noise_has_the_variance_of_the_paper():
    tx = by.noise(eta=0.3, gamma=0.55, seed=3)
    zero = {"w": jnp.zeros((200, 200))}

    def step(state, _):
        noisy, state = tx.update(zero, state)
        return state, noisy["w"]

    draws = np.asarray(jax.jit(lambda: jax.lax.scan(step, tx.init(zero), length=9)[1])())
    expected = 0.3 / (1 + np.arange(9)) ** 0.55
    np.testing.assert_allclose(draws.var(axis=(1, 2)), expected, rtol=0.03)
    assert np.all(np.abs(draws.mean(axis=(1, 2))) < 5 * np.sqrt(expected) / 200)
    alike = np.corrcoef(draws.reshape(9, -1)) - np.eye(9)
    assert np.abs(alike).max() < 0.025


def test_noise_depends_on_its_seed_and_adds_to_the_gradient():
    one, other, again = (once(by.noise(seed=s)) for s in (1, 2, 1))
    close(one, again)
    name = "backbone/conv/kernel"
    assert np.abs(one[name] - other[name]).max() > 0.01
    assert np.abs(one[name] - GRADIENT[name]).max() < 0.6


# Battery over the registry


ENTRIES = registry.entries("gradient_transforms")
every = pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: e.name)


@every
def test_zero_gradients_are_harmless(entry):
    zero = {n: np.zeros(s, np.float32) for n, s in SHAPES.items()}
    for params in (PARAMS, zero):
        found = once(entry.build(), zero, params)
        assert all(np.all(np.isfinite(x)) for x in found.values())
        if entry.name != "noise":
            assert all(np.all(x == 0) for x in found.values())


@every
def test_tiny_and_large_gradients_stay_numbers(entry):
    for scale in (1e-30, 1e15):
        found = once(entry.build(), waves(1.0, scale))
        assert all(np.all(np.isfinite(x)) for x in found.values())


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@every
def test_keeps_types_and_shapes(entry, dtype):
    tx = entry.build()
    gradient, params = nested(GRADIENT, dtype), nested(PARAMS, jnp.float32)
    types = lambda values: jax.tree.map(lambda x: (x.shape, x.dtype), values)
    start = tx.init(params)
    found, state = jax.eval_shape(
        functools.partial(optax.with_extra_args_support(tx).update, value=jnp.float32(1)),
        gradient,
        start,
        params,
    )
    assert types(found) == types(gradient)
    assert types(state) == types(start)


@every
def test_bfloat16_is_computed_in_float32(entry):
    tx = entry.build()
    gradient, params = nested(GRADIENT, jnp.bfloat16), nested(PARAMS, jnp.bfloat16)
    update = jax.jit(lambda g, w: applied(tx, g, w))
    found = tree.flatten(update(gradient, params))
    wide = lambda leaves: {n: np.asarray(x, np.float32) for n, x in tree.flatten(leaves).items()}
    expected = once(tx, wide(gradient), wide(params))
    for name, x in expected.items():
        assert np.array_equal(found[name], jnp.asarray(x).astype(jnp.bfloat16)), name


@every
def test_same_numbers_on_eight_devices(entry):
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
    places = [jax.sharding.PartitionSpec("fsdp"), jax.sharding.PartitionSpec(None, "fsdp")]
    shape = {"backbone/blocks/dense/kernel": (8, 24, 16), "head/logits/kernel": (8, 16)}
    gradient, params = ({n: wave(s, p) for n, s in shape.items()} for p in (1.0, 4.0))
    tx = entry.build()
    update = jax.jit(lambda g, w: applied(tx, g, w))
    for place in places:
        there = jax.sharding.NamedSharding(mesh, place)
        found = update(*jax.device_put((nested(gradient), nested(params)), there))
        close(tree.flatten(found), once(tx, gradient, params))


@every
def test_every_entry_names_its_paper(entry):
    assert entry.paper.startswith("https://")
    assert entry.summary.endswith((".", ")", ").")) and len(entry.summary) < 100


def test_they_chain_in_order():
    tx = optax.chain(by.clip_value(limit=2.0), by.unit_norm())
    clipped = {n: np.clip(g, -2, 2) for n, g in GRADIENT.items()}
    close(once(tx), {n: g / norm(clipped) for n, g in clipped.items()})


def test_frozen_leaves_are_no_trouble():
    trained = nested({n: n.startswith("head/") for n in SHAPES}, bool)
    trained = jax.tree.map(bool, trained)
    for entry in ENTRIES:
        tx = optax.masked(entry.build(), trained)
        found = once(tx)
        assert np.array_equal(found["backbone/conv/kernel"], GRADIENT["backbone/conv/kernel"])


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("clip_norm", {"limit": 0}, "limit"),
        ("clip_value", {"limit": -1.0}, "limit"),
        ("adaptive_clip", {"exclude": "("}, "exclude='\\(' is not a regular expression"),
        ("centralize", {"leaves": "kernel["}, "leaves='kernel\\[' is not a regular expression"),
        ("noise", {"gamma": -0.1}, "gamma"),
        ("noise", {"seed": -1}, "seed"),
        ("unit_norm", {"limit": 1.0}, "takes no argument 'limit'"),
    ],
)
def test_mistakes_are_named(name, args, message):
    with pytest.raises(UserError, match=message):
        registry.bind("gradient_transforms", part(name, **args))()


@pytest.mark.parametrize(
    ("name", "args"), [("adaptive_clip", {"exclude": "haed/.*"}), ("centralize", {"leaves": "w"})]
)
def test_a_pattern_that_matches_nothing_is_named(name, args):
    tx = registry.bind("gradient_transforms", part(name, **args))()
    with pytest.raises(UserError, match="matches no parameter"):
        once(tx)


def test_adaptive_clip_asks_for_the_parameters():
    tx = by.adaptive_clip()
    with pytest.raises(TypeError, match="params"):
        tx.update(nested(GRADIENT), tx.init(nested(PARAMS)))
