"""The Inception family where no reference is at hand: shapes, counts, what an output can see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxdl import models, tree
from jaxdl.errors import UserError
from jaxdl.nn.layers import Layers
from jaxdl.nn.norm import no_norm
from jaxdl.nn.separable import Separable


def shapes_of(model, side):
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), image)


def maps_of(model, side):
    """Layer of the backbone to the shape of its map, (h, w, c)."""
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    run = lambda v, x: model.apply(v, x, capture_intermediates=True, mutable=["intermediates"])
    _, kept = jax.eval_shape(run, shapes_of(model, side), image)
    layers = kept["intermediates"]["backbone"]
    return {n: v["__call__"][0].shape[1:] for n, v in layers.items() if n != "__call__"}


def unit(kernel, inputs, features):
    """Parameters of a convolution of `kernel` taps and its norm."""
    return kernel * inputs * features + 2 * features


# BN-Inception


def test_bn_inception_has_the_papers_maps():
    # 1502.03167, figure 5; 4c is 608 wide, the sum of its row 160 + 160 + 160 + 128.
    maps = maps_of(models.create("bn_inception", 10), 224)
    assert maps["stem"] == (112, 112, 64)
    assert maps["stem_conv2"] == (56, 56, 192)
    wide = (256, 320, 576, 576, 576, 608, 608, 1056, 1024, 1024)
    sides = (28, 28, 14, 14, 14, 14, 14, 7, 7, 7)
    names = ("3a", "3b", "3c", "4a", "4b", "4c", "4d", "4e", "5a", "5b")
    expected = [(s, s, c) for s, c in zip(sides, wide, strict=True)]
    assert [maps[f"inception{n}"] for n in names] == expected


def test_bn_inception_has_the_published_parameters():
    # The Caffe network and its PyTorch port have 11,295,240, of which a bias for each of 10,016
    # channels before a norm: stem 320, then the modules' rows of figure 5.
    biases = 320 + 480 + 544 + 544 + 864 + 896 + 1024 + 1088 + 1024 + 1600 + 1632
    params = shapes_of(models.create("bn_inception", 1000), 224)["params"]
    assert tree.count(params) == 11_295_240 - biases == 11_285_224


def test_the_papers_separable_stem():
    # 7x7 with 8 filters on each of 3 channels, then 24 to 64: in place of 7x7x3x64
    plain, separable = (
        tree.count(shapes_of(models.create("bn_inception", 1000, stem=stem), 224)["params"])
        for stem in ("plain", "separable")
    )
    assert plain - separable == 49 * 3 * 64 - (49 * 3 * 8 + 24 * 64)


@pytest.mark.parametrize("side", [33, 97])
def test_bn_inception_takes_any_size(side):
    assert maps_of(models.create("bn_inception", 10), side)["inception5b"][0] == -(-side // 32)


# What one position of the first module's map depends on: 7 of stride 2 sees 7, a pooling of 3
# by 2 then 11, a 3x3 at step 4 then 19, a pooling 27; at step 8 a 3x3 adds 16, two of them or a
# 5x5 add 32.
@pytest.mark.parametrize(
    ("name", "args", "field"),
    [
        ("bn_inception", {}, 27 + 32),
        ("googlenet", {"auxiliary_heads": False}, 27 + 16),
        ("googlenet", {"auxiliary_heads": False, "large_kernel": 5}, 27 + 32),
    ],
)
def test_receptive_field_of_the_first_module(name, args, field):
    # Linear, with weights that cannot cancel: the gradient is not 0 exactly where it sees.
    linear = {"activation": "identity", "norm": "none", "pool": "avg", "branch_pool": "avg"}
    model = models.create(name, 2, width=0.05, **linear, **args)
    weights = jax.tree.map(lambda s: jnp.full(s.shape, 0.1), shapes_of(model, 96))

    @jax.jit
    @jax.grad
    def seen(image):
        first = lambda module, method: module.name == "inception3a"
        _, kept = model.apply(
            weights, image, capture_intermediates=first, mutable=["intermediates"]
        )
        return kept["intermediates"]["backbone"]["inception3a"]["__call__"][0][0, 6, 6].sum()

    rows = np.flatnonzero(np.any(seen(jnp.ones((1, 96, 96, 3))) != 0, axis=(0, 2, 3)))
    assert rows.max() - rows.min() + 1 == len(rows) == field


# Inception-ResNet v1


def test_inception_resnet_v1_has_the_papers_maps():
    # 1602.07261, figures 14 and 15
    maps = maps_of(models.create("inception_resnet_v1", 10), 299)
    stem = [(149, 32), (147, 32), (147, 64), (73, 80), (71, 192), (35, 256)]
    assert [maps[f"stem_conv{i}"] for i in range(1, 7)] == [(s, s, c) for s, c in stem]
    for stage, blocks, shape in (
        ("a", 5, (35, 35, 256)),
        ("b", 10, (17, 17, 896)),
        ("c", 5, (8, 8, 1792)),
    ):
        found = {n: s for n, s in maps.items() if n.startswith(f"residual_{stage}")}
        assert found == {f"residual_{stage}{i + 1}": shape for i in range(blocks)}


def test_inception_resnet_v1_has_the_parameters_of_its_figures():
    stem = unit(9, 3, 32) + unit(9, 32, 32) + unit(9, 32, 64) + unit(1, 64, 80)
    stem += unit(9, 80, 192) + unit(9, 192, 256)
    a = 3 * unit(1, 256, 32) + 3 * unit(9, 32, 32) + 96 * 256 + 256
    b = 2 * unit(1, 896, 128) + 2 * unit(7, 128, 128) + 256 * 896 + 896
    c = 2 * unit(1, 1792, 192) + 2 * unit(3, 192, 192) + 384 * 1792 + 1792
    # table 1: k = 192, l = 192, m = 256, n = 384
    to_b = unit(9, 256, 384) + unit(1, 256, 192) + unit(9, 192, 192) + unit(9, 192, 256)
    to_c = 3 * unit(1, 896, 256) + unit(9, 256, 384) + 3 * unit(9, 256, 256)
    expected = stem + 5 * a + to_b + 10 * b + to_c + 5 * c + 1792 * 1000 + 1000
    params = shapes_of(models.create("inception_resnet_v1", 1000), 299)["params"]
    assert tree.count(params) == expected


# Small images


@pytest.mark.parametrize(
    ("name", "args", "least"),
    [
        ("googlenet", {}, 15),  # torchvision's min_size, as is the 75
        ("googlenet", {"stem": "cifar"}, 2),
        ("inception_v3", {}, 75),
        ("inception_v4", {}, 75),
        ("inception_resnet_v1", {}, 75),
        ("inception_resnet_v2", {}, 75),
        ("xception", {}, 7),
    ],
)
def test_the_least_size_is_named_and_is_the_least(name, args, least):
    model = models.create(name, 10, **args)
    shapes = shapes_of(model, least)
    image = jax.ShapeDtypeStruct((1, least, least, 3), jnp.float32)
    features = jax.eval_shape(lambda v, x: model.apply(v, x, method="features"), shapes, image)
    assert features.shape[1:3] == (1, 1)
    with pytest.raises(UserError) as caught:
        shapes_of(model, least - 1)
    less = least - 1
    assert str(caught.value).endswith(f"at least {least}x{least}, not {less}x{less}")


def test_googlenet_keeps_a_map_of_small_images():
    assert maps_of(models.create("googlenet", 10, stem="cifar"), 32)["inception5b"] == (8, 8, 1024)


# Separable convolutions


@pytest.mark.parametrize("multiplier", [1, 3])
def test_separable_is_a_convolution_whose_kernel_is_an_outer_product(multiplier):
    layer = Separable(5, 3, 2, Layers(norm=no_norm), act=False, multiplier=multiplier)
    x = jax.random.normal(jax.random.key(0), (2, 7, 7, 4))
    variables = layer.init(jax.random.key(1), x)
    params = variables["params"]
    depthwise = params["depthwise_conv"]["kernel"].reshape(3, 3, 4, multiplier)
    pointwise = params["pointwise_conv"]["kernel"].reshape(4, multiplier, 5)
    # k[i j c o] = sum_m d[i j c m] p[c m o]
    kernel = jnp.einsum("ijcm,cmo->ijco", depthwise, pointwise)
    expected = lax.conv_general_dilated(
        x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(layer.apply(variables, x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("between", "norms"), [(False, 2 * 5), (True, 2 * 4 + 2 * 5)])
def test_separable_has_a_norm_between_where_asked(between, norms):
    layer = Separable(5, 3, between=between)
    shapes = jax.eval_shape(layer.init, jax.random.key(0), jnp.zeros((1, 8, 8, 4)))
    assert tree.count(shapes["params"]) == 9 * 4 + 4 * 5 + norms
