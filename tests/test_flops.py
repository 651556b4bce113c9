"""Multiply-adds against numbers worked by hand, and against what others counted of known models."""

import functools
import threading

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.experimental import pallas as pl
from jax.sharding import AxisType, PartitionSpec
from zoo import initial

from jaxdl import models, registry
from jaxdl.errors import UserError
from jaxdl.nn import conv
from jaxdl.perf.flops import flops, macs

# Billions of multiply-adds of a forward pass with 1000 classes, and the image's side: torchvision
# 0.28, `_ops` of the first weights at their crop, to all digits by PyTorch's own FlopCounterMode.
# Of a number known less exactly, write fewer digits: the last one given must be right.
GMACS = {
    "alexnet": (0.71418848, 224),
    "efficientnet_b0": (0.385814752, 224),
    "efficientnet_b1": (0.686802832, 240),
    "efficientnet_b2": (1.087529456, 288),
    "efficientnet_b3": (1.827141392, 300),
    "efficientnet_b4": (4.393771024, 380),
    "efficientnet_b5": (10.266384752, 456),
    "efficientnet_b6": (19.067593536, 528),
    "efficientnet_b7": (37.745884192, 600),
    "googlenet": (1.498376192, 224),  # without its auxiliary heads
    "inception_v3": (5.713216096, 299),  # likewise
    "mobilenet_v2": (0.300774272, 224),
    "mobilenet_v3_large": (0.21658976, 224),
    "mobilenet_v3_small": (0.0565104, 224),
    "resnet18": (1.814073344, 224),
    "resnet34": (3.663761408, 224),
    "resnet50": (4.089184256, 224),
    "resnet101": (7.80140544, 224),
    "resnet152": (11.513626624, 224),
    "resnext50_32x4d": (4.230479872, 224),
    "resnext101_32x8d": (16.414015488, 224),
    "resnext101_64x4d": (15.46027008, 224),
    "vgg16": (15.47026432, 224),
    "vgg19": (19.632062464, 224),
}
REGISTERED = {e.name for e in registry.entries("models")}


def of(*shape, dtype="float32"):
    return jax.ShapeDtypeStruct(shape, dtype)


@pytest.mark.parametrize("name", [n for n in GMACS if n in REGISTERED])
def test_known_models(name):
    gmacs, side = GMACS[name]
    model = models.create(name, 1000)
    # Parameters are made on the way, so that one trace will do; making them takes no product.
    forward = lambda key, x: model.apply({}, x, rngs={"params": key}, mutable=True)[0]
    count = macs(forward, jax.random.key(0), of(1, side, side, 3))
    digits = len(repr(gmacs).partition(".")[2])
    assert round(count / 1e9, digits) == gmacs


def test_all_known_models_are_registered():
    assert set(GMACS) <= REGISTERED, sorted(set(GMACS) - REGISTERED)


# Dots


def test_a_dot_is_every_output_times_what_is_summed():
    assert macs(jnp.matmul, of(2, 3), of(3, 5)) == 2 * 3 * 5
    assert flops(jnp.matmul, of(2, 3), of(3, 5)) == 60
    assert macs(jnp.matmul, of(4, 2, 3), of(4, 3, 5)) == 4 * 2 * 3 * 5
    assert macs(functools.partial(jnp.einsum, "abij,jki->abk"), of(2, 3, 4, 5), of(5, 6, 4)) == (
        2 * 3 * 6 * 4 * 5
    )
    assert macs(jnp.vdot, of(7), of(7)) == 7


def test_only_products_count():
    assert macs(lambda x: jnp.sin(x * x).sum() / x.max(), of(8, 8)) == 0


def test_trees_and_keys_go_in():
    tree = {"x": of(2, 3), "w": [of(3, 5)]}
    key = jax.eval_shape(lambda: jax.random.key(0))
    assert macs(lambda t, k: t["x"] @ t["w"][0] + jax.random.normal(k, (2, 5)), tree, key) == 30


def test_a_ragged_dot_meets_each_row_once():
    # 8 rows of 3 meet one of 4 matrices (3, 5) each; so do the gradients.
    rows, matrices, sizes = of(8, 3), of(4, 3, 5), of(4, dtype="int32")
    assert macs(lax.ragged_dot, rows, matrices, sizes) == 8 * 3 * 5
    gradient = jax.grad(lambda r, m, s: lax.ragged_dot(r, m, s).sum(), (0, 1))
    assert macs(gradient, rows, matrices, sizes) == 3 * 8 * 3 * 5


# Convolutions

NHWC = ("NHWC", "HWIO", "NHWC")


def convolution(stride=1, padding="SAME", groups=1, layout=NHWC, **settings):
    def apply(x, kernel):
        return lax.conv_general_dilated(
            x,
            kernel,
            (stride,) * (x.ndim - 2),
            padding,
            dimension_numbers=layout,
            feature_group_count=groups,
            **settings,
        )

    return apply


# the convolution, its input, its kernel, its output's elements times the taps that each hears
CONVOLUTIONS = {
    "same": (convolution(), (2, 7, 5, 3), (3, 3, 3, 4), (2 * 7 * 5 * 4) * (3 * 3 * 3)),
    "valid": (convolution(1, "VALID"), (2, 9, 8, 3), (3, 2, 3, 5), (2 * 7 * 7 * 5) * (3 * 2 * 3)),
    "strided": (convolution(2), (1, 8, 9, 3), (3, 3, 3, 4), (4 * 5 * 4) * (3 * 3 * 3)),
    "strided, symmetric": (
        convolution(2, ((3, 3), (3, 3))),
        (1, 224, 224, 3),
        (7, 7, 3, 64),
        (112 * 112 * 64) * (7 * 7 * 3),
    ),
    "dilated kernel": (
        convolution(rhs_dilation=(2, 3)),
        (1, 9, 9, 2),
        (3, 3, 2, 4),
        (9 * 9 * 4) * (3 * 3 * 2),
    ),
    "grouped": (
        convolution(1, "VALID", groups=2),
        (1, 6, 6, 4),
        (3, 3, 2, 6),
        (4 * 4 * 6) * (3 * 3 * 2),
    ),
    "depthwise": (convolution(2, groups=6), (2, 8, 8, 6), (5, 5, 1, 6), (2 * 4 * 4 * 6) * 25),
    "multiplier": (convolution(groups=3), (1, 4, 4, 3), (3, 3, 1, 6), (4 * 4 * 6) * 9),
    "one dimension": (
        convolution(2, layout=("NWC", "WIO", "NWC")),
        (2, 10, 3),
        (4, 3, 5),
        (2 * 5 * 5) * (4 * 3),
    ),
    "channels first": (
        convolution(1, "VALID", layout=("NCHW", "OIHW", "NCHW")),
        (1, 3, 6, 7),
        (5, 3, 2, 3),
        (5 * 5 * 5) * (2 * 3 * 3),
    ),
    "three dimensions": (
        convolution(layout=("NDHWC", "DHWIO", "NDHWC")),
        (1, 3, 4, 5, 2),
        (3, 3, 3, 2, 4),
        (3 * 4 * 5 * 4) * (27 * 2),
    ),
    # Transposed: its input's elements times the outputs that each reaches.
    "transposed": (
        lambda x, k: lax.conv_transpose(x, k, (2, 2), "SAME"),
        (1, 5, 4, 3),
        (4, 4, 3, 6),
        (5 * 4 * 3) * (4 * 4 * 6),
    ),
    "transposed, stride 1": (
        lambda x, k: lax.conv_transpose(x, k, (1, 1), "VALID"),
        (1, 5, 4, 3),
        (3, 3, 3, 6),
        (5 * 4 * 3) * (3 * 3 * 6),
    ),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_and_its_two_gradients(name):
    f, x, kernel, expected = CONVOLUTIONS[name]
    x, kernel = of(*x), of(*kernel)
    assert macs(f, x, kernel) == expected
    # dy meets every kernel tap to make dx, and every tap's input to make dk: the same triples.
    gradient = [jax.grad(lambda x, k: f(x, k).sum(), argument) for argument in (0, 1)]
    assert macs(gradient[0], x, kernel) == 2 * expected
    if name != "transposed, stride 1":  # its dk cannot be told from a wide kernel on padding
        assert macs(gradient[1], x, kernel) == 2 * expected


def test_vmap_of_a_convolution_over_images_kernels_and_both():
    f, x, k, one = CONVOLUTIONS["grouped"]
    for axes, args in [
        ((0, None), (of(7, *x), of(*k))),
        ((None, 0), (of(*x), of(7, *k))),
        ((0, 0), (of(7, *x), of(7, *k))),
    ]:
        assert macs(jax.vmap(f, axes), *args) == 7 * one


# Control flow

X = of(4, 4)  # x @ x is 64 multiply-adds


def test_a_scan_counts_as_often_as_it_runs():
    chain = lambda n, body: lambda x: lax.scan(lambda c, _: (body(c), None), x, length=n)[0]
    square = lambda x: x @ x
    for n in (0, 1, 2, 5):
        assert macs(chain(n, square), X) == n * 64
    assert macs(chain(3, chain(5, square)), X) == 15 * 64
    assert macs(lambda x: lax.fori_loop(2, 9, lambda i, c: c @ c, x), X) == 7 * 64
    # Each round of the backward pass makes two products of the same size.
    assert macs(jax.grad(lambda x: chain(5, square)(x).sum()), X) == 3 * 5 * 64


def test_a_branch_counts_as_its_dearest():
    cheap, dear = lambda x: x, lambda x: x @ x @ x
    assert macs(lambda x: lax.cond(x[0, 0] > 0, cheap, dear, x), X) == 2 * 64
    switch = lambda i, x: lax.switch(i, [cheap, dear, lambda x: x @ x], x)
    assert macs(switch, of(dtype="int32"), X) == 2 * 64


def test_a_product_in_a_while_loop_is_refused_by_name():
    def search(x):
        with jax.named_scope("search"):
            return lax.while_loop(lambda c: c[0, 0] < 3, lambda c: c @ c, x)

    with pytest.raises(UserError, match="products of a 'while' in search cannot be counted"):
        macs(search, X)
    with pytest.raises(UserError, match="'while'"):
        macs(lambda x: lax.scan(lambda c, _: (search(c), None), x, length=2)[0], X)
    assert macs(lambda x: lax.while_loop(lambda c: c[0, 0] < 3, jnp.sin, x) @ x, X) == 64


def test_calls_are_looked_into():
    square = lambda x: x @ x
    custom = jax.custom_vjp(square)
    custom.defvjp(lambda x: (x @ x, x), lambda x, g: (g @ x @ x @ x,))
    jvp = jax.custom_jvp(square)
    jvp.defjvps(lambda t, y, x: t @ x @ x)
    assert macs(jax.jit(jax.jit(square)), X) == macs(custom, X) == macs(jvp, X) == 64
    assert macs(jax.grad(lambda x: custom(x).sum()), X) == 4 * 64
    # Rematerialised, the forward product runs again: x @ x twice, and its two gradients.
    again = jax.checkpoint(lambda x: jnp.sin(x @ x))
    assert macs(again, X) == 64
    assert macs(jax.grad(lambda x: again(x).sum()), X) == 4 * 64


def test_shards_count_together():
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    data, whole = PartitionSpec(("data", "fsdp")), PartitionSpec()
    f = jax.shard_map(jnp.matmul, mesh=mesh, in_specs=(data, whole), out_specs=data)
    assert macs(f, of(16, 3), of(3, 5)) == 16 * 3 * 5


def test_a_kernel_counts_over_its_grid():
    def kernel(x, y, out):
        out[...] = x[...] @ y[...]

    multiply = pl.pallas_call(
        kernel,
        grid=(2, 3),
        in_specs=[
            pl.BlockSpec((8, 16), lambda i, j: (i, 0)),
            pl.BlockSpec((16, 8), lambda i, j: (0, j)),
        ],
        out_specs=pl.BlockSpec((8, 8), lambda i, j: (i, j)),
        out_shape=of(16, 24),
    )
    assert macs(multiply, of(16, 16), of(16, 24)) == 16 * 16 * 24


# The same on every backend


class Separable(nn.Module):
    """Convolutions that CPU gets written as sums, and as a batched dot."""

    @nn.compact
    def __call__(self, x):
        x = conv.Conv(8, (3, 3), feature_group_count=8)(x)
        return conv.Conv(8, (3, 3), feature_group_count=2)(x)


def test_counting_after_a_run_on_cpu_and_running_after_a_count():
    model, image = Separable(), jnp.ones((1, 4, 4, 8))
    expected = (16 * 8) * 9 + (16 * 8) * (9 * 4)
    variables = initial(model.init, jax.random.key(0), image)
    inner = jax.jit(model.apply)  # its traces are kept, and found again inside other functions
    outer = lambda v, x: inner(v, x)
    before = inner(variables, image)
    assert macs(inner, variables, image) == macs(outer, variables, image) == expected
    assert "conv_general_dilated" not in str(jax.make_jaxpr(outer)(variables, image))
    assert jnp.array_equal(before, inner(variables, image))
    assert macs(outer, variables, image) == expected


def test_another_thread_is_not_told():
    seen = []
    with conv.target("tpu"):
        thread = threading.Thread(target=lambda: seen.append(conv.backend()))
        thread.start()
        thread.join()
        seen.append(conv.backend())
    assert [*seen, conv.backend()] == ["cpu", "tpu", "cpu"]


def test_a_training_step_is_three_forward_passes_less_the_input_gradient():
    # The first layer's input needs no gradient: 3 * all - the first layer.
    model = nn.Sequential([nn.Dense(16), nn.relu, nn.Dense(4)])
    x, layers = of(8, 10), [8 * 10 * 16, 8 * 16 * 4]
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    assert macs(model.apply, variables, x) == sum(layers)
    gradient = jax.value_and_grad(lambda v, x: jnp.square(model.apply(v, x)).sum())
    assert macs(gradient, variables, x) == 3 * sum(layers) - layers[0]
