"""The battery over interchangeable layers: activations, norms, convolutions, poolings."""

import math
from functools import partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxdl import models, registry, tree
from jaxdl.config import part
from jaxdl.nn.pool import adaptive_avg_pool, ceil_padding

names = lambda kind: [e.name for e in registry.entries(kind)]
layer = lambda kind, name, **args: registry.bind(kind, part(name, **args))

SIGMOID = lambda x: 1 / (1 + math.exp(-x))
# The formulas again, in plain Python.
ACTIVATIONS = {
    "identity": lambda x: x,
    "relu": lambda x: max(x, 0),
    "relu6": lambda x: min(max(x, 0), 6),
    "leaky_relu": lambda x: x if x > 0 else 0.01 * x,
    "elu": lambda x: x if x > 0 else math.exp(x) - 1,
    "selu": lambda x: 1.0507009873554805 * (x if x > 0 else 1.6732632423543772 * (math.exp(x) - 1)),
    "sigmoid": SIGMOID,
    "hard_sigmoid": lambda x: min(max(x + 3, 0), 6) / 6,
    "tanh": math.tanh,
    "scaled_tanh": lambda x: 1.7159 * math.tanh(2 / 3 * x),
    "softplus": lambda x: math.log(1 + math.exp(x)),
    "softsign": lambda x: x / (1 + abs(x)),
    "silu": lambda x: x * SIGMOID(x),
    "hard_silu": lambda x: x * min(max(x + 3, 0), 6) / 6,
    "gelu": lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2))),
    "mish": lambda x: x * math.tanh(math.log(1 + math.exp(x))),
}


def test_every_activation_has_its_formula_here():
    assert set(names("activations")) == set(ACTIVATIONS)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(name):
    act = layer("activations", name)
    points = np.array([-4.3, -2.1, -0.4, 0.3, 1.7, 5.2, 7.5], np.float32)
    expected = [ACTIVATIONS[name](float(p)) for p in points]
    np.testing.assert_allclose(jax.jit(act)(points), expected, rtol=2e-6, atol=1e-6)
    check_grads(act, (jnp.asarray(points),), order=1, modes=["rev"], rtol=2e-2, atol=2e-2)
    far = jnp.array([-1e4, -90.0, 0.0, 90.0, 1e4])
    chex.assert_tree_all_finite((act(far), jax.vmap(jax.grad(act))(far)))
    assert act(jnp.asarray(points, jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize("slope", [0.0, 0.2, 0.99])
def test_leaky_relu_at_any_slope(slope):
    x = jnp.array([-2.0, 3.0])
    np.testing.assert_allclose(layer("activations", "leaky_relu", slope=slope)(x), [-2 * slope, 3])


# Norms: the axes over which mean and variance of (b, h, w, c) come out as 0 and 1.
AXES = {"batch": (0, 1, 2), "sync_batch": (0, 1, 2), "layer": (3,), "instance": (1, 2)}
X = np.random.default_rng(0).normal(3.0, 2.0, (4, 5, 6, 8)).astype(np.float32)


def normed(name, x=X, train=True, **args):
    module = layer("norms", name, **args)("norm")
    variables = module.init(jax.random.key(0), x, train=False)
    y, new = module.apply(variables, x, train=train, mutable=["batch_stats"])
    return np.asarray(y), variables, new


def test_every_norm_is_tested_here():
    others = {"batch_renorm", "group", "rms", "local_response", "none"}
    assert set(names("norms")) == set(AXES) | others


@pytest.mark.parametrize("name", ["batch", "layer", "instance"])
def test_norm_takes_mean_and_variance_away(name):
    y, _, _ = normed(name)
    np.testing.assert_allclose(y.mean(AXES[name]), 0, atol=1e-5)
    np.testing.assert_allclose(y.var(AXES[name]), 1, rtol=1e-4)


@pytest.mark.parametrize(("groups", "used"), [(2, 2), (4, 4), (32, 8), (6, 2)])
def test_group_norm_takes_groups_that_divide(groups, used):
    y, _, _ = normed("group", groups=groups)
    grouped = y.reshape(4, 5, 6, used, 8 // used)
    np.testing.assert_allclose(grouped.mean((1, 2, 4)), 0, atol=1e-5)
    np.testing.assert_allclose(grouped.var((1, 2, 4)), 1, rtol=1e-4)


def test_rms_norm_divides_by_the_root_mean_square():
    y, _, _ = normed("rms")
    np.testing.assert_allclose(y, X / np.sqrt((X**2).mean(-1, keepdims=True)), rtol=1e-5)


def test_batch_norm_keeps_running_statistics():
    _, before, after = normed("batch", momentum=0.9)
    stats = after["batch_stats"]
    np.testing.assert_allclose(stats["mean"], 0.1 * X.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * X.var((0, 1, 2)), rtol=1e-4)
    module = layer("norms", "batch", epsilon=1e-3)("norm")
    y = module.apply({"params": before["params"], **after}, X, train=False)
    expected = (X - np.asarray(stats["mean"])) / np.sqrt(np.asarray(stats["var"]) + 1e-3)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_sync_batch_norm_over_a_named_axis_is_batch_norm_of_all():
    whole, variables, _ = normed("batch")
    module = layer("norms", "sync_batch", axis_name="replica")("norm")
    apply = lambda x: module.apply(variables, x, train=True, mutable=["batch_stats"])[0]
    shards = jax.vmap(apply, axis_name="replica")(X.reshape(2, 2, 5, 6, 8))
    np.testing.assert_allclose(shards.reshape(X.shape), whole, rtol=1e-4, atol=1e-5)


def test_batch_renorm_within_its_limits_normalises_as_inference_does():
    # r = sigma_B / sigma and d = (mu_B - mu) / sigma undo the batch's statistics
    y, variables, after = normed("batch_renorm", X / 2, epsilon=1e-6)
    np.testing.assert_allclose(y, X / 2, rtol=1e-4, atol=1e-5)  # running: mean 0, variance 1
    stats = after["batch_stats"]
    np.testing.assert_allclose(stats["mean"], 0.01 * X.mean((0, 1, 2)) / 2, rtol=1e-4)
    np.testing.assert_allclose(stats["var"], 0.99 + 0.01 * X.var((0, 1, 2)) / 4, rtol=1e-4)


def test_batch_renorm_at_its_limits_is_batch_norm():
    y, _, _ = normed("batch_renorm", r_max=1.0, d_max=0.0, epsilon=1e-5)
    np.testing.assert_allclose(y, normed("batch")[0], rtol=1e-4, atol=1e-5)
    # and in between: x = 10 +- 1 with d clipped at 5 is +-1 + 5
    x = jnp.tile(jnp.array([9.0, 11.0]).reshape(2, 1, 1, 1), (1, 1, 1, 2))
    clipped, _, _ = normed("batch_renorm", x, epsilon=1e-6)
    np.testing.assert_allclose(clipped[:, 0, 0, 0], [4, 6], rtol=1e-4)


def test_local_response_norm_by_hand():
    # the paper's k, n, alpha, beta; the sum of squares is not divided by n
    y, variables, _ = normed("local_response", X * 20)
    x = X.astype(np.float64) * 20
    for c in range(8):
        energy = (x[..., max(0, c - 2) : c + 3] ** 2).sum(-1)
        np.testing.assert_allclose(y[..., c], x[..., c] / (2 + 1e-4 * energy) ** 0.75, rtol=1e-5)
    assert not variables


@pytest.mark.parametrize("name", names("norms"))
def test_every_norm_keeps_shape_and_type_and_has_a_gradient(name):
    args = {"axis_name": "replica"} if name == "sync_batch" else {}
    module = layer("norms", name, **args)("norm")
    variables = module.init(jax.random.key(0), X, train=False)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))

    def loss(x):
        params = tree.cast(variables.get("params", {}), x.dtype)  # as at the model's boundary
        y = module.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])[0]
        assert y.dtype == x.dtype and y.shape == x.shape
        return (y.astype(jnp.float32) ** 3).sum()

    for dtype in (jnp.float32, jnp.bfloat16):
        x = jnp.asarray(X, dtype)[None]
        grad = jax.vmap(jax.grad(loss), axis_name="replica")(x)
        assert np.isfinite(grad).all() and np.any(grad)


# Convolutions that normalise their kernel


def convolved(name, features=6, **args):
    conv = layer("convs", name, **args)(features, (3, 3), padding="SAME", name="conv")
    variables = conv.init(jax.random.key(1), X)
    return conv, variables


def effective_kernel(conv, variables):
    # What comes out at the centre of an impulse response is the kernel, tap by tap.
    impulses = np.zeros((8, 5, 5, 8), np.float32)
    impulses[np.arange(8), 2, 2, np.arange(8)] = 1
    y = conv.apply(variables, impulses) - conv.apply(variables, np.zeros_like(impulses))
    return np.asarray(y)[:, 1:4, 1:4][:, ::-1, ::-1].transpose(1, 2, 0, 3)


def test_plain_convolution_uses_its_parameter():
    conv, variables = convolved("plain")
    kernel = variables["params"]["kernel"]
    np.testing.assert_allclose(effective_kernel(conv, variables), kernel, rtol=1e-5, atol=1e-6)


def test_weight_standardized_kernels_have_mean_0_and_variance_1_over_n():
    kernel = effective_kernel(*convolved("weight_standardized"))
    np.testing.assert_allclose(kernel.mean((0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(kernel.var((0, 1, 2)), 1 / 72, rtol=1e-4)


def test_weight_normalized_kernels_have_the_length_that_is_learned():
    conv, variables = convolved("weight_normalized")
    (scale,) = [n for n in tree.flatten(variables["params"]) if n.endswith("scale")]
    lengths = jnp.arange(1.0, 7)
    params = tree.names(variables["params"])
    filled = jax.tree.map(lambda n, x: lengths if n == scale else x, params, variables["params"])
    kernel = effective_kernel(conv, {**variables, "params": filled})
    np.testing.assert_allclose(np.linalg.norm(kernel.reshape(-1, 6), axis=0), lengths, rtol=1e-5)


def test_spectral_normalized_kernels_have_a_largest_singular_value_of_1():
    conv, variables = convolved("spectral_normalized", iterations=50)
    _, state = conv.apply(variables, X, mutable=["batch_stats"])
    kernel = effective_kernel(conv, {**variables, **state})
    singular = np.linalg.svd(kernel.reshape(-1, 6), compute_uv=False)
    np.testing.assert_allclose(singular[0], 1, rtol=1e-3)


# Poolings


def windows_of(x, window, stride, pads, fill):
    x = np.pad(x, ((0, 0), *pads, (0, 0)), constant_values=fill)
    rows = range(0, x.shape[1] - window + 1, stride)
    columns = range(0, x.shape[2] - window + 1, stride)
    return np.stack([[x[:, i : i + window, j : j + window] for j in columns] for i in rows])


POOLS = {
    "max": (-np.inf, lambda w: w.max((3, 4))),
    "avg": (np.nan, lambda w: np.nanmean(w, (3, 4))),
    "lp": (np.nan, lambda w: np.sqrt(np.nanmean(w**2, (3, 4)))),
}


def test_every_pooling_has_its_formula_here():
    assert set(names("poolings")) == set(POOLS)


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize(("window", "stride", "pad"), [(2, 2, 0), (3, 2, 1), (3, 2, 0), (3, 1, 1)])
def test_pooling_against_loops(name, window, stride, pad):
    pads = ((pad, pad), (pad, pad))
    y = layer("poolings", name)(X, (window, window), (stride, stride), pads)
    fill, reduce = POOLS[name]
    expected = reduce(windows_of(X, window, stride, pads, fill)).transpose(2, 0, 1, 3)
    np.testing.assert_allclose(y, expected, rtol=1e-5)


def test_average_pooling_may_count_its_padding():
    pool = layer("poolings", "avg", count_padding=True)
    y = pool(np.ones((1, 4, 4, 1), np.float32), (3, 3), (2, 2), ((1, 1), (1, 1)))
    np.testing.assert_allclose(y[0, :, :, 0], [[4 / 9, 6 / 9], [6 / 9, 1]], rtol=1e-6)


@pytest.mark.parametrize(("size", "out"), [(13, 6), (7, 7), (6, 3), (2, 7), (1, 7)])
def test_adaptive_pooling_against_loops(size, out):
    x = np.random.default_rng(1).normal(size=(2, size, size + 1, 3)).astype(np.float32)
    y = adaptive_avg_pool(x, (out, out))
    span = lambda n, i: slice(i * n // out, -(-(i + 1) * n // out))
    expected = [
        [x[:, span(size, i), span(size + 1, j)].mean((1, 2)) for j in range(out)]
        for i in range(out)
    ]
    np.testing.assert_allclose(y, np.stack(expected).transpose(2, 0, 1, 3), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    # what torch.nn.MaxPool2d(window, stride, padding, ceil_mode=True) gives for each size
    ("size", "window", "stride", "padding", "out"),
    [(112, 3, 2, 0, 56), (56, 3, 2, 0, 28), (7, 2, 2, 0, 4), (5, 3, 2, 1, 3), (14, 2, 2, 0, 7)],
)
def test_ceil_mode_counts_the_incomplete_window(size, window, stride, padding, out):
    (low, high), _ = ceil_padding((size, size), window, stride, padding)
    assert low == padding and (size + low + high - window) // stride + 1 == out


# In a network


@pytest.mark.parametrize(
    ("kind", "argument"),
    [("activations", "activation"), ("norms", "norm"), ("convs", "conv"), ("poolings", "pool"),
     ("gates", "gate")],
)  # fmt: skip
def test_every_layer_fits_a_residual_network_by_name(kind, argument):
    image = jnp.zeros((2, 64, 64, 3))
    for name in names(kind):
        args = {"axis_name": "replica"} if name == "sync_batch" else {}
        model = models.create("resnet18", 7, width=8, **{argument: part(name, **args)})

        @partial(jax.vmap, axis_name="replica")
        def run(image, model=model):
            variables = model.init(jax.random.key(0), image)
            return model.apply(variables, image, train=True, mutable=["batch_stats"])

        logits, state = jax.eval_shape(run, image[None])
        assert logits.shape == (1, 2, 7), name


def test_a_layer_of_ones_own_may_be_given_as_it_is():
    model = models.create("resnet18", 3, width=4, activation=nn.celu)
    assert model.backbone.layers.activation is nn.celu
