"""What drops: means and shapes by hand, every model under any of the dropouts, and at inference."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo import initial, quick

from jaxdl import models, registry
from jaxdl.config import part
from jaxdl.nn.drop import drop_block, gaussian, replace_dropout, shared, spatial
from jaxdl.objectives.base import Model
from jaxdl.train.sharding import batch_sharding, make_mesh

NAMES = [e.name for e in registry.entries("dropouts")]
KEY = jax.random.key(5)
MAP = np.ones((64, 14, 14, 8), np.float32)


def run(name, x, rate=0.3, key=KEY, **args):
    return np.asarray(
        quick(registry.bind("dropouts", part(name, **args)), static_argnums=2)(key, x, rate)
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_expectation_is_kept(name):
    y = run(name, MAP)
    assert y.mean() == pytest.approx(1, abs=0.02)
    assert y.std() > 0.1
    np.testing.assert_array_equal(run(name, MAP, rate=0.0), MAP)
    assert np.any(run(name, MAP, key=jax.random.key(6)) != y)


@pytest.mark.parametrize("name", NAMES)
def test_any_rank_and_bfloat16(name):
    for shape in [(4, 6), (4, 5, 6)]:
        x = np.ones(shape, jnp.bfloat16)
        y = run(name, x)
        assert y.shape == shape and y.dtype == jnp.bfloat16


@pytest.mark.parametrize("name", NAMES)
def test_the_same_on_eight_devices(name):
    x = jax.device_put(MAP[:16], batch_sharding(make_mesh()))
    np.testing.assert_allclose(run(name, x), run(name, MAP[:16]), rtol=1e-6)


def test_elementwise_is_dropout():
    y = run("elementwise", MAP)
    assert set(np.unique(y)) == {0, np.float32(1 / np.float32(0.7))}
    # 100,352 numbers: the share dropped has a standard deviation of 0.0014
    assert (y == 0).mean() == pytest.approx(0.3, abs=0.006)


def test_spatial_drops_whole_channels_of_an_example():
    y = np.asarray(spatial(KEY, MAP, 0.3))
    assert np.all(y == y[:, :1, :1])
    dropped = y[:, 0, 0] == 0
    assert dropped.mean() == pytest.approx(0.3, abs=0.08)
    assert dropped.any(axis=0).all() and not dropped.all(axis=0).any()


def test_shared_drops_the_same_at_every_time():
    y = np.asarray(shared(KEY, np.ones((50, 7, 40), np.float32), 0.25))
    assert np.all(y == y[:, :1]) and len(np.unique(y[:, 0], axis=0)) == 50
    assert (y == 0).mean() == pytest.approx(0.25, abs=0.04)


def test_blocks_are_squares_inside_the_map():
    y = np.asarray(drop_block(KEY, np.ones((200, 9, 9, 1), np.float32), 0.05, block_size=3))[..., 0]
    dropped = y == 0
    # Each dropped pixel belongs to a wholly dropped 3x3 square that lies inside.
    for one in dropped:
        covered = np.zeros_like(one)
        for i in range(7):
            for j in range(7):
                if one[i : i + 3, j : j + 3].all():
                    covered[i : i + 3, j : j + 3] = True
        np.testing.assert_array_equal(covered, one)
    # Where one block alone fell, the 72 others are scaled by 81 / 72.
    single = dropped.sum(axis=(1, 2)) == 9
    assert single.sum() > 20
    np.testing.assert_allclose(y[single].max(axis=(1, 2)), 81 / 72, rtol=1e-6)
    np.testing.assert_allclose(y.sum(axis=(1, 2)), 81, rtol=1e-5)


def test_as_many_blocks_begin_as_the_paper_says():
    # gamma = 0.1 / 9 * 81 / 49 for each of 49 places of 9x9: 0.9 blocks, none with (1 - g)^49
    y = np.asarray(drop_block(KEY, np.ones((2000, 9, 9, 1), np.float32), 0.1, block_size=3))
    whole = np.all(y != 0, axis=(1, 2, 3)).mean()
    assert whole == pytest.approx((1 - 0.1 / 9 * 81 / 49) ** 49, abs=0.035)
    # Each channel has its own.
    y = np.asarray(drop_block(KEY, MAP, 0.1))
    assert np.any(y[..., 0] != y[..., 1])


def test_a_map_smaller_than_a_block_is_one_block():
    y = np.asarray(drop_block(KEY, np.ones((400, 2, 2, 1), np.float32), 0.3))
    assert np.all(y == y[:, :1, :1])
    assert (y == 0).mean() == pytest.approx(0.3, abs=0.07)


def test_gaussian_has_the_variance_of_dropout():
    y = np.asarray(gaussian(KEY, 2 * MAP, 0.3))
    assert y.mean() == pytest.approx(2, abs=0.02)
    assert y.var() == pytest.approx(4 * 0.3 / 0.7, rel=0.03)
    assert np.all(y != 0)


class Layers(nn.Module):
    """Dropouts told in each of the ways that Linen knows, one of them twice; the second is idle."""

    @nn.compact
    def __call__(self, x, train=False):
        once = nn.Dropout(0.5, deterministic=not train)
        x = once(once(x))
        x = nn.Dropout(0.0)(x, not train)
        x = nn.Dropout(0.5)(x, deterministic=not train)
        return nn.Dropout(0.5)(x, not train, jax.random.key(0))


def under(*args, train, **kwargs):
    with nn.intercept_methods(replace_dropout(*args, **kwargs)):
        return Layers().apply({}, jnp.ones((4, 4)), train, rngs={"dropout": KEY})


def test_dropout_replaced_by_itself_changes_no_number():
    plain = Layers().apply({}, jnp.ones((4, 4)), True, rngs={"dropout": KEY})
    np.testing.assert_array_equal(under(train=True), plain)
    np.testing.assert_array_equal(under(train=False, always=True), plain)


def test_each_layer_drops_by_the_one_given_and_only_in_training():
    rates = []

    def drop(key, x, rate):
        rates.append(rate)
        return x + 1

    np.testing.assert_array_equal(under(drop, train=True), jnp.full((4, 4), 5))
    assert rates == [0.5] * 4
    np.testing.assert_array_equal(under(drop, train=False), jnp.ones((4, 4)))
    np.testing.assert_array_equal(under(drop, train=False, always=True), jnp.full((4, 4), 5))


@pytest.mark.parametrize("remat", [None, "blocks"])
def test_attention_weights_drop_elementwise(remat):
    seen = []
    drop = lambda key, x, rate: seen.append(x.ndim) or x
    args = {"patch_size": 4, "width": 12, "depth": 2, "drop_rate": 0.5, "drop_attention": 0.5}
    module = models.create("vit_tiny_patch16_224", 3, **args)
    model = Model(module, jnp.dtype("float32"), dropout=drop, remat=remat)
    batch = batch_for(module)
    weights = jax.eval_shape(model.init, KEY, batch)
    jax.eval_shape(model.train, *weights, batch, KEY)
    assert seen and set(seen) == {3}


FAMILIES = {
    "cnn": {"widths": [4, 4], "drop_rate": 0.3},
    "mlp": {"widths": [16], "drop_rate": 0.3},
    "vit_tiny_patch16_224": {"patch_size": 4, "width": 12, "depth": 2, "drop_rate": 0.3},
    "vit_small_patch16_224": {"patch_size": 4, "width": 12, "depth": 3, "drop_path": 0.5},
    "mixer_s32_224": {"patch_size": 4, "width": 8, "depth": 3, "drop_path": 0.5},
    "mixer_s16_224": {"patch_size": 4, "width": 8, "depth": 2, "drop_rate": 0.3},
    "efficientnet_b0": {"width": 0.25, "depth": 0.5, "drop_rate": 0.3},
    "densenet_cifar": {"depth": 10, "growth": 4, "drop_rate": 0.3},
    "resnet20": {"width": 4, "drop_path": 0.5},
    "transformer_decoder": {"width": 12, "depth": 2, "heads": 2, "hidden": 8, "drop_rate": 0.3},
    "unet": {"width": 4, "depth": 2, "drop_rate": 0.3},
}


def batch_for(module):
    generator = np.random.default_rng(0)
    batch = {"image": generator.normal(size=(4, 16, 16, 3)).astype(np.float32)}
    return batch | {"tokens": generator.integers(1, 9, (4, 6)).astype(np.int32)}


@pytest.mark.parametrize("name", FAMILIES)
def test_with_a_key_prediction_drops_as_training_does(name):
    module = registry.bind("models", part(name, **FAMILIES[name]))(10)
    model = Model(module, jnp.dtype("float32"), freeze_norms=".*")
    batch = batch_for(module)
    params, variables = initial(model.init, jax.random.key(0), batch)

    @quick
    def outputs(key):
        predict = lambda *key: model.predict(params, variables, batch, *key)["logits"]
        trained = model.train(params, variables, batch, key)[0]["logits"]
        return predict(), predict(key), predict(jax.random.key(2)), trained

    plain, dropped, other, trained = map(np.asarray, outputs(jax.random.key(1)))
    scale = np.abs(plain).max()
    assert np.abs(plain - dropped).max() > 1e-3 * scale
    assert np.abs(other - dropped).max() > 1e-3 * scale
    # Norms that read their running statistics are all that a training pass is without.
    np.testing.assert_allclose(dropped, trained, atol=1e-5 * scale)


ARGS = {"patch_size": 4, "width": 12, "depth": 2}
ARGS |= {"drop_rate": 0.5, "drop_attention": 0.5, "drop_path": 0.5}


def test_a_scan_that_is_computed_again_drops_the_same():
    module = models.create("vit_tiny_patch16_224", 3, **ARGS)
    batch = batch_for(module)

    @quick
    def gradients(key):
        params, variables = Model(module, jnp.dtype("float32")).init(jax.random.key(0), batch)

        def gradient(remat):
            model = Model(module, jnp.dtype("float32"), dropout=spatial, remat=remat)
            loss = lambda p: jnp.sum(model.train(p, variables, batch, key)[0]["logits"] ** 2)
            return jax.grad(loss)(params)

        return gradient(None), gradient("blocks")

    kept, again = map(jax.tree.leaves, gradients(KEY))
    assert any(np.any(g != 0) for g in kept)
    for a, b in zip(kept, again, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
