"""Optimizers against PyTorch's figures and formulas by hand, and one battery over all of them."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from trajectories import SHAPES, by_hand, falling, trajectory, wave, waves

from jaxdl import registry, tree
from jaxdl.config import part
from jaxdl.errors import UserError
from jaxdl.optim.adafactor import adafactor
from jaxdl.optim.adagrad import adagrad
from jaxdl.optim.adam import adam
from jaxdl.optim.adamw import adamw
from jaxdl.optim.arguments import DECAYED, decayed
from jaxdl.optim.lamb import lamb
from jaxdl.optim.lars import lars
from jaxdl.optim.lion import lion
from jaxdl.optim.muon import muon
from jaxdl.optim.nadam import nadam
from jaxdl.optim.prodigy import prodigy
from jaxdl.optim.radam import radam
from jaxdl.optim.rmsprop import rmsprop
from jaxdl.optim.sam import sam
from jaxdl.optim.schedule_free import schedule_free_adamw, schedule_free_sgd
from jaxdl.optim.sgd import sgd
from jaxdl.optim.soap import soap

# Against PyTorch

TORCH = {
    "sgd": sgd(falling(0.1), momentum=0),
    "sgd_momentum": sgd(falling(0.1), weight_decay=0.1),
    "sgd_nesterov": sgd(falling(0.1), nesterov=True, weight_decay=0.1),
    "adam": adam(falling(0.01), b1=0.8, b2=0.95, weight_decay=0.1),
    "adamw": adamw(falling(0.01), weight_decay=0.5),
    "rmsprop": rmsprop(falling(0.01), eps=0.01, weight_decay=0.1),
    "rmsprop_momentum": rmsprop(0.01, momentum=0.9),
    "adagrad": adagrad(falling(0.1), weight_decay=0.1),
    "adagrad_eps": adagrad(falling(0.1), eps=0.1),
    "adafactor": adafactor(falling(0.05), min_dim_size_to_factor=2, weight_decay=0.5),
    "nadam": nadam(falling(0.01), weight_decay=0.1),
    "nadam_psi": nadam(falling(0.01), b1=0.8, b2=0.95, momentum_decay=0.5),
    "radam": radam(falling(0.01), weight_decay=0.1),
    "radam_b2": radam(falling(0.01), b1=0.8, b2=0.9, eps=1e-3),
    "muon": muon(falling(0.02), weight_decay=0.5),
    "muon_match_rms_adamw": muon(
        falling(0.01), momentum=0.8, scale="match_rms_adamw", weight_decay=0.1
    ),
}
REFERENCE = json.loads((Path(__file__).parent / "references" / "optim_torch.json").read_text())


def test_every_reference_is_compared():
    assert set(TORCH) == set(REFERENCE)


@pytest.mark.parametrize("case", TORCH)
def test_equals_torch(case):
    for step, params in enumerate(trajectory(TORCH[case])):
        for name, leaf in params.items():
            flat = leaf.reshape(-1)
            figures = [flat[0], flat[flat.size // 2], flat[-1], np.sum(flat * flat)]
            np.testing.assert_allclose(
                figures, REFERENCE[case][step][name], rtol=3e-6, atol=3e-6, err_msg=f"{step} {name}"
            )


# Against formulas by hand


def lion_rule(name, w, g, memory, step):
    m = memory.get("m", 0.0)
    u = np.sign(0.9 * m + 0.1 * g) + (0.5 * w if name.endswith("kernel") else 0)
    memory["m"] = 0.99 * m + 0.01 * g
    return w - 0.01 * (1 - step / 20) * u


def tensorflow_rmsprop_rule(name, w, g, memory, step):
    g = g + (0.1 * w if name.endswith("kernel") else 0)
    memory["v"] = 0.9 * memory.get("v", 1.0) + 0.1 * g**2
    u = g / np.sqrt(memory["v"] + 1e-3)
    memory["d"] = 0.9 * memory.get("d", 0.0) + 0.01 * (1 - step / 20) * u
    return w - memory["d"]


def adafactor_rule(name, w, g, memory, step):
    beta2, square = 1 - (step + 1) ** -0.8, g**2 + 1e-30
    if name == "wide/kernel":  # the only leaf with two axes of 128 or more
        row = memory["r"] = beta2 * memory.get("r", 0.0) + (1 - beta2) * square.mean(1)
        column = memory["c"] = beta2 * memory.get("c", 0.0) + (1 - beta2) * square.mean(0)
        v = np.outer(row, column) / row.mean()
    else:
        v = memory["v"] = beta2 * memory.get("v", 0.0) + (1 - beta2) * square
    u = g / np.sqrt(v)
    u = u / max(1, np.sqrt(np.mean(u**2)))
    return w - 0.05 * (1 - step / 20) * max(1e-3, np.sqrt(np.mean(w**2))) * u


RULES = {
    "lion": (lion(falling(0.01), weight_decay=0.5), lion_rule),
    "rmsprop of TensorFlow": (
        rmsprop(
            falling(0.01), momentum=0.9, eps=1e-3, eps_in_sqrt=True, initial=1.0, weight_decay=0.1
        ),
        tensorflow_rmsprop_rule,
    ),
    "adafactor": (adafactor(falling(0.05)), adafactor_rule),
}


@pytest.mark.parametrize("case", RULES)
def test_equals_formula(case):
    tx, rule = RULES[case]
    for found, expected in zip(trajectory(tx), by_hand(rule), strict=True):
        for name, leaf in expected.items():
            np.testing.assert_allclose(found[name], leaf, rtol=3e-6, atol=3e-6, err_msg=name)


def test_adafactor_keeps_rows_and_columns_of_wide_leaves_only():
    sizes = tree.flatten(jax.tree.map(jnp.size, adafactor(0.1).init(waves(7.0))[0]._asdict()))
    assert (sizes["v_row/wide/kernel"], sizes["v_col/wide/kernel"]) == (130, 140)
    assert sizes["v/wide/kernel"] == 1
    assert sizes["v/conv/kernel"] == 3 * 3 * 4 * 6


# Weight decay


def test_default_mask_spares_biases_and_norms():
    params = {"kernel": 0, "conv": {"kernel": 0, "bias": 0}, "norm": {"scale": 0, "bias": 0}}
    params["embed"] = {"embedding": 0, "pos_embedding": 0}
    chosen = tree.flatten(decayed(DECAYED)(params))
    assert {n for n, c in chosen.items() if c} == {"kernel", "conv/kernel", "embed/embedding"}


DECAYING = [sgd, adam, adamw, lion, rmsprop, adagrad, adafactor, nadam, radam, lamb, lars, muon]
DECAYING += [soap, prodigy, schedule_free_sgd, schedule_free_adamw]


@pytest.mark.parametrize("make", DECAYING)
def test_decay_shrinks_exactly_the_named_leaves(make):
    params = waves(7.0)
    nothing = jax.tree.map(jnp.zeros_like, params)
    tx = make(0.1, weight_decay=0.1, decay="wide/.*")
    updates, _ = jax.jit(tx.update)(nothing, tx.init(params), params)
    moved = {name: bool(jnp.any(u != 0)) for name, u in tree.flatten(updates).items()}
    assert moved == {name: name == "wide/kernel" for name in SHAPES}
    assert jnp.all(updates["wide"]["kernel"] * params["wide"]["kernel"] <= 0)


@pytest.mark.parametrize(
    ("pattern", "message"), [("(", "not a regular expression"), ("wide", "'wide/kernel'")]
)
def test_a_mistaken_decay_is_named(pattern, message):
    with pytest.raises(UserError, match=message):
        adamw(0.1, decay=pattern).init(waves(7.0))


def test_mistakes_in_a_config_are_named():
    for args, message in [
        ({"learning_rate": -1.0}, "learning_rate"),
        ({}, "needs the argument 'learning_rate'"),
        ({"learning_rate": 1.0, "b1": 1.0}, "b1"),
    ]:
        with pytest.raises(UserError, match=message):
            registry.bind("optimizers", part("adamw", **args))
    with pytest.raises(UserError, match="momentum"):
        sgd(0.1, momentum=0, nesterov=True)


def test_a_config_gives_the_peak_and_the_program_the_schedule():
    build = registry.bind("optimizers", part("sgd", learning_rate=0.5, momentum=0))
    tx = build(learning_rate=lambda step: build.keywords["learning_rate"] * 0.5**step)
    one = {"w": jnp.ones(())}
    updates, state = tx.update(one, tx.init(one), one)
    assert updates["w"] == -0.5
    assert tx.update(one, state, one)[0]["w"] == -0.25


def test_decay_works_where_some_leaves_are_frozen():
    params = small()
    trained = {"layer": {"kernel": False, "bias": True}}
    tx = optax.masked(adamw(0.1, decay=".*bias"), trained)
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    np.testing.assert_allclose(updates["layer"]["bias"], -0.1, rtol=1e-5)
    assert jnp.all(updates["layer"]["kernel"] == 1)


# Battery over the registry


OPTIMIZERS = {e.name: e for e in registry.entries("optimizers")}
WRAPPERS = {"alone": lambda tx: tx} | {
    e.name: registry.bind("wrappers", part(e.name), to_steps=lambda duration: 10)
    for e in registry.entries("wrappers")
}
WRAPPERS["asam"] = functools.partial(sam, rho=0.5, adaptive=True)
# Prodigy finds its own rate, and LARS wants 1000 times another's where its layers are adapted.
DESCENDING = {"prodigy": {"peak": 1.0}, "lars": {"trust": 0.1}}
every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)
every_wrapper = pytest.mark.parametrize("wrapper", WRAPPERS)


def slope(params):
    """Gradient of sum(curvature * (w - 1)^2) / 2, a bowl that is ten times steeper in places."""
    return jax.tree.map(lambda w: (1 + 9 * (w > 0.5)).astype(w.dtype) * (w - 1), params)


def height(params):
    leaves = jax.tree.leaves(params)
    return sum(float(jnp.sum((1 + 9 * (w > 0.5)) * (w - 1) ** 2)) / 2 for w in leaves)


def small(dtype=jnp.float32):
    full = {"kernel": wave((4, 3), 1.0), "bias": np.zeros(3)}
    return {"layer": jax.tree.map(lambda x: jnp.asarray(x, dtype), full)}


def finite(values):
    return all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(values))


@every_wrapper
@every_optimizer
def test_descends_without_a_second_trace(name, wrapper):
    own = dict(DESCENDING.get(name, {}))
    peak = own.pop("peak", 0.05)
    tx = WRAPPERS[wrapper](OPTIMIZERS[name].build(lambda step: peak * (1 - step / 200), **own))
    traces = []

    @jax.jit
    def update(params, state):
        traces.append(1)
        updates, state = tx.update(slope(params), state, params, value=0.0, grad_fn=slope)
        return optax.apply_updates(params, updates), state, updates

    params = small()
    state, before = tx.init(params), height(params)
    for _ in range(100):
        params, state, updates = update(params, state)
        assert finite(updates)
    assert finite(state)
    assert len(traces) == 1
    assert height(params) < 0.8 * before


@every_wrapper
@every_optimizer
def test_zero_gradients_are_harmless(name, wrapper):
    tx = WRAPPERS[wrapper](OPTIMIZERS[name].build(0.1))
    params = small()
    state = tx.init(params)

    def flat(params):  # not a constant: a perturbation that is not a number has to show
        return jax.tree.map(lambda w: 0 * w, params)

    for _ in range(2):
        updates, state = tx.update(flat(params), state, params, value=0.0, grad_fn=flat)
        assert finite((updates, state))
        assert jnp.all(updates["layer"]["bias"] == 0)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@every_wrapper
@every_optimizer
def test_keeps_types(name, wrapper, dtype):
    tx = WRAPPERS[wrapper](OPTIMIZERS[name].build(lambda step: 0.1 / (1 + step)))

    def types(values):
        return jax.tree.map(lambda x: (x.shape, x.dtype), values)

    params = small(dtype)
    start = tx.init(params)
    updates, state = jax.eval_shape(
        lambda p, s: tx.update(slope(p), s, p, value=0.0, grad_fn=slope), params, start
    )
    assert types(updates) == types(params)
    assert types(state) == types(start)


@pytest.mark.parametrize("kind", ["optimizers", "wrappers", "schedules"])
def test_every_entry_names_its_paper(kind):
    for entry in registry.entries(kind):
        assert entry.paper.startswith("https://"), entry.name
        assert entry.summary.endswith((".", ")", ").")), entry.name
