"""Nothing slow before the first step: first values uncompiled, no data but what is asked for."""

import logging
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import ROOT
from test_run import small
from zoo import BUILT, quick

from jaxdl import models, registry
from jaxdl.config import Data, EarlyStopping, Part, part
from jaxdl.data import tfds_source
from jaxdl.loaded import load_run
from jaxdl.nn.head import Classifier, Head
from jaxdl.objectives.base import Model
from jaxdl.run import run
from jaxdl.train import materialize as materialize_module
from jaxdl.train.materialize import materialize
from jaxdl.train.sharding import make_mesh, replicated, tree_shardings
from jaxdl.train.state import StateSpec, abstract_state, init_state, new_state

KEY = jax.random.key(3)


def whole(shapes):
    return jax.tree.map(lambda _: replicated(make_mesh()), shapes)


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)


def programs():
    """What parameters are made of, and what is not a function of bits and numbers alone."""
    init = nn.initializers
    shape = (70, 1000)  # of two stretches
    return {
        "he": lambda k: init.he_normal()(k, shape),
        "truncated": lambda k: init.lecun_normal()(k, (3, 3, 40, 50)),
        "uniform": lambda k: init.xavier_uniform()(k, shape),
        "small": lambda k: init.normal(0.02)(k, (1, 1, 7)),
        "one": lambda k: jax.random.normal(k, (1,)),
        "orthogonal": lambda k: init.orthogonal()(k, (16, 8)),
        "shifted": lambda k: 1 + 0.1 * jax.random.uniform(k, (2, 5), minval=-1.0),
        "coin": lambda k: jnp.where(jax.random.bernoulli(k, 0.3, (40,)), 1.0, -1.0),
        "two draws": lambda k: jax.random.normal(k, (9,)) * jax.random.uniform(k, (9,)),
        "reshaped": lambda k: jax.random.normal(k, (6, 4)).reshape(3, 8),
        "repeated": lambda k: jnp.broadcast_to(jax.random.normal(k, (1, 4)), (3, 4)),
        "column": lambda k: jax.random.normal(k, (3, 1)) * jnp.ones((3, 4)),
        "one spread": lambda k: jax.random.normal(k, (1,)) * jnp.ones((5,)),
        "turned": lambda k: jax.random.normal(k, (3, 4)).T,
        "half": lambda k: jax.random.normal(k, (8,), jnp.bfloat16),
        "permuted": lambda k: jax.random.permutation(k, 10),
        "gamma": lambda k: jax.random.gamma(k, 2.0, (5,)),
        "constants": lambda k: (jnp.zeros((2, 3)), jnp.full((4,), 2.5), jnp.eye(3), jnp.arange(4)),
        "keys": lambda k: (jax.random.split(k, 3), jax.random.fold_in(k, 2**32 - 7), k),
        "a key of a number": lambda k: jax.random.fold_in(k, jnp.ones((), jnp.int32) + 3),
        "a key of nothing": lambda k: jax.jit(lambda: jax.random.key(5))(),
        "grid of keys": lambda k: jax.random.split(k, (2, 5))[1, 1::2],
        "keys of keys": lambda k: jax.vmap(jax.random.fold_in, (0, None))(jax.random.split(k), 3),
        "another kind of key": lambda k: jax.random.split(
            jax.random.wrap_key_data(jnp.arange(4, dtype=jnp.uint32), impl="rbg"), 3
        ),
        "each": lambda k: jax.vmap(lambda j: init.he_normal()(j, (4, 5)))(jax.random.split(k, 3)),
        "loop": lambda k: jax.lax.map(
            lambda j: (init.he_normal()(j, (4, 5)), jnp.ones(2)), jax.random.split(k, 3)
        ),
        "carried": lambda k: jax.lax.scan(
            lambda c, j: (c + 1, c * jax.random.normal(j, (2,))), 0.0, jax.random.split(k, 3)
        ),
    }


@pytest.mark.parametrize("name", programs())
def test_what_is_drawn_is_what_the_program_returns(name):
    program = programs()[name]
    assert_same(materialize(program, KEY, shardings=whole), program(KEY))


def test_nothing_is_compiled_but_one_stretch_of_each_kind_of_draw():
    def program(key):
        keys = jax.random.split(key, 6)
        shapes = [(3, 3, 8, 16), (5, 5, 16, 8), (1, 1, 4, 4), (70, 1000)]
        kernels = [nn.initializers.he_normal()(k, s) for k, s in zip(keys, shapes, strict=False)]
        return kernels, nn.initializers.normal(0.02)(keys[4], (9, 9)), jnp.zeros((11, 13))

    materialize_module._stretch.clear_cache()
    materialize(program, KEY, shardings=whole)
    assert materialize_module._stretch._cache_size() == 2  # truncated, and not


@pytest.mark.parametrize("shape", [(1, 8), (4, 2)], ids=["data8", "fsdp4"])
def test_numbers_do_not_depend_on_the_mesh(shape):
    model = Model(models.create("mlp", 10, widths=(256,)), jnp.dtype(jnp.float32))
    goal = registry.bind("objectives", Part("supervised"))(model)
    spec = {"image": jax.ShapeDtypeStruct((1, 16, 16, 1), jnp.uint8)}
    spec["label"] = jax.ShapeDtypeStruct((1,), jnp.int32)
    fsdp, data = shape
    mesh, tx, options = make_mesh(data=data, fsdp=fsdp), optax.adam(1e-3), StateSpec(average=True)
    state = init_state(goal, tx, KEY, spec, mesh, options)
    assert_same(state, new_state(goal, tx, KEY, spec, options))
    abstract = abstract_state(goal, tx, KEY, spec, mesh, options)
    for leaf, form in zip(jax.tree.leaves(state), jax.tree.leaves(abstract), strict=True):
        assert leaf.sharding == form.sharding and leaf.dtype == form.dtype
    kernel = state.params["backbone"]["dense0"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape)[0] == 256 // fsdp
    # the step donates its state: no two of its leaves may be one buffer
    spent = jax.jit(lambda s: jax.tree.map(jnp.copy, s), donate_argnums=0)(state)
    assert_same(spent.average["params"], spent.params)


def initialiser(name):
    side, args = BUILT[name]
    module = models.create(name, 10, **args)
    image = jnp.zeros((1, side, side, 1 if name.startswith("lenet") else 3))
    return lambda key: module.init({"params": key}, image, train=False)


# One of each way to make parameters; the larger ones only repeat these.
STRUCTURES = (
    "mlp", "composed", "lenet1989", "alexnet_lrn", "fcn8s", "unet", "resnet20", "xception",
    "mobilenet_v3_small", "convnext_tiny", "vit_tiny_patch16_224", "mixer_s32_224",
)  # fmt: skip


@pytest.mark.parametrize("name", STRUCTURES)
def test_every_structure_is_drawn_without_a_compiler(name):
    materialize_module._stretch.clear_cache()
    found = materialize(initialiser(name), KEY, shardings=whole)
    assert materialize_module._stretch._cache_size() <= 3  # normal, truncated, uniform
    expected = jax.eval_shape(initialiser(name), KEY)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), found) == jax.tree.map(
        lambda x: (x.shape, x.dtype), expected
    )


@pytest.mark.parametrize("name", ["mlp", "lenet5", "vit_tiny_patch16_224"])
def test_first_values_of_a_network_are_those_of_flax(name):
    found, expected = (
        materialize(initialiser(name), KEY, shardings=whole),
        quick(initialiser(name))(KEY),
    )
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        # a compiler may contract a product and a sum: the last bits
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


class _Odd(nn.Module):
    """Parameters that are no plain draws: of the input's shape, of each other, of a loop."""

    @nn.compact
    def __call__(self, x, train=False):
        x = x.reshape(x.shape[0], -1)
        basis = self.param("basis", lambda k: jnp.linalg.qr(jax.random.normal(k, (4, 4)))[0])
        self.param("both", lambda k: basis @ basis.T + jax.random.normal(k, (4, 4)))
        self.variable("batch_stats", "mean", lambda: jnp.arange(x.shape[-1], dtype=jnp.float32))
        return nn.Dense(4)(x) @ basis


def test_parameters_that_are_no_plain_draws():
    module = Classifier(_Odd(), Head(3))
    program = lambda key: module.init({"params": key}, jnp.zeros((1, 4, 4, 1)), train=False)
    found, expected = materialize(program, KEY, shardings=whole), dict(program(KEY))
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    # the head's kernel, like the kernels above, to the last bits
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-6, 1e-7), found, expected)


def test_a_split_leaf_is_the_whole_one():
    mesh = make_mesh(data=2, fsdp=4)
    program = lambda key: {"kernel": jax.random.normal(key, (512, 256))}
    shardings = lambda shapes: tree_shardings(shapes, mesh)
    found = materialize(program, KEY, shardings=shardings)["kernel"]
    assert found.sharding.shard_shape(found.shape) == (128, 256)
    np.testing.assert_array_equal(found, program(KEY)["kernel"])


def test_importing_the_package_imports_nothing_of_jax():
    code = "import sys, jaxdl; print('jax' in sys.modules, 'numpy' in sys.modules)"
    command = [sys.executable, "-c", code]
    assert subprocess.check_output(command, cwd=ROOT, text=True).split() == ["False", "False"]


@pytest.fixture
def opened(own_registry):
    """Splits of a source that counts who is asked for."""
    names = []

    @registry.register("sources", "counted")
    def counted(split, /, *, knows=True):
        names.append(split)
        source = registry.bind("sources", part("fake", examples=40))(split)
        return source if knows else dict(source.records.arrays)

    return names


@pytest.mark.parametrize("knows", [True, False])
def test_only_the_split_that_is_measured_is_opened(tmp_path, opened, knows):
    source = part("counted", knows=knows)
    config = small(
        data=Data(source, batch_size=16),
        model=part("mlp", widths=[8]),
        duration="6 steps",
        average=None,
        early_stopping=EarlyStopping(patience=3),
    )
    values = run(config, tmp_path)
    opened.clear()
    for role in ("test", "validation"):
        found = load_run(tmp_path).evaluate(role)
        assert opened == [role]
        opened.clear()
        if role == "test":
            assert found["accuracy"] == values["test/accuracy"]
    load_run(tmp_path).evaluate("train")
    assert opened == ["train"]


def test_what_tfds_says_of_opencv_is_for_nobody():
    tfds_source.hush()
    tfds_source.hush()
    absl = logging.getLogger("absl")
    assert absl.filters.count(tfds_source.worth_saying) == 1
    passes = lambda text: absl.filter(logging.LogRecord("absl", 30, "", 0, text, None, None))
    assert not passes("OpenCV is not installed. We recommend using OpenCV because")
    assert passes("something else")
