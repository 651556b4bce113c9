"""Trajectories of optimizers over gradients that are waves, for comparing with rules by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdl import tree

SHAPES = {"conv/bias": (6,), "conv/kernel": (3, 3, 4, 6), "dense/kernel": (5, 3)}
SHAPES["wide/kernel"] = (130, 140)
LAYERS = {"conv/kernel": (3, 3, 4, 6), "conv/bias": (6,), "dense/kernel": (5, 4)}
LAYERS |= {"blocks/kernel": (2, 4, 5), "blocks/bias": (2, 5)}
LAYERS |= {
    "blocks/attention/qkv/kernel": (2, 6, 3, 2, 3),
    "blocks/attention/out/kernel": (2, 2, 3, 6),
}


def wave(shape, phase):
    """Numbers in [-1, 1] that need no generator; the same in references/make_optim_torch.py."""
    return np.sin(np.arange(np.prod(shape)) ** 1.5 + phase).reshape(shape).astype(np.float32)


def waves(phase, shapes=SHAPES):
    nested = {}
    for name, shape in shapes.items():
        layer, leaf = name.rsplit("/", 1)
        nested.setdefault(layer, {})[leaf] = jnp.asarray(wave(shape, phase))
    return nested


def trajectory(tx, steps=10, shapes=SHAPES, view=lambda state, params: params):
    """Parameters by name after each step on gradients that are waves, as `view` sees them."""
    params = waves(7.0, shapes)
    state = jax.jit(tx.init)(params)

    @jax.jit
    def update(params, state, gradient):
        updates, state = tx.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        return params, state, view(state, params)

    for step in range(steps):
        params, state, seen = update(params, state, waves(0.5 * step, shapes))
        yield {name: np.asarray(leaf, np.float64) for name, leaf in tree.flatten(seen).items()}


def by_hand(rule, steps=10, shapes=SHAPES):
    """The same in float64; `rule(name, w, g, memory, step)` gives the next w."""
    params = {name: wave(shape, 7.0).astype(np.float64) for name, shape in shapes.items()}
    memory = {name: {} for name in shapes}
    for step in range(steps):
        for name, shape in shapes.items():
            g = wave(shape, 0.5 * step).astype(np.float64)
            params[name] = rule(name, params[name], g, memory[name], step)
        yield dict(params)


def falling(peak):
    return lambda step: peak * (1 - step / 20)


def is_kernel(name):
    return name.endswith("kernel")


def assert_equal(found, expected, rtol=3e-6, atol=3e-6):
    for step, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert one.keys() == other.keys()
        for name, leaf in other.items():
            np.testing.assert_allclose(one[name], leaf, rtol, atol, err_msg=f"{step} {name}")
