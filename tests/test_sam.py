"""SAM against two passes written by hand, and the order in which a chain works."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdl.optim.chain import chain
from jaxdl.optim.gradient_transforms import clip_norm, clip_value
from jaxdl.optim.sam import ETA, sam
from jaxdl.optim.sgd import sgd

PARAMS = {"w": jnp.array([1.0, -2.0])}


def wave(shape, phase):
    """Numbers in [-1, 1] that need no generator."""
    return np.sin(np.arange(np.prod(shape)) ** 1.5 + phase).reshape(shape).astype(np.float32)


def network(params, x, y):
    """Mean squared error of tanh(x W + b) V, per example halved."""
    hidden = jnp.tanh(x @ params["first"]["kernel"] + params["first"]["bias"][None])
    return jnp.mean(jnp.sum((hidden @ params["last"]["kernel"] - y) ** 2, 1)) / 2


def network_gradient_by_hand(params, x, y):
    w, b, v = params
    hidden = np.tanh(x @ w + b)
    error = (hidden @ v - y) / len(x)
    inner = error @ v.T * (1 - hidden**2)
    return [x.T @ inner, inner.sum(0), hidden.T @ error]


def sam_by_hand(params, x, y, rho, adaptive, steps):
    """SGD (rate 0.1, momentum 0.9, L2 penalty 0.2) on the gradient at the perturbed point."""
    velocity = [0.0, 0.0, 0.0]
    for _ in range(steps):
        reach = [np.abs(p) + ETA if adaptive else 1.0 for p in params]
        scaled = [t * g for t, g in zip(reach, network_gradient_by_hand(params, x, y), strict=True)]
        norm = np.sqrt(sum(np.sum(s**2) for s in scaled))
        there = [p + rho * t * s / norm for p, t, s in zip(params, reach, scaled, strict=True)]
        second = network_gradient_by_hand(there, x, y)
        velocity = [0.9 * m + g + 0.2 * p for m, g, p in zip(velocity, second, params, strict=True)]
        params = [p - 0.1 * m for p, m in zip(params, velocity, strict=True)]
    return params


@pytest.mark.parametrize(("rho", "adaptive"), [(0.05, False), (0.5, True)])
def test_sam_is_two_passes_on_any_number_of_devices(rho, adaptive):
    x, y = wave((16, 5), 0.3), wave((16, 2), 2.0)
    w, b, v = wave((5, 7), 1.0), wave((7,), 4.0), wave((7, 2), 5.0)
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    tx = sam(sgd(0.1, weight_decay=0.2, decay=".*"), rho=rho, adaptive=adaptive)

    @jax.jit
    def update(params, state, x, y):
        gradient = functools.partial(jax.grad(network), x=x, y=y)
        updates, state = tx.update(gradient(params), state, params, grad_fn=gradient)
        return optax.apply_updates(params, updates), state

    params = {"first": {"kernel": w, "bias": b}, "last": {"kernel": v}}
    state = tx.init(params)
    for _ in range(5):
        params, state = update(params, state, *jax.device_put((x, y), rows))
    expected = sam_by_hand([p.astype(np.float64) for p in (w, b, v)], x, y, rho, adaptive, 5)
    found = [params["first"]["kernel"], params["first"]["bias"], params["last"]["kernel"]]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_sam_asks_for_its_gradient_function():
    tx = sam(sgd(0.1))
    with pytest.raises(TypeError, match="grad_fn"):
        tx.update(PARAMS, tx.init(PARAMS), PARAMS)


def double(params):
    return jax.tree.map(lambda w: 2 * w, params)


def test_wrapping_passes_extra_arguments_on():
    seen = {}

    def update(updates, state, params=None, **extra):
        seen.update(extra)
        return updates, state

    inner = optax.GradientTransformationExtraArgs(lambda p: (), update)
    tx = chain(inner, transforms=[clip_norm(limit=1.0)], wrappers=[sam])
    tx.update(PARAMS, tx.init(PARAMS), PARAMS, value=3.0, grad_fn=double)
    assert seen == {"value": 3.0, "grad_fn": double}


# Chain


def test_clipping_bounds_values_then_the_norm():
    tx = chain(sgd(0.5, momentum=0), transforms=[clip_value(limit=1.5), clip_norm(limit=2.0)])
    gradient = {"w": jnp.array([3.0, -1.0, 4.0])}
    updates, _ = tx.update(gradient, tx.init(gradient), gradient)
    clipped = np.array([1.5, -1.0, 1.5])
    np.testing.assert_allclose(updates["w"], -0.5 * 2 * clipped / np.sqrt(5.5), rtol=1e-6)


def test_sam_climbs_unclipped_and_its_second_gradient_is_clipped():
    curvature, w, rho, bound = np.array([1.0, 10.0]), np.array([1.0, 1.0]), 0.5, 0.25
    tx = chain(
        sgd(1.0, momentum=0),
        transforms=[clip_norm(limit=bound)],
        wrappers=[functools.partial(sam, rho=rho)],
    )

    def grad_fn(p):
        return {"w": curvature.astype(np.float32) * p["w"]}

    params = {"w": jnp.asarray(w, jnp.float32)}
    updates, _ = tx.update(grad_fn(params), tx.init(params), params, grad_fn=grad_fn)
    first = curvature * w
    second = curvature * (w + rho * first / np.linalg.norm(first))
    np.testing.assert_allclose(updates["w"], -bound * second / np.linalg.norm(second), rtol=1e-6)


def test_the_last_wrapper_is_outermost():
    order = []

    def named(name):
        return lambda tx: optax.GradientTransformationExtraArgs(
            tx.init, lambda *a, **k: (order.append(name), tx.update(*a, **k))[1]
        )

    tx = chain(sgd(1.0), wrappers=[named("inner"), named("outer")])
    tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    assert order == ["outer", "inner"]
