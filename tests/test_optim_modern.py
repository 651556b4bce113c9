"""LAMB, LARS, Prodigy, schedule-free against the authors' rules by hand; where states live."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
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

from jaxdl import registry, tree
from jaxdl.config import part
from jaxdl.optim.chain import chain
from jaxdl.optim.lamb import lamb
from jaxdl.optim.lars import lars
from jaxdl.optim.prodigy import prodigy
from jaxdl.optim.sam import sam
from jaxdl.optim.schedule_free import evaluation_params, schedule_free_adamw, schedule_free_sgd
from jaxdl.optim.schedules import constant

# The authors' rules


def each_layer(rule, name, w, g):
    """A rule for one layer, on each of those that a leaf holds."""
    if name.startswith("blocks"):
        return np.stack([rule(w[i], g[i]) for i in range(len(w))])
    return rule(w, g)


def lamb_rule(name, w, g, memory, step):
    m = memory["m"] = 0.9 * memory.get("m", 0.0) + 0.1 * g
    v = memory["v"] = 0.99 * memory.get("v", 0.0) + 0.01 * g**2
    r = m / (1 - 0.9 ** (step + 1)) / (np.sqrt(v / (1 - 0.99 ** (step + 1))) + 1e-6)

    def layer(w, r):
        r = r + 0.1 * w
        return w - 0.01 * (1 - step / 20) * np.linalg.norm(w) / np.linalg.norm(r) * r

    return each_layer(layer, name, w, r) if is_kernel(name) else w - 0.01 * (1 - step / 20) * r


def lars_rule(name, w, g, memory, step):
    def local(w, g):
        trust = 0.01 * np.linalg.norm(w) / (np.linalg.norm(g) + 0.1 * np.linalg.norm(w))
        return trust * (g + 0.1 * w)

    u = each_layer(local, name, w, g) if is_kernel(name) else g
    memory["v"] = 0.9 * memory.get("v", 0.0) + 0.5 * (1 - step / 20) * u
    return w - memory["v"]


RULES = {
    "lamb": (lamb(falling(0.01), b2=0.99, weight_decay=0.1), lamb_rule),
    "lars": (lars(falling(0.5), trust=0.01, weight_decay=0.1), lars_rule),
}


@pytest.mark.parametrize("case", RULES)
def test_layers_move_by_their_size(case):
    tx, rule = RULES[case]
    assert_equal(trajectory(tx, shapes=LAYERS), by_hand(rule, shapes=LAYERS))


@pytest.mark.parametrize("make", [lamb, lars])
def test_the_papers_own_algorithm_adapts_every_leaf(make):
    tx = make(0.1, weight_decay=0.0, adapted=".*")
    params = waves(7.0)
    updates, _ = jax.jit(tx.update)(waves(0.0), jax.jit(tx.init)(params), params)
    part_of_size = 0.1 * (1e-3 if make is lars else 1.0)
    for name, u in tree.flatten(updates).items():
        size = np.linalg.norm(tree.flatten(params)[name])
        np.testing.assert_allclose(np.linalg.norm(u), part_of_size * size, rtol=1e-5)


def prodigy_by_hand(steps=30):
    """Algorithm 4 in float64, over all leaves at once, with a distance that does grow."""
    start = {n: wave(s, 7.0).astype(np.float64) for n, s in SHAPES.items()}
    w, zero = dict(start), dict.fromkeys(SHAPES, 0.0)
    m, v, s = dict(zero), dict(zero), dict(zero)
    r, d, b3 = 0.0, 0.01, np.sqrt(0.99)
    for step in range(steps):
        gamma = 1 - step / 40
        g = {n: w[n] - wave(shape, 1.0) for n, shape in SHAPES.items()}
        r = b3 * r + (1 - b3) * gamma * d**2 * sum(np.sum(g[n] * (start[n] - w[n])) for n in g)
        for n in g:
            m[n] = 0.8 * m[n] + 0.2 * d * g[n]
            v[n] = 0.99 * v[n] + 0.01 * d**2 * g[n] ** 2
            s[n] = b3 * s[n] + (1 - b3) * gamma * d**2 * g[n]
            u = m[n] / (np.sqrt(v[n]) + d * 1e-8) + (0.5 * w[n] if is_kernel(n) else 0.0)
            w[n] = w[n] - gamma * d * u
        d = max(d, 2.0 * r / sum(np.abs(x).sum() for x in s.values()))
        yield dict(w), d


def test_prodigy_is_algorithm_4():
    tx = prodigy(
        lambda step: 1 - step / 40, b1=0.8, b2=0.99, start=0.01, factor=2.0, weight_decay=0.5
    )
    params, goal = waves(7.0), waves(1.0)
    state = jax.jit(tx.init)(params)

    @jax.jit
    def step(params, state):
        updates, state = tx.update(optax.tree.sub(params, goal), state, params)
        return optax.apply_updates(params, updates), state

    distances = []
    for expected, d in prodigy_by_hand():
        params, state = step(params, state)
        np.testing.assert_allclose(state.distance, d, rtol=1e-4)
        for name, leaf in tree.flatten(params).items():
            # where a gradient passes through zero, rounding decides on a single entry's step
            error = np.linalg.norm(leaf - expected[name]) / np.linalg.norm(expected[name])
            assert error < 1e-5, name
        distances.append(d)
    assert distances[-1] > 3 * distances[0]


def test_prodigy_needs_no_rate():
    build = registry.bind("optimizers", part("prodigy"))
    tx = build(learning_rate=lambda step: 1.0)
    params, state = {"kernel": jnp.full((3,), 5.0)}, None
    state = tx.init(params)
    step = jax.jit(lambda p, s: tx.update(jax.tree.map(lambda w: w - 1, p), s, p))
    for _ in range(300):
        updates, state = step(params, state)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params["kernel"], 1.0, atol=0.05)
    # a lower bound of the true distance, of which it cannot fall far short after so long
    assert 0.4 < state.distance <= 4 * np.sqrt(3)


def schedule_free_rule(name, w, g, memory, step, adam):
    """Algorithm 1 with x, y and z kept apart, and a warm-up of 4 steps; w is y."""
    x, z = memory.get("x", w), memory.get("z", w)
    gamma = 0.1 * min(1, (step + 1) / 4)
    u = g
    if adam:
        gamma *= np.sqrt(1 - 0.99 ** (step + 1))
        memory["v"] = 0.99 * memory.get("v", 0.0) + 0.01 * g**2
        u = g / (np.sqrt(memory["v"]) + 1e-8)
    z = z - gamma * (u + (0.5 * w if is_kernel(name) else 0.0))
    memory["sum"] = memory.get("sum", 0.0) + gamma**2
    c = gamma**2 / memory["sum"]
    memory["x"], memory["z"] = x, z = (1 - c) * x + c * z, z
    return x if memory.get("evaluate") else 0.8 * x + 0.2 * z


@pytest.mark.parametrize("adam", [False, True])
def test_schedule_free_is_algorithm_1(adam):
    rate = lambda step: 0.1 * constant(10, warmup=4)(step)
    if adam:
        tx = schedule_free_adamw(rate, b1=0.8, b2=0.99, weight_decay=0.5)
    else:
        tx = schedule_free_sgd(rate, momentum=0.8, weight_decay=0.5)
    rule = functools.partial(schedule_free_rule, adam=adam)
    memories = {}

    def averages(name, w, g, memory, step):
        memories[name] = memory
        return rule(name, w, g, memory, step)

    trained = by_hand(averages)
    evaluated = ({n: m["x"] for n, m in memories.items()} for _ in trained)
    assert_equal(trajectory(tx), by_hand(rule))
    assert_equal(trajectory(tx, view=evaluation_params), evaluated, atol=1e-5)


def test_evaluation_params_finds_its_state_wherever_it_stands():
    params = waves(7.0)
    tx = schedule_free_sgd(0.1)
    wrapped = sam(chain(tx, wrappers=[lambda t: optax.chain(optax.clip(1e9), t)]))
    biases = jax.tree.map(lambda name: name.endswith("bias"), tree.names(params))
    labels = jax.tree.map(lambda b: "bias" if b else "rest", biases)
    two = {"bias": schedule_free_sgd(0.1), "rest": schedule_free_sgd(0.1)}

    def run(tx):
        @jax.jit
        def step(params, state, gradient):
            flat = lambda p: gradient
            updates, state = tx.update(gradient, state, params, grad_fn=flat)
            params = optax.apply_updates(params, updates)
            return params, state, evaluation_params(state, params)

        y, state = params, tx.init(params)
        for i in range(3):
            y, state, x = step(y, state, waves(0.5 * i))
        return tree.flatten(y), tree.flatten(x)

    y, x = run(tx)
    assert all(np.abs(x[n] - y[n]).max() > 1e-3 for n in x)
    for other in (wrapped, optax.partition(two, labels)):
        assert_equal(run(other), [y, x])
    masked_y, masked_x = run(optax.masked(tx, biases))
    np.testing.assert_allclose(masked_x["conv/bias"], x["conv/bias"], rtol=1e-6)
    np.testing.assert_array_equal(masked_x["wide/kernel"], masked_y["wide/kernel"])
    plain_y, plain_x = run(optax.sgd(0.1))
    assert_equal([plain_x], [plain_y], rtol=0, atol=0)


# The state


@pytest.mark.parametrize("make", [prodigy, schedule_free_sgd, schedule_free_adamw])
@pytest.mark.parametrize("jitted", [False, True])
def test_no_leaf_of_a_state_is_a_parameter(make, jitted):
    tx, params = make(0.1), waves(7.0)
    leaves = jax.tree.leaves((params, (jax.jit(tx.init) if jitted else tx.init)(params)))
    homes = [x.unsafe_buffer_pointer() for x in leaves]
    assert len(set(homes)) == len(homes)


STATES = ["muon", "soap", "prodigy", "schedule_free_adamw"]


@pytest.mark.parametrize("name", STATES)
def test_the_state_can_be_donated_sharded_and_is_float32(name):
    """Split over 8 devices, the steps are the same."""
    tx = registry.find("optimizers", name).build(0.01)
    # square: where one gradient does not span an axis, rounding chooses SOAP's first basis of it
    start = {"blocks": {"kernel": wave((2, 16, 16), 7.0), "bias": wave((2, 16), 1.0)}}
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Auto,))

    def place(x, spread):
        axis = next((i for i, n in enumerate(x.shape) if n % 8 == 0), None) if spread else None
        return NamedSharding(
            mesh, PartitionSpec(*("fsdp" if i == axis else None for i in range(x.ndim)))
        )

    def run(spread):
        shapes = jax.eval_shape(lambda p: (p, tx.init(p)), start)
        places = jax.tree.map(lambda x: place(x, spread), shapes)

        def step(carry, gradient):
            updates, state = tx.update(gradient, carry[1], carry[0])
            return optax.apply_updates(carry[0], updates), state

        step = jax.jit(step, donate_argnums=0, out_shardings=places)
        params = jax.device_put(start, places[0])
        carry = params, jax.jit(tx.init, out_shardings=places[1])(params)
        for leaf in jax.tree.leaves(carry[1]):
            assert isinstance(leaf, jax.Array) and leaf.dtype in (jnp.float32, jnp.int32)
        for i in range(4):
            carry = step(carry, jax.tree.map(lambda w, i=i: jnp.sin(9 * w + i), start))
        return tree.flatten(jax.tree.map(np.asarray, carry[0]))

    assert_equal([run(True)], [run(False)], rtol=1e-4, atol=1e-5)
