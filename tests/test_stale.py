"""Asynchronous updates against a simulation of workers that pull, compute and push."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdl.optim.stale import stale

CURVATURE = np.array([1.0, 3.0], np.float32)


def workers_by_hand(workers, steps, rate, compensation):
    """A parameter server: worker t mod n pushes what it took when it last pulled."""
    w = np.array([1.0, -2.0], np.float32)
    jobs, path = [], []
    for _ in range(steps):
        jobs.append((CURVATURE * w, w.copy()))  # pulls w and begins
        if len(jobs) == workers:
            g, then = jobs.pop(0)  # the oldest comes back
            w = w - rate * (g + compensation * g * g * (w - then))
        path.append(w.copy())
    return np.stack(path)


@pytest.mark.parametrize("compensation", [0.0, 0.5])
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_workers_that_take_turns(workers, compensation):
    tx = optax.chain(stale(workers=workers, compensation=compensation), optax.sgd(0.1))
    params = {"w": jnp.array([1.0, -2.0])}
    state = tx.init(params)

    @jax.jit
    def step(params, state):
        updates, state = tx.update({"w": CURVATURE * params["w"]}, state, params)
        return optax.apply_updates(params, updates), state

    path = []
    for _ in range(20):
        params, state = step(params, state)
        path.append(np.asarray(params["w"]))
    np.testing.assert_allclose(path, workers_by_hand(workers, 20, 0.1, compensation), atol=1e-6)


def test_staleness_narrows_the_rates_that_converge():
    """On a quadratic of curvature 1, delay d is stable up to 2 sin(pi / (4 d + 2)), not up to 2."""

    def ends(delay, rate):
        tx = optax.chain(stale(workers=delay + 1), optax.sgd(rate))

        def body(_, carry):
            w, state = carry
            updates, state = tx.update(w, state, w)
            return w + updates, state

        w = jnp.ones(())
        return abs(float(jax.lax.fori_loop(0, 4000, body, (w, tx.init(w)))[0]))

    for delay in (1, 3, 7):
        limit = 2 * np.sin(np.pi / (4 * delay + 2))
        assert ends(delay, 0.97 * limit) < 1e-3
        assert not ends(delay, 1.03 * limit) < 1e3
