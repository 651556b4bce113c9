"""Center loss: two steps by hand, what it leaves alone, and real networks around it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from zoo import initial

from jaxdl import models, registry
from jaxdl.config import part
from jaxdl.errors import UserError
from jaxdl.objectives.base import Model
from jaxdl.objectives.center import center_loss
from jaxdl.objectives.supervised import supervised
from jaxdl.train.gradients import accumulate_grads
from jaxdl.types import Aux, Objective, mask_of

KEY = jax.random.key(0)
X = np.array([[2.0, 0.0], [4.0, 2.0], [0.0, -2.0], [9.0, 9.0]], np.float32)
LABEL = np.array([0, 0, 2, 1], np.int32)
MASK = np.array([1, 1, 1, 0], np.float32)
BATCH = {"image": jnp.asarray(X), "label": jnp.asarray(LABEL), "mask": jnp.asarray(MASK)}
PARAMS = {"scale": jnp.ones(())}


def plain():
    """Features scale * x, two columns of them; the loss is 3 an example and has no gradient."""

    def loss(params, variables, batch, key):
        assert "batch_stats" in variables
        outputs = {"features": params["scale"] * batch["image"], "logits": jnp.zeros((4, 3))}
        count = mask_of(batch).sum()
        variables = {"batch_stats": variables["batch_stats"] + 1}
        return 3.0 + 0 * params["scale"], Aux(variables, {"loss": (3 * count, count)}, outputs)

    return Objective(
        lambda key, batch: (PARAMS, {"batch_stats": jnp.zeros(())}),
        loss,
        lambda params, variables, batch, key=None: {"logits": variables, "key": key},
    )


def centers_of(variables):
    return variables["extra"]["centers"]


def test_two_steps_by_hand():
    goal = center_loss(plain(), weight=0.1, alpha=0.5)
    params, variables = goal.init(KEY, BATCH)
    np.testing.assert_array_equal(variables["extra"]["centers"], np.zeros((3, 2)))

    taken = jax.jit(jax.value_and_grad(goal.loss, has_aux=True))
    (loss, aux), slope = taken(params, variables, BATCH, KEY)
    # Centres at 0: half the squares are 4/2, 20/2, 4/2; their mean is 14/3.
    np.testing.assert_allclose(loss, 3 + 0.1 * 14 / 3, rtol=1e-6)
    # d/ds of the mean of |s x - c|^2 / 2 at s = 1, c = 0: 28/3
    np.testing.assert_allclose(slope["scale"], 0.1 * 28 / 3, rtol=1e-6)
    # Class 0: sum (x - c) = (6, 2) over 1 + 2; class 2: (0, -2) over 1 + 1; class 1 is padding.
    first = np.array([[1.0, 1 / 3], [0, 0], [0, -0.5]])
    np.testing.assert_allclose(aux.variables["extra"]["centers"], first, rtol=1e-6)
    assert aux.variables["batch_stats"] == 1

    (loss, aux), _ = taken(params, aux.variables, BATCH, KEY)
    gaps = X[:3] - first[LABEL[:3]]
    np.testing.assert_allclose(loss, 3 + 0.1 * (gaps**2).sum() / 2 / 3, rtol=1e-6)
    second = first.copy()
    second[0] += 0.5 * (gaps[0] + gaps[1]) / 3
    second[2] += 0.5 * gaps[2] / 2
    np.testing.assert_allclose(aux.variables["extra"]["centers"], second, rtol=1e-6)


def test_what_is_reported_is_what_is_minimised():
    goal = center_loss(plain(), weight=0.1)
    loss, aux = jax.jit(goal.loss)(*goal.init(KEY, BATCH), BATCH, KEY)
    total, count = aux.metrics["loss"]
    assert count == 3
    np.testing.assert_allclose(total / count, loss, rtol=1e-6)
    np.testing.assert_allclose(aux.metrics["center_loss"], (14, 3), rtol=1e-6)
    np.testing.assert_allclose(sum(aux.terms.values()), loss, rtol=1e-6)


def test_centres_stay_where_nothing_pulls():
    still = center_loss(plain(), alpha=0.0)
    params, variables = still.init(KEY, BATCH)
    _, aux = jax.jit(still.loss)(params, variables, BATCH, KEY)
    np.testing.assert_array_equal(aux.variables["extra"]["centers"], 0)
    # Padding that is NaN, and a batch of nothing else.
    goal = center_loss(plain())
    broken = {**BATCH, "image": jnp.asarray(np.where(MASK[:, None] > 0, X, np.nan))}
    taken = jax.jit(jax.value_and_grad(goal.loss, has_aux=True))
    (loss, aux), _ = taken(params, variables, BATCH, KEY)
    (other, also), _ = taken(params, variables, broken, KEY)
    assert loss == other
    np.testing.assert_array_equal(
        aux.variables["extra"]["centers"], also.variables["extra"]["centers"]
    )
    (nothing, aux), slope = taken(params, variables, {**BATCH, "mask": 0 * BATCH["mask"]}, KEY)
    assert nothing == 3 and slope["scale"] == 0 and aux.metrics["center_loss"] == (0, 0)
    np.testing.assert_array_equal(aux.variables["extra"]["centers"], 0)


def test_mixtures_have_no_centre():
    goal = center_loss(plain())
    loss = jax.jit(goal.loss)
    params, variables = goal.init(KEY, BATCH)
    mixed = {**BATCH, "mixed_label": BATCH["label"], "lam": jnp.asarray([1.0, 0.4, 1.0, 1.0])}
    value, aux = loss(params, variables, mixed, KEY)
    # The second example is out: halves of squares 4/2 and 4/2 are left.
    np.testing.assert_allclose(value, 3 + 0.003 * 2, rtol=1e-6)
    np.testing.assert_allclose(aux.variables["extra"]["centers"][0], 0.5 * X[0] / 2, rtol=1e-6)
    none = {**mixed, "lam": jnp.full(4, 0.4)}
    value, aux = loss(params, variables, none, KEY)
    assert value == 3 and aux.metrics["center_loss"] == (0, 0)


def test_predictions_are_those_of_the_inner_objective():
    goal = center_loss(plain())
    params, variables = goal.init(KEY, BATCH)
    outputs = goal.predict(params, variables, BATCH, KEY)
    assert outputs["logits"] is variables and outputs["key"] is KEY


def network(name="resnet18", **args):
    module = models.create(name, 4, **args)
    return center_loss(supervised(Model(module, jnp.dtype("bfloat16"))), weight=0.01)


def test_sizes_come_from_the_outputs():
    batch = {"image": jnp.zeros((2, 32, 32, 3)), "label": jnp.zeros(2, jnp.int32)}
    # Maps of 512 features; vectors of 192.
    for name, width in {"resnet18": 512, "vit_tiny_patch16_224": 192}.items():
        _, variables = jax.eval_shape(network(name).init, KEY, batch)
        assert variables["extra"]["centers"].shape == (4, width)
        assert variables["extra"]["centers"].dtype == jnp.float32


def small(weight):
    """A small network on four classes: (objective, batch)."""
    net = Model(models.create("mlp", 4, widths=(8,)), jnp.dtype("float32"))
    random = np.random.default_rng(0)
    label = np.arange(16, dtype=np.int32) % 4
    image = random.standard_normal((4, 4, 4, 1))[label] + random.standard_normal((16, 4, 4, 1)) / 2
    batch = {"image": jnp.asarray(image, jnp.float32), "label": jnp.asarray(label)}
    return center_loss(supervised(net), weight=weight), batch


def test_features_gather_around_their_centres():
    spread = {}
    for weight in (0.0, 1.0):
        goal, batch = small(weight)
        params, variables = initial(goal.init, KEY, batch)

        @jax.jit
        def step(params, variables, goal=goal, batch=batch):
            (_, aux), slope = jax.value_and_grad(goal.loss, has_aux=True)(
                params, variables, batch, KEY
            )
            params = jax.tree.map(lambda p, g: p - 0.1 * g, params, slope)
            return params, aux.variables, aux

        for _ in range(60):
            params, variables, aux = step(params, variables)
        x = np.asarray(aux.outputs["features"])
        means = np.stack([x[batch["label"] == c].mean(0) for c in range(4)])
        spread[weight] = ((x - means[batch["label"]]) ** 2).sum() / ((x - x.mean(0)) ** 2).sum()
        assert aux.metrics["accuracy"][0] == 16
        # The centres have come to where the features are.
        gap = np.linalg.norm(variables["extra"]["centers"] - means, axis=1)
        assert np.all(gap < 0.1 * np.linalg.norm(means, axis=1))
    assert spread[1.0] < spread[0.0] / 2


def test_eight_devices_give_what_one_gives():
    goal, batch = small(0.1)
    params, variables = initial(goal.init, KEY, batch)
    taken = jax.jit(jax.value_and_grad(goal.loss, has_aux=True))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.device_put(batch, NamedSharding(mesh, P("data")))
    one, eight = (taken(params, variables, b, KEY) for b in (batch, spread))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(eight), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert np.any(one[0][1].variables["extra"]["centers"] != 0)


def test_micro_batches_move_the_centres_one_after_the_other():
    goal, batch = small(0.1)
    params, variables = initial(goal.init, KEY, batch)
    (loss, aux), _ = jax.jit(accumulate_grads(2)(goal.loss))(params, variables, batch, KEY)
    losses = []
    for part_ in (np.s_[0::2], np.s_[1::2]):
        half = {k: v[part_] for k, v in batch.items()}
        value, one = jax.jit(goal.loss)(params, variables, half, KEY)
        variables = one.variables
        losses.append(value)
    np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-5)
    np.testing.assert_allclose(
        aux.variables["extra"]["centers"], variables["extra"]["centers"], rtol=1e-5, atol=1e-7
    )


def test_from_a_config():
    build = registry.bind("regularizers", part("center_loss", weight=0.01, alpha=1.0))
    assert "centers" in jax.eval_shape(build(plain()).init, KEY, BATCH)[1]["extra"]
    with pytest.raises(UserError, match="'alpha': expected `float` <= 1"):
        registry.bind("regularizers", part("center_loss", alpha=1.5))
