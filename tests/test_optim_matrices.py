"""Optimizers of whole matrices, SOAP and Muon: the authors' rules by hand, layers and heads."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from trajectories import (
    LAYERS,
    SHAPES,
    assert_equal,
    by_hand,
    falling,
    is_kernel,
    trajectory,
    wave,
    waves,
)

from jaxdl import tree
from jaxdl.errors import UserError
from jaxdl.nn.attention import MultiHeadAttention
from jaxdl.optim.matrices import axes_of, join, split
from jaxdl.optim.muon import MATRICES, muon, orthogonal
from jaxdl.optim.soap import soap

# SOAP


def soap_rule(frequency):
    """The authors' algorithm on a leaf, or on each matrix of a stack, by eigh, QR and tensordot."""

    def one(w, g, memory, step):
        dims = list(range(g.ndim)) if g.ndim > 1 else []
        turned = lambda x, back: functools.reduce(
            lambda x, a: np.moveaxis(np.tensordot(x, memory["q"][a], (a, int(back))), -1, a),
            dims,
            x,
        )
        seen = [np.tensordot(g, g, [[b for b in dims if b != a]] * 2) for a in dims]
        if step == 0:  # skipped
            memory["l"] = [0.05 * s for s in seen]
            memory["q"] = [np.linalg.eigh(s)[1][:, ::-1] for s in memory["l"]]
            memory["m"], memory["v"] = 0.0, 0.0
            return np.zeros_like(w)
        memory["m"] = 0.9 * memory["m"] + 0.1 * g
        memory["v"] = 0.95 * memory["v"] + 0.05 * turned(g, False) ** 2
        n = turned(memory["m"], False) / (np.sqrt(memory["v"]) + 1e-8)
        u = turned(n, True) * np.sqrt(1 - 0.95**step) / (1 - 0.9**step)
        memory["l"] = [0.95 * old + 0.05 * s for old, s in zip(memory["l"], seen, strict=True)]
        if step % frequency == 0:
            for a in dims:
                power = memory["l"][a] @ memory["q"][a]
                order = np.argsort(-np.sum(memory["q"][a] * power, 0))
                memory["v"] = np.take(memory["v"], order, axis=a)
                memory["q"][a] = np.linalg.qr(power[:, order])[0]
        return u

    def rule(name, w, g, memory, step):
        if name.startswith("blocks"):
            cut = lambda x: list(x)
            if "qkv" in name:
                cut = lambda x: [y[:, i].reshape(6, 6) for y in x for i in range(3)]
            elif "out" in name:
                cut = lambda x: [y.reshape(6, 6) for y in x]
            u = [
                one(wi, gi, memory.setdefault(i, {}), step)
                for i, (wi, gi) in enumerate(zip(cut(w), cut(g), strict=True))
            ]
            if "qkv" in name:
                u = np.stack(u).reshape(2, 3, 6, 6).transpose(0, 2, 1, 3)
            u = np.stack(u).reshape(w.shape)
        else:
            u = one(w, g, memory, step)
        return w - 0.01 * (1 - step / 20) * (u + (0.5 * w if is_kernel(name) else 0.0))

    return rule


@pytest.mark.parametrize("frequency", [1, 3])
def test_soap_is_the_authors_algorithm(frequency):
    tx = soap(falling(0.01), b1=0.9, precondition_frequency=frequency, weight_decay=0.5)
    found = trajectory(tx, shapes=LAYERS)
    # small eigenvalues amplify float32's rounding; a step is 1e-2, and one wrong is off by that
    assert_equal(found, by_hand(soap_rule(frequency), shapes=LAYERS), rtol=0, atol=1e-4)


def test_soap_leaves_long_axes_and_vectors_alone():
    shapes = SHAPES | {"token/token": (1, 1, 7)}
    state = jax.eval_shape(soap(0.1, max_precond_dim=130).init, waves(7.0, shapes))[0]
    assert {name: leaf.shape for name, leaf in tree.flatten(state.bases).items()} == {
        **{f"conv/kernel/{i}": (1, d, d) for i, d in enumerate((3, 3, 4, 6))},
        **{f"dense/kernel/{i}": (1, d, d) for i, d in enumerate((5, 3))},
        "wide/kernel/0": (1, 130, 130),  # the other axis has 140
        "token/token/2": (1, 7, 7),
    }


def test_soap_does_not_mind_a_rotation():
    """0.5 ||A W B||^2 with condition 10^4, turned: Adam crawls along it at the same rate."""
    q = [np.linalg.qr(wave((8, 8), p) + np.eye(8))[0] for p in (0.0, 1.0)]
    a, b = (jnp.asarray(x * np.logspace(0, -1, 8)[:, None], jnp.float32) for x in q)
    slope = lambda w: a.T @ (a @ w @ b.T) @ b
    rate = lambda step: 0.03 * (1 - step / 300)

    def height(tx):
        @jax.jit
        def step(_, carry):
            w, state = carry
            updates, state = tx.update({"kernel": slope(w["kernel"])}, state, w)
            return optax.apply_updates(w, updates), state

        w = {"kernel": jnp.asarray(wave((8, 8), 7.0))}
        w = jax.lax.fori_loop(0, 300, step, (w, tx.init(w)))[0]["kernel"]
        return float(jnp.sum((a @ w @ b.T) ** 2))

    adam = optax.chain(optax.scale_by_adam(0.95, 0.95), optax.scale_by_learning_rate(rate))
    assert height(soap(rate, weight_decay=0.0)) < 0.1 * height(adam)


# Muon


def quintic(s):
    """What the post's polynomial makes of singular values in 5 rounds."""
    s = s / np.linalg.norm(s, axis=-1, keepdims=True)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return s


@pytest.mark.parametrize("shape", [(20, 20), (30, 12), (3, 8, 40)])
def test_orthogonal_leaves_singular_vectors_and_evens_values(shape):
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    y = np.asarray(jax.jit(orthogonal, static_argnums=1)(x, 5))
    values = np.linalg.svd(y, compute_uv=False)
    assert values.min() > 0.6 and values.max() < 1.3
    u, s, v = np.linalg.svd(x.astype(np.float64), full_matrices=False)
    np.testing.assert_allclose(y, (u * quintic(s)[..., None, :]) @ v, atol=2e-5)


def test_muon_orthogonalizes_each_layer_and_projection_by_itself():
    params = waves(7.0, LAYERS)
    tx = muon(1.0, scale="match_rms_adamw")
    updates, _ = jax.jit(tx.update)(waves(1.0, LAYERS), jax.jit(tx.init)(params), params)
    moved = {n: -np.asarray(u) for n, u in tree.flatten(updates).items()}
    gradient = {n: wave(s, 1.0) for n, s in LAYERS.items()}

    def check(name, cut):
        g = cut(gradient[name])
        u, s, v = np.linalg.svd(g.astype(np.float64), full_matrices=False)
        expected = (u * quintic(s)) @ v * 0.2 * np.sqrt(max(g.shape))
        np.testing.assert_allclose(cut(moved[name]), expected, atol=1e-4, err_msg=name)

    check("dense/kernel", lambda x: x)
    check("conv/kernel", lambda x: x.reshape(36, 6))
    for i in range(2):
        check("blocks/kernel", lambda x, i=i: x[i])
        check("blocks/attention/out/kernel", lambda x, i=i: x[i].reshape(6, 6))
        for j in range(3):
            check("blocks/attention/qkv/kernel", lambda x, i=i, j=j: x[i, :, j].reshape(6, 6))
    np.testing.assert_allclose(np.abs(moved["blocks/bias"]), 1.0, rtol=1e-5)  # Adam's first step


def test_muon_takes_hidden_kernels_and_adamw_the_rest():
    taken = {
        "backbone/stem/kernel",
        "backbone/blocks/mlp/dense1/kernel",
        "encoder/blocks/out/kernel",
    }
    left = {"head/logits/kernel", "model/head/logits/kernel", "backbone/patch_embed/project/kernel"}
    left |= {"embed/embedding", "backbone/blocks/norm1/scale", "backbone/position_embed/positions"}
    chosen = tree.select(dict.fromkeys(taken | left, 0), MATRICES)
    assert {n for n, c in chosen.items() if c} == taken


def test_adamw_beside_muon_has_its_share_of_the_rate_and_the_decay():
    params = {"head": {"logits": {"kernel": jnp.ones((2, 2))}}, "bias": jnp.ones(2)}
    gradient = jax.tree.map(jnp.ones_like, params)
    for args, rate in [({}, 0.015), ({"scale": "match_rms_adamw"}, 1.0), ({"adamw": 0.5}, 0.5)]:
        tx = muon(0.1, weight_decay=0.2, **args)
        updates, _ = tx.update(gradient, tx.init(params), params)
        np.testing.assert_allclose(updates["bias"], -0.1 * rate, rtol=1e-5)
        kernel = updates["head"]["logits"]["kernel"]
        np.testing.assert_allclose(kernel, -0.1 * rate * 1.2, rtol=1e-5)


@pytest.mark.parametrize("argument", ["matrices", "stacked", "decay"])
def test_a_mistaken_pattern_is_named(argument):
    with pytest.raises(UserError, match=f"{argument}='wide' matches no parameter"):
        tx = muon(0.1, **{argument: "wide"})
        tx.update(waves(0.0), tx.init(waves(7.0)), waves(7.0))


# Layers and heads


def test_axes_are_those_of_the_layers_that_there_are():
    module = MultiHeadAttention(heads=2)
    x = jnp.zeros((1, 3, 6))
    of_self = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    of_source = jax.eval_shape(module.init, jax.random.key(0), x, x)["params"]
    shapes = tree.flatten({"attention": of_self, "cross_attention": of_source})
    sizes = {}
    for name, leaf in shapes.items():
        if name.endswith("kernel"):
            axes = axes_of(name, leaf.ndim, stacked=False)
            whole = jnp.arange(leaf.size).reshape(leaf.shape)
            sizes[name] = split(whole, axes).shape
            np.testing.assert_array_equal(join(split(whole, axes), axes, leaf.shape), whole)
    assert sizes == {
        "attention/qkv/kernel": (3, 6, 6),
        "attention/out/kernel": (1, 6, 6),
        "cross_attention/query/kernel": (1, 6, 6),
        "cross_attention/key_value/kernel": (2, 6, 6),
        "cross_attention/out/kernel": (1, 6, 6),
    }
    conv = nn.Conv(5, (3, 3)).init(jax.random.key(0), jnp.zeros((1, 4, 4, 2)))["params"]["kernel"]
    assert split(conv, axes_of("conv/kernel", 4, stacked=False)).shape == (1, 3, 3, 2, 5)
