"""Metric learning: losses of embeddings by loops and by Optax, the objective, the added penalty."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads
from sklearn.neighbors import KNeighborsClassifier

from jaxdl import models, registry
from jaxdl.config import part
from jaxdl.errors import UserError
from jaxdl.losses.contrastive import contrastive
from jaxdl.losses.info_nce import info_nce
from jaxdl.losses.triplet import triplet
from jaxdl.objectives.base import Model
from jaxdl.objectives.embedding import embedding, embedding_loss, nearest_neighbour
from jaxdl.objectives.supervised import supervised
from jaxdl.train.gradients import accumulate_grads

KEY = jax.random.key(0)
RANDOM = np.random.default_rng(3)
X = RANDOM.standard_normal((8, 5)).astype(np.float32)
LABEL = np.array([0, 1, 2, 0, 1, 0, 3, 1], np.int32)  # 2 and 3 have no partner
WEIGHT = np.array([1, 1, 1, 1, 1, 1, 1, 0], np.float32)

LOSSES = {e.name: {} for e in registry.entries("embedding_losses")}
VARIANTS = [(name, {}) for name in LOSSES] + [
    ("triplet", {"mining": "all"}),
    ("triplet", {"mining": "hard", "distance": "euclidean"}),
    ("triplet", {"mining": "hard", "margin": None}),
]
every = pytest.mark.parametrize(
    ("name", "args"), VARIANTS, ids=[n + "".join(f"-{v}" for v in a.values()) for n, a in VARIANTS]
)


def bound(name, args):
    return registry.bind("embedding_losses", part(name, **args))


def run(loss, *args, **kwargs):
    return np.asarray(jax.jit(functools.partial(loss, **kwargs))(*args))


@every
def test_one_finite_float32_number_an_anchor(name, args):
    loss = bound(name, args)
    both = jax.jit(lambda x, y, w: (loss(x, y, w), jax.grad(lambda x: loss(x, y, w).sum())(x)))
    twins = np.repeat(X[:1], 8, axis=0)
    for x in (X, X.astype(jnp.bfloat16), 1e4 * X, 0 * X, twins):
        for label in (LABEL, 0 * LABEL, np.arange(8, dtype=np.int32)):
            for weight in (WEIGHT, 0 * WEIGHT):
                values, slope = both(x, label, weight)
                assert values.shape == (8,) and values.dtype == jnp.float32
                assert np.all(np.isfinite(values)) and np.all(values >= 0)
                assert np.all(np.isfinite(np.asarray(slope, np.float32)))
                assert np.all(values[weight == 0] == 0)


@every
def test_gradients_and_vmap(name, args):
    loss = jax.jit(bound(name, args))
    smooth = {"atol": 2e-2, "rtol": 2e-2, "eps": 1e-3}
    check_grads(lambda x: loss(x, LABEL, WEIGHT), (X,), order=1, modes=["rev"], **smooth)
    two = np.stack([X, X[::-1]])
    alone = jax.jit(jax.vmap(bound(name, args), (0, None, None)))(two, LABEL, WEIGHT)
    for values, x in zip(alone, two, strict=True):
        np.testing.assert_allclose(values, loss(x, LABEL, WEIGHT), rtol=1e-5, atol=1e-6)


@every
def test_the_order_of_the_batch_and_the_names_of_classes_are_nothing(name, args):
    loss, order = jax.jit(bound(name, args)), RANDOM.permutation(8)
    values = loss(X, LABEL, WEIGHT)
    moved = loss(X[order], LABEL[order], WEIGHT[order])
    np.testing.assert_allclose(moved, values[order], rtol=1e-4, atol=1e-6)
    renamed = np.array([7, 5, 6, 2], np.int32)[LABEL]
    np.testing.assert_array_equal(loss(X, renamed, WEIGHT), values)


@every
def test_what_weighs_nothing_never_matters(name, args):
    loss = bound(name, args)
    both = jax.jit(jax.value_and_grad(lambda x, y, w: loss(x, y, w).sum()))
    value, slope = both(X, LABEL, WEIGHT)
    without = jax.jit(jax.value_and_grad(lambda x, y, w: loss(x, y, w).sum()))(
        X[:7], LABEL[:7], WEIGHT[:7]
    )
    np.testing.assert_allclose(value, without[0], rtol=1e-5)
    np.testing.assert_allclose(slope[:7], without[1], rtol=1e-4, atol=1e-6)
    broken = np.where(WEIGHT[:, None] > 0, X, np.nan)
    other, other_slope = both(broken, np.where(WEIGHT > 0, LABEL, 99).astype(np.int32), WEIGHT)
    assert other == value
    np.testing.assert_array_equal(other_slope, slope)
    assert np.all(slope[7] == 0)


@every
def test_eight_devices_give_what_one_gives(name, args):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    loss = jax.jit(bound(name, args))
    spread = [jax.device_put(a, NamedSharding(mesh, P("data"))) for a in (X, LABEL, WEIGHT)]
    np.testing.assert_allclose(loss(*spread), loss(X, LABEL, WEIGHT), rtol=1e-5, atol=1e-6)


def others(i):
    """Indices of the valid examples of i's class, and of other classes."""
    rest = [j for j in range(8) if j != i and WEIGHT[j] and WEIGHT[i]]
    return [j for j in rest if LABEL[j] == LABEL[i]], [j for j in rest if LABEL[j] != LABEL[i]]


def apart(i, j, squared):
    d = ((X[i].astype(np.float64) - X[j]) ** 2).sum()
    return d if squared else np.sqrt(d)


@pytest.mark.parametrize("margin", [1.0, 3.0])
def test_contrastive_by_loops(margin):
    expected = []
    for i in range(8):
        same, other = others(i)
        pairs = [apart(i, j, True) / 2 for j in same]
        pairs += [max(0.0, margin - apart(i, j, False)) ** 2 / 2 for j in other]
        expected.append(np.mean(pairs) if pairs else 0.0)
    values = run(contrastive, X, LABEL, WEIGHT, margin=margin)
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-7)


def test_contrastive_by_hand():
    # Hadsell's figure: alike d^2 / 2, unlike (margin - d)^2 / 2 inside the margin and 0 outside.
    x = jnp.asarray([[0.0, 0.0], [3.0, 4.0], [0.0, 0.5]])
    ones = jnp.ones(3)
    alike = run(contrastive, x, jnp.zeros(3, jnp.int32), ones)
    third = 3.0**2 + 3.5**2
    np.testing.assert_allclose(
        alike, [(25 + 0.25) / 4, (25 + third) / 4, (0.25 + third) / 4], rtol=1e-6
    )
    unlike = run(contrastive, x, jnp.arange(3), ones)
    np.testing.assert_allclose(unlike, [0.5**2 / 4, 0.0, 0.5**2 / 4], rtol=1e-5)


@pytest.mark.parametrize("margin", [0.2, 2.0, None])
@pytest.mark.parametrize("distance", ["squared", "euclidean"])
@pytest.mark.parametrize("mining", ["all", "hard", "semi_hard"])
def test_triplet_by_loops(mining, distance, margin):
    def loss(p, n):
        return np.log1p(np.exp(p - n)) if margin is None else max(0.0, p - n + margin)

    expected = []
    for i in range(8):
        same, other = others(i)
        p = [apart(i, j, distance == "squared") for j in same]
        n = [apart(i, j, distance == "squared") for j in other]
        if not p or not n:
            found = [0.0]
        elif mining == "all":
            found = [loss(a, b) for a in p for b in n]
        elif mining == "hard":
            found = [loss(max(p), min(n))]
        else:
            found = [loss(a, min([b for b in n if b > a], default=max(n))) for a in p]
        expected.append(np.mean(found))
    values = run(triplet, X, LABEL, WEIGHT, mining=mining, distance=distance, margin=margin)
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)
    assert values[2] == values[6] == 0 and np.any(values > 0)


def test_the_negative_that_is_mined_by_hand():
    # On a line: anchor 0, positive 2; negatives 1 (too near), 3 (semi-hard), 9 (easy).
    x = jnp.asarray([[0.0], [2.0], [1.0], [3.0], [9.0]])
    label, ones = jnp.asarray([0, 0, 1, 2, 3]), jnp.ones(5)
    first = lambda **args: run(triplet, x, label, ones, margin=6.0, **args)[0]
    assert first(mining="hard") == 4 - 1 + 6
    assert first(mining="semi_hard") == 4 - 9 + 6
    assert first(mining="all") == (9 + 1 + 0) / 3
    # Without 3 and 9 no negative is farther than the positive: the farthest one is taken.
    near = run(triplet, x, label, jnp.asarray([1.0, 1, 1, 0, 0]), margin=6.0, mining="semi_hard")
    assert near[0] == 4 - 1 + 6


def test_triplets_of_optax():
    # Three rows are one triplet for anchor 0; Optax adds 1e-6 to each difference.
    for rows in ([0, 3, 1], [1, 4, 2], [3, 5, 6]):
        a, p, n = X[rows]
        theirs = run(optax.losses.triplet_margin_loss, a, p, n, margin=1.0)
        ours = run(
            triplet, X[rows], np.array([0, 0, 1]), np.ones(3), margin=1.0, distance="euclidean"
        )
        np.testing.assert_allclose(ours[0], theirs, rtol=1e-4)


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_info_nce_of_pairs_is_the_nt_xent_of_optax(temperature):
    label = np.array([0, 1, 2, 3, 0, 1, 2, 3])
    theirs = run(optax.losses.ntxent, X, label, temperature)
    ours = run(info_nce, X, label, np.ones(8), temperature=temperature)
    np.testing.assert_allclose(ours.mean(), theirs, rtol=1e-5)


def test_info_nce_of_several_positives_by_loops():
    unit = X.astype(np.float64) / np.linalg.norm(X, axis=1, keepdims=True)
    s, expected = unit @ unit.T / 0.1, []
    for i in range(8):
        same, other = others(i)
        z = np.exp(s[i, same + other]).sum()
        expected.append(np.mean([np.log(z) - s[i, j] for j in same]) if same else 0.0)
    np.testing.assert_allclose(run(info_nce, X, LABEL, WEIGHT), expected, rtol=1e-5, atol=1e-6)


def test_only_info_nce_sees_directions_alone():
    longer = X * np.arange(1, 9, dtype=np.float32)[:, None]
    run_both = lambda loss: [run(loss, x, LABEL, WEIGHT) for x in (X, longer)]
    np.testing.assert_allclose(*run_both(info_nce), rtol=1e-4, atol=1e-6)
    assert not np.allclose(*run_both(triplet))


def test_nearest_neighbour_is_that_of_scikit_learn():
    x = X + 1.5 * np.eye(5, dtype=np.float32)[LABEL]
    total, count = jax.jit(nearest_neighbour)(x, LABEL, WEIGHT)
    hits = queries = 0
    for i in range(7):
        rest = [j for j in range(7) if j != i]
        if LABEL[i] in LABEL[rest]:
            knn = KNeighborsClassifier(1).fit(x[rest], LABEL[rest])
            hits += knn.predict(x[i : i + 1])[0] == LABEL[i]
            queries += 1
    assert 0 < hits < queries == 5
    assert (total, count) == (hits, queries)


# The objective and the penalty


def model():
    """One matrix: image (b, h, w, 5) -> a map of features (b, h, w, 5) and logits of their mean."""

    def train(params, variables, batch, key):
        features = batch["image"] @ params["backbone"]
        logits = jnp.mean(features, axis=(1, 2)) @ params["head"]
        return {"features": features, "logits": logits}, variables

    return SimpleNamespace(init=None, predict=None, train=train)


PARAMS = {
    "backbone": jnp.asarray(RANDOM.standard_normal((5, 5)), jnp.float32),
    "head": jnp.asarray(RANDOM.standard_normal((5, 4)), jnp.float32),
}
BATCH = {
    "image": jnp.asarray(RANDOM.standard_normal((8, 2, 3, 5)), jnp.float32),
    "label": jnp.asarray(LABEL),
    "mask": jnp.asarray(WEIGHT),
}


def features_of(batch):
    x = np.asarray(batch["image"], np.float64).mean(axis=(1, 2)) @ np.asarray(PARAMS["backbone"])
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def test_the_objective_is_the_mean_of_its_loss():
    goal = embedding(model(), loss=info_nce)
    taken = jax.jit(jax.value_and_grad(goal.loss, has_aux=True))
    (loss, aux), slope = taken(PARAMS, {}, BATCH, KEY)
    expected = run(info_nce, features_of(BATCH), LABEL, WEIGHT).sum() / 7
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    total, count = aux.metrics["loss"]
    assert count == 7
    np.testing.assert_allclose(total / count, expected, rtol=1e-5)
    assert aux.metrics["nearest_neighbour"][1] == 5
    assert np.all(slope["head"] == 0) and np.any(slope["backbone"] != 0)
    # Examples that are mixtures count for nothing: as if they were padding.
    mixed = {**BATCH, "lam": jnp.asarray([1, 0.3, 1, 1, 1, 0, 1, 1.0]), "mixed_label": 0 * LABEL}
    masked = {**BATCH, "mask": BATCH["mask"] * jnp.asarray([1.0, 0, 1, 1, 1, 0, 1, 1])}
    assert taken(PARAMS, {}, mixed, KEY)[0][0] == taken(PARAMS, {}, masked, KEY)[0][0] != loss


def test_lengths_count_where_features_are_not_scaled():
    scaled, plain = (embedding(model(), normalize=n, loss=contrastive) for n in (True, False))
    twice = {**BATCH, "image": 2 * BATCH["image"]}
    value = lambda goal, batch: jax.jit(goal.loss)(PARAMS, {}, batch, KEY)[0]
    np.testing.assert_allclose(value(scaled, BATCH), value(scaled, twice), rtol=1e-5)
    assert value(plain, twice) > 1.5 * value(plain, BATCH)


def test_the_penalty_is_added_to_any_objective():
    inner = supervised(model())
    goal = embedding_loss(inner, loss=triplet, weight=0.5)
    plain, before = jax.jit(inner.loss)(PARAMS, {}, BATCH, KEY)
    loss, aux = jax.jit(goal.loss)(PARAMS, {}, BATCH, KEY)
    penalty = run(triplet, features_of(BATCH), LABEL, WEIGHT).sum() / 7
    assert penalty > 0.01
    np.testing.assert_allclose(loss, plain + 0.5 * penalty, rtol=1e-5)
    for name, value in {"loss": loss, "embedding_loss": penalty}.items():
        total, count = aux.metrics[name]
        assert count == 7
        np.testing.assert_allclose(total / count, value, rtol=1e-5)
    assert aux.metrics["accuracy"] == before.metrics["accuracy"]
    np.testing.assert_allclose(sum(aux.terms.values()), loss, rtol=1e-6)
    assert (goal.init, goal.predict) == (inner.init, inner.predict)


def test_pairs_are_made_within_a_micro_batch():
    goal = embedding(model(), loss=info_nce)
    (loss, _), _ = jax.jit(accumulate_grads(2)(goal.loss))(PARAMS, {}, BATCH, KEY)
    x, halves = features_of(BATCH), [np.s_[0::2], np.s_[1::2]]
    parts = [run(info_nce, x[h], LABEL[h], WEIGHT[h]).sum() for h in halves]
    np.testing.assert_allclose(loss, sum(parts) / 7, rtol=1e-5)


def test_every_loss_learns_from_a_config():
    for name in LOSSES:
        net = Model(models.create("mlp", 4), jnp.dtype("float32"))
        goal = registry.bind("objectives", part("embedding", loss=part(name)))(net)
        params, variables = jax.eval_shape(goal.init, KEY, BATCH)
        loss, aux = jax.eval_shape(goal.loss, params, variables, BATCH, KEY)
        assert loss.shape == () and set(aux.metrics) == {"loss", "nearest_neighbour"}


def test_features_must_be_of_examples():
    net = Model(models.create("unet", 4, width=2, depth=1), jnp.dtype("float32"))
    goal = embedding_loss(embedding(net))
    outputs = {"features": jnp.zeros((2, 3, 4)), "logits": jnp.zeros((2, 3, 4))}
    tokens = embedding(SimpleNamespace(init=None, predict=None, train=lambda p, *_: (outputs, p)))
    with pytest.raises(UserError, match="no vector an example"):
        tokens.loss({}, {}, {"label": jnp.zeros(2, jnp.int32)}, KEY)
    assert callable(goal.loss)
