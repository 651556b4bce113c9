"""Attention blocks against a hand computation, and against timm's for the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import models, registry, tree
from jaxdl.config import Part

SHAPE = (2, 5, 4, 32)


def drawn(*shapes):
    """The input, then kernels, one after another out of one stream."""
    random = np.random.RandomState(0)
    return [random.standard_normal(shape) for shape in (SHAPE, *shapes)]


def applied(name, kernels, x, **args):
    layer = registry.bind("gates", Part(name, args))(None)
    params = layer.init(jax.random.key(0), jnp.asarray(x, jnp.float32))["params"]
    shapes = {n: leaf.shape for n, leaf in tree.flatten(params).items()}
    assert shapes == {n: np.shape(k) for n, k in kernels.items()}
    params = jax.tree.map(lambda n: jnp.asarray(kernels[n], jnp.float32), tree.names(params))
    return np.asarray(layer.apply({"params": params}, jnp.asarray(x, jnp.float32)))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def channel_by_hand(x, reduce, expand):
    mlp = lambda s: np.maximum(s @ reduce, 0) @ expand
    gate = sigmoid(mlp(x.mean((1, 2))) + mlp(x.max((1, 2))))
    return x * gate[:, None, None, :]


def spatial_by_hand(x, kernel, bias):
    maps = np.pad(np.stack([x.mean(-1), x.max(-1)], -1), ((0, 0), (3, 3), (3, 3), (0, 0)))
    gate = np.zeros(x.shape[:3])
    for i in range(x.shape[1]):
        for j in range(x.shape[2]):
            gate[:, i, j] = (maps[:, i : i + 7, j : j + 7] * kernel[..., 0]).sum((1, 2, 3))
    return x * sigmoid(gate + bias)[..., None]


def check(ours, by_hand, timm, total):
    np.testing.assert_allclose(ours, by_hand, rtol=1e-4, atol=1e-5)
    # Channels 0 to 4 of one position, and the sum of all magnitudes, as timm 1.0.28 has them.
    np.testing.assert_allclose(ours[1, 2, 3, :5], timm, atol=2e-6)
    assert np.abs(ours).sum() == pytest.approx(total, rel=1e-5)


def test_eca_weighs_the_means_of_neighbours():
    x, kernel = drawn(3)
    means = np.pad(x.mean((1, 2)), ((0, 0), (1, 1)))
    gate = sigmoid(sum(means[:, i : i + 32] * kernel[i] for i in range(3)))
    ours = applied("eca", {"neighbours/kernel": kernel.reshape(1, 3, 1, 1)}, x)
    timm = [-0.419185, 0.119912, 0.138565, 0.191605, -0.09641]
    check(ours, x * gate[:, None, None, :], timm, 498.789640)


@pytest.mark.parametrize(("channels", "size"), [(16, 3), (64, 3), (128, 5), (512, 5), (2048, 7)])
def test_eca_hears_more_neighbours_among_more_channels(channels, size):
    # (log2 c + 1) / 2 = 2.5, 3.5, 4, 5, 6, made whole and odd; the authors' table has the same.
    layer = registry.bind("gates", Part("eca"))(None)
    x = jax.ShapeDtypeStruct((1, 2, 2, channels), jnp.float32)
    params = jax.eval_shape(layer.init, jax.random.key(0), x)["params"]
    assert params["neighbours"]["kernel"].shape == (1, size, 1, 1)


def test_channel_attention_has_one_mlp_for_means_and_maxima():
    # eca's kernel was drawn before these.
    x, _, reduce, expand = drawn(3, (32, 2), (2, 32))
    ours = applied("channel", {"reduce/kernel": reduce, "expand/kernel": expand}, x)
    timm = [-0.258882, 0.157229, 0.171076, 0.137061, -0.174949]
    check(ours, channel_by_hand(x, reduce, expand), timm, 546.407414)


def test_spatial_attention_reads_means_and_maxima_around():
    x, *_, kernel = drawn(3, (32, 2), (2, 32), (7, 7, 2))
    kernel = kernel[..., None]
    ours = applied("spatial", {"conv/kernel": kernel, "conv/bias": [0.3]}, x)
    timm = [-0.45299, 0.136441, 0.163829, 0.233952, -0.112422]
    check(ours, spatial_by_hand(x, kernel, 0.3), timm, 520.577330)


def test_cbam_is_channel_then_spatial():
    x, _, reduce, expand, kernel = drawn(3, (32, 2), (2, 32), (7, 7, 2))
    kernels = {
        "channel/reduce/kernel": reduce,
        "channel/expand/kernel": expand,
        "spatial/conv/kernel": kernel[..., None],
        "spatial/conv/bias": [0.3],
    }
    ours = applied("cbam", kernels, x)
    by_hand = spatial_by_hand(channel_by_hand(x, reduce, expand), kernel[..., None], 0.3)
    np.testing.assert_allclose(ours, by_hand, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [e.name for e in registry.entries("gates")])
def test_every_attention_fits_a_resnet(name):
    model = models.create("resnet18", 10, width=8, gate=name)
    image = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    assert variables["params"]["backbone"]["stage4_block2"]["attention"]
    assert jax.eval_shape(model.apply, variables, image).shape == (2, 10)
    layer = registry.bind("gates", Part(name))(None)
    half = jax.ShapeDtypeStruct((2, 8, 8, 16), jnp.bfloat16)
    params = jax.tree.map(
        lambda p: jax.ShapeDtypeStruct(p.shape, jnp.bfloat16),
        jax.eval_shape(layer.init, jax.random.key(0), half),
    )
    assert jax.eval_shape(layer.apply, params, half).dtype == jnp.bfloat16
