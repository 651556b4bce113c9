"""The battery over all models: counts, shapes, gradients, types, and the split into two."""

from functools import cache

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import ClosedJaxpr, Jaxpr
from zoo import BUILT, GOLDEN, ROUNDED, initial, quick

from jaxdl import models, registry, tree
from jaxdl.nn import conv
from jaxdl.nn.layers import round_channels
from jaxdl.objectives.base import Model
from jaxdl.objectives.segmentation import segmentation
from jaxdl.objectives.supervised import supervised

ENTRIES = registry.entries("models")
NAMES = [e.name for e in ENTRIES if "tokens" not in e.metadata]


CIFAR = {f"resnet{6 * n + 2}" for n in (3, 5, 7, 9, 18)}
AUXILIARY = ("auxiliary_0", "auxiliary_1")


@cache
def shapes_of(name, classes=1000, image=None, **args):
    model = models.create(name, classes, **args)
    image = jax.ShapeDtypeStruct((1, *(image or models.input_shape(name))), jnp.float32)
    with conv.target("tpu"):  # of the same shapes, and the soonest traced
        return jax.eval_shape(model.init, jax.random.key(0), image)


@pytest.mark.parametrize("name", GOLDEN)
def test_parameters_equal_the_published_count(name):
    assert tree.count(shapes_of(name)["params"]) == GOLDEN[name]


@pytest.mark.parametrize("n", [3, 5, 7, 9, 18])
def test_parameters_of_the_cifar_family(n):
    conv = 9 * 3 * 16 + 9 * 16 * 16 * 2 * n
    conv += 9 * (16 * 32 + 32 * 32 * (2 * n - 1)) + 9 * (32 * 64 + 64 * 64 * (2 * n - 1))
    norms = 2 * (16 + 2 * n * (16 + 32 + 64))
    count = tree.count(shapes_of(f"resnet{6 * n + 2}", 10)["params"])
    assert count == conv + norms + 64 * 10 + 10


def test_parameters_of_lenet5():
    # C1 156, C3 2,416 (all sixteen maps see all six), C5 48,120, F6 10,164, output 850
    shapes = shapes_of("lenet5", 10, image=(32, 32, 1))
    assert tree.count(shapes["params"]) == 156 + 2416 + 48120 + 10164 + 850 == 61_706


def test_parameters_of_lenet1989():
    # H1 12 x 25 + 12, H2 12 x 12 x 25 + 12, H3 192 x 30 + 30, output 30 x 10 + 10. In the paper
    # H1 has 768 biases, H2 12 x 8 x 25 weights and 192 biases: 1,068 + 2,592 + 5,790 + 310 = 9,760.
    shapes = shapes_of("lenet1989", 10)
    assert tree.count(shapes["params"]) == 312 + 3612 + 5790 + 310 == 10_024


@pytest.mark.parametrize("name", ROUNDED)
def test_parameters_equal_the_rounded_count(name):
    assert f"{tree.count(shapes_of(name)['params']) / 1e6:.2f}" == ROUNDED[name]


def test_every_model_is_counted_or_built():
    by_hand = {"fcn16s", "fcn32s"}  # in test_segmentation.py, beside fcn8s
    assert set(NAMES) <= set(GOLDEN) | set(ROUNDED) | set(BUILT) | CIFAR | by_hand


@pytest.mark.parametrize("name", NAMES)
def test_backbone_and_head_are_apart(name):
    shapes = shapes_of(name, classes=7)
    assert {"backbone", "head"} <= set(shapes["params"]) <= {"backbone", "head", *AUXILIARY}
    model = models.create(name, 7)
    image = jax.ShapeDtypeStruct((2, *models.input_shape(name)), jnp.float32)
    with conv.target("tpu"):
        features = jax.eval_shape(lambda v, x: model.apply(v, x, method="features"), shapes, image)
        logits = jax.eval_shape(
            lambda v, f: model.apply(v, f, method=lambda m, x: m.head(x)), shapes, features
        )
    maps = image.shape[1:3] if model.unit == "pixel" else ()
    chex.assert_shape(logits, (2, *maps, 7))


@pytest.mark.parametrize("name", NAMES)
def test_no_bias_stands_before_a_batch_norm(name):
    # Its gradient is zero but for rounding, which Adam would turn into steps of full size.
    names = tree.flatten(shapes_of(name)["params"])
    has_norm = any("norm" in n for n in names)
    biased = [n for n in names if n.endswith("conv/bias") or n.endswith("dense/bias")]
    assert not (has_norm and biased)


def goal_of(name, dtype):
    """The objective of the small form, and the axes of its labels behind the batch's."""
    size, args = BUILT[name]
    module = models.create(name, 5, **args)
    is_map = module.unit == "pixel"
    objective, axes = (segmentation, (size, size)) if is_map else (supervised, ())
    return objective(Model(module, jnp.dtype(dtype))), axes


@cache
def small_task(name, dtype=jnp.float32):
    goal, axes = goal_of(name, dtype)
    size = BUILT[name][0]
    image = jax.random.normal(jax.random.key(1), (8, size, size, 3))
    label = (jnp.arange(8 * np.prod(axes, dtype=int)) % 5).reshape(8, *axes)
    batch = {"image": image, "label": label}
    params, variables = initial(goal.init, jax.random.key(0), batch)
    return goal, params, variables, batch


@pytest.mark.parametrize("name", BUILT)
def test_every_parameter_gets_a_gradient(name):
    goal, params, variables, batch = small_task(name)
    take = quick(jax.value_and_grad(goal.loss, has_aux=True))
    (loss, aux), grads = jax.device_get(take(params, variables, batch, jax.random.key(2)))
    for leaf, x in tree.flatten((loss, aux.variables)).items():
        assert np.isfinite(x).all(), leaf
    for leaf, grad in tree.flatten(grads).items():
        assert np.isfinite(grad).all() and np.any(grad), leaf
    chex.assert_trees_all_equal_structs(aux.variables, variables)
    # A fresh network knows nothing yet: the loss is near log 5, within a factor of three.
    assert np.log(5) / 3 < loss < 3 * np.log(5)


@pytest.mark.parametrize("name", BUILT)
def test_inference_is_per_example_and_vmaps(name):
    goal, params, variables, batch = small_task(name)
    predict = quick(goal.predict)
    whole = predict(params, variables, batch)["logits"]
    others = batch["image"].at[4:].set(1.0)
    half = predict(params, variables, {"image": others})["logits"]
    np.testing.assert_allclose(whole[:4], half[:4], rtol=1e-4, atol=1e-5)
    assert np.abs(whole[4:] - half[4:]).max() > 1e-6
    pair = lambda x: jax.ShapeDtypeStruct((2, *x.shape), x.dtype)
    twice = jax.tree.map(pair, (params, variables))
    mapped = jax.eval_shape(jax.vmap(goal.predict, (0, 0, None)), *twice, batch)["logits"]
    assert mapped.shape == (2, *whole.shape)


@pytest.mark.parametrize("name", ["composed", "resnet18", "vit_tiny_patch16_224"])
def test_a_stack_of_networks_computes_what_each_does(name):
    goal, params, variables, batch = small_task(name)
    # NumPy's: JAX would compile a program for each shape
    twice = jax.tree.map(lambda x: np.stack([x, 2 * x]), jax.device_get((params, variables)))
    mapped = quick(jax.vmap(goal.predict, (0, 0, None)))(*twice, batch)["logits"]
    alone = [
        quick(goal.predict)(*jax.tree.map(lambda x, i=i: x[i], twice), batch)["logits"]
        for i in range(2)
    ]
    np.testing.assert_allclose(mapped, alone, rtol=1e-4, atol=1e-4)


def matmuls(jaxpr):
    """All matrix products and convolutions of a jaxpr, those of inner jaxprs included."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            yield equation
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: isinstance(x, ClosedJaxpr | Jaxpr)
        ):
            if isinstance(inner, ClosedJaxpr | Jaxpr):
                yield from matmuls(getattr(inner, "jaxpr", inner))


@pytest.mark.parametrize("name", BUILT)
def test_every_product_of_a_training_step_is_in_the_compute_type(name):
    goal, axes = goal_of(name, jnp.bfloat16)
    size = BUILT[name][0]
    batch = {
        "image": jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32),
        "label": jax.ShapeDtypeStruct((2, *axes), jnp.int32),
    }
    key = jax.random.key(0)
    params, variables = jax.eval_shape(goal.init, key, batch)
    assert {x.dtype for x in jax.tree.leaves((params, variables))} == {jnp.dtype("float32")}
    take = jax.value_and_grad(goal.loss, has_aux=True)
    jaxpr = jax.make_jaxpr(take)(params, variables, batch, key)
    found = list(matmuls(jaxpr.jaxpr))
    assert len(found) >= 3
    for equation in found:
        types = {str(v.aval.dtype) for v in equation.invars}
        assert types == {"bfloat16"}, f"{types}\n{equation}"
    (loss, aux), grads = jax.eval_shape(take, params, variables, batch, key)
    assert loss.dtype == aux.outputs["logits"].dtype == jnp.float32
    assert {g.dtype for g in jax.tree.leaves(grads)} == {jnp.dtype("float32")}
    assert {v.dtype for v in jax.tree.leaves(aux.variables)} <= {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("width", "expected"),
    [(1.0, (32, 16, 24, 40, 80, 112, 192, 320)), (2.0, (64, 32, 48, 80, 160, 224, 384, 640))],
)
def test_features_round_as_the_authors_do(width, expected):
    assert tuple(round_channels(f * width) for f in (32, 16, 24, 40, 80, 112, 192, 320)) == expected


def test_features_never_round_below_nine_tenths():
    # 1.1 * 40 = 44 -> 48 and not 40; 1.2 * 24 = 28.8 -> 32; 1.4 * 16 = 22.4 -> 24
    assert [round_channels(f * w) for f, w in ((40, 1.1), (24, 1.2), (16, 1.4))] == [48, 32, 24]


def test_efficientnet_strides_change_no_parameter():
    small = shapes_of("efficientnet_b0", strides=(1, 1, 1, 2, 2, 1, 2, 1))
    chex.assert_trees_all_equal_shapes(small["params"], shapes_of("efficientnet_b0")["params"])


def test_resnet_is_the_identity_where_its_branches_are_zero():
    # y = relu(F(x) + x) with F = 0: the features are the stem's, subsampled and padded.
    model = models.create("resnet20", 10)
    image = jax.random.normal(jax.random.key(0), (1, 8, 8, 3))
    variables = initial(model.init, jax.random.key(1), image)
    kill = lambda path, x: jnp.zeros_like(x) if "norm2" in str(path) else x
    params = jax.tree_util.tree_map_with_path(kill, variables["params"])
    state = {"params": params, "batch_stats": variables["batch_stats"]}
    _, kept = model.apply(state, image, capture_intermediates=True, mutable=["intermediates"])
    backbone = kept["intermediates"]["backbone"]
    stem = jax.nn.relu(backbone["stem_norm"]["__call__"][0])
    out = backbone["__call__"][0]
    np.testing.assert_allclose(out[..., 24:40], stem[:, ::4, ::4], rtol=1e-6)
    assert not np.any(out[..., :24]) and not np.any(out[..., 40:])
