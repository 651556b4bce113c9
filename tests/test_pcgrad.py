"""Gradient surgery against projections by hand."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_train import goal_of

from jaxdl import models
from jaxdl.errors import UserError
from jaxdl.train.gradients import accumulate_grads, pcgrad, per_term_grads, project_conflicts
from jaxdl.types import Aux

KEY = jax.random.key(0)


def losses_of(vectors):
    """One linear loss a row of `vectors`, so that the rows are the gradients."""

    def loss(params, variables, batch, key):
        weight = batch["weight"]
        terms = {
            str(i): jnp.sum(weight * (params["a"] * v[0] + params["b"] * v[1])) / jnp.sum(weight)
            for i, v in enumerate(vectors)
        }
        value = sum(terms.values())
        count = jnp.sum(weight)
        return value, Aux(variables, {"loss": (value * count, count)}, {}, terms)

    return loss


def taken(vectors, micro_batches=1, weight=(1.0, 1.0, 0.0, 2.0)):
    params = {"a": jnp.float32(0.3), "b": jnp.float32(-0.2)}
    batch = {"weight": jnp.asarray(weight)}
    take = jax.jit(pcgrad(micro_batches, None)(losses_of(vectors)))
    (value, aux), grads = take(params, {}, batch, KEY)
    return np.asarray([grads["a"], grads["b"]]), value, aux


def test_gradients_that_agree_are_added():
    grads, _, _ = taken([(1.0, 0.0), (1.0, 2.0)])
    np.testing.assert_allclose(grads, [2.0, 2.0], rtol=1e-6)


def test_of_two_that_conflict_each_loses_what_goes_against_the_other():
    g, h = np.array([1.0, 0.0]), np.array([-1.0, 1.0])
    expected = (g - (g @ h) / (h @ h) * h) + (h - (h @ g) / (g @ g) * g)
    for n in (1, 2):
        grads, value, aux = taken([tuple(g), tuple(h)], n)
        np.testing.assert_allclose(grads, expected, rtol=1e-6)
        np.testing.assert_allclose(value, 0.3 * 0 + -0.2 * 1, rtol=1e-5)
        assert aux.metrics["loss"][1] == 4


def test_three_are_settled_one_after_the_other_in_some_order():
    rows = np.array([[1.0, 0.2], [-1.0, 0.5], [0.1, -1.0]])

    def settled(i, order):
        g = rows[i]
        for j in order:
            dot = g @ rows[j]
            if j != i and dot < 0:
                g = g - dot / (rows[j] @ rows[j]) * rows[j]
        return g

    orders = itertools.product([(0, 1, 2), (2, 1, 0)], repeat=3)
    sums = [sum(settled(i, order) for i, order in enumerate(each)) for each in orders]
    stacked = {"w": jnp.asarray(rows, jnp.float32)}
    for seed in range(4):
        found = jax.jit(project_conflicts)(stacked, jax.random.key(seed))["w"]
        assert any(np.allclose(found, s, atol=1e-4) for s in sums)


def test_a_term_of_zero_gradient_is_harmless():
    grads, _, _ = taken([(0.0, 0.0), (1.0, 2.0)])
    np.testing.assert_allclose(grads, [1.0, 2.0], rtol=1e-6)


def test_terms_add_up_to_the_gradient_of_the_loss():
    vectors = [(1.0, 0.5), (-2.0, 1.0)]
    batch, params = {"weight": jnp.ones(4)}, {"a": jnp.float32(1), "b": jnp.float32(1)}
    loss = losses_of(vectors)
    _, rows = accumulate_grads(2, per_term_grads)(loss)(params, {}, batch, KEY)
    _, whole = accumulate_grads(2)(loss)(params, {}, batch, KEY)
    np.testing.assert_allclose(rows["a"].sum(), whole["a"], rtol=1e-6)
    assert rows["b"].shape == (2,)


def test_an_objective_of_one_term_is_refused():
    goal = goal_of(models.create("mlp", 10, widths=()))
    batch = {"image": jnp.zeros((4, 8, 8, 3)), "label": jnp.zeros(4, jnp.int32)}
    params, variables = goal.init(KEY, batch)
    with pytest.raises(UserError, match="several terms, and this objective has 1"):
        pcgrad(1, None)(goal.loss)(params, variables, batch, KEY)
