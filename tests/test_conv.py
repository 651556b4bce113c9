"""Every way of writing a convolution is held against `lax.conv_general_dilated`."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from jaxdl.nn import conv, pool

NHWC = ("NHWC", "HWIO", "NHWC")
A = ((2, 1), (0, 3))  # asymmetric padding
N = ((-1, 2), (1, -1))  # and negative

# formulation, map, kernel, stride, padding, channels in, out, groups, kernel dilation
GEOMETRIES = [
    ("im2col", (5, 7), (1, 1), 1, "SAME", 3, 5, 1, 1),
    ("im2col", (7, 4), (1, 1), 2, "SAME", 3, 5, 1, 1),
    ("im2col", (6, 5), (1, 1), 3, A, 2, 3, 1, 1),
    ("im2col", (1, 1), (3, 3), 1, "SAME", 3, 4, 1, 1),  # only the centre tap reads the map
    ("im2col", (2, 2), (5, 5), 1, "SAME", 3, 4, 1, 1),  # a 3x3 in effect
    ("im2col", (2, 3), (3, 3), 1, "SAME", 3, 4, 1, 1),
    ("im2col", (4, 4), (3, 3), 2, "SAME", 3, 2, 1, 1),
    ("im2col", (5, 4), (5, 2), 3, A, 1, 3, 1, 1),
    ("im2col", (3, 9), (3, 3), 1, "VALID", 3, 2, 1, 1),
    ("im2col", (4, 4), (3, 3), 1, "SAME", 2, 3, 1, 2),
    ("dense", (1, 6), (2, 3), 1, "SAME", 2, 3, 1, 1),  # a 1x3 in effect
    ("im2col", (6, 6), (3, 3), 2, N, 2, 3, 1, 1),
    ("patch", (8, 4), (4, 4), 4, "VALID", 3, 5, 1, 1),
    ("patch", (9, 7), (4, 3), (4, 3), "VALID", 2, 3, 1, 1),  # the last row and column are left over
    ("patch", (5, 4), (5, 4), 1, "VALID", 3, 2, 1, 1),
    ("patch", (24, 12), (12, 12), 12, "VALID", 1, 2, 1, 1),  # more taps than are written out
    ("dense", (8, 7), (3, 3), 1, "SAME", 3, 5, 1, 1),
    ("dense", (9, 8), (3, 3), 1, "SAME", 16, 12, 1, 1),  # narrow: two neighbours as one
    ("dense", (8, 9), (5, 4), 1, A, 3, 17, 1, 1),
    ("dense", (8, 8), (3, 3), 2, "SAME", 4, 18, 1, 1),
    ("dense", (9, 11), (3, 2), (2, 3), A, 3, 4, 1, 1),  # the last columns are read by nothing
    ("dense", (17, 13), (7, 7), 2, "SAME", 3, 2, 1, 1),
    ("dense", (14, 15), (2, 3), (4, 5), "VALID", 3, 2, 1, 1),  # phases that no tap reaches
    ("dense", (9, 10), (3, 3), 1, "SAME", 2, 3, 1, 2),
    ("dense", (15, 24), (3, 4), (2, 3), A, 3, 2, 1, 2),
    ("dense", (16, 15), (2, 3), 2, "SAME", 2, 3, 1, 3),
    ("dense", (9, 9), (3, 3), 1, N, 2, 3, 1, 1),
    ("lax", (12, 12), (12, 12), 1, "SAME", 3, 3, 3, 1),  # too many taps
    ("depthwise", (5, 8), (3, 3), 1, "SAME", 5, 5, 5, 1),
    ("depthwise", (9, 6), (3, 3), 2, A, 3, 3, 3, 1),
    ("depthwise", (6, 7), (2, 3), 3, "VALID", 3, 6, 3, 1),  # channel multiplier
    ("depthwise", (8, 5), (5, 5), 1, "SAME", 3, 3, 3, 1),
    ("depthwise", (7, 8), (5, 5), 2, "SAME", 3, 6, 3, 1),
    ("depthwise", (9, 8), (7, 7), 1, "SAME", 2, 2, 2, 1),
    ("depthwise", (1, 2), (7, 5), 1, "SAME", 3, 3, 3, 1),
    ("depthwise", (9, 9), (3, 3), 1, "SAME", 3, 3, 3, 2),  # atrous
    ("depthwise", (4, 4), (1, 1), 2, "SAME", 3, 3, 3, 1),
    ("grouped", (5, 4), (3, 3), 1, "SAME", 6, 4, 2, 1),
    ("grouped", (7, 6), (3, 2), 2, A, 6, 9, 3, 1),
    ("grouped", (3, 3), (1, 1), 1, "SAME", 4, 6, 2, 1),
]
NAMES = [f"{g[0]}-{i}" for i, g in enumerate(GEOMETRIES)]
each_geometry = pytest.mark.parametrize("geometry", GEOMETRIES, ids=NAMES)
# One of each, for what costs more to check.
KINDS = ("im2col", "patch", "dense", "depthwise", "grouped")
SAMPLE = [[g for g in GEOMETRIES if g[0] == kind][1] for kind in KINDS]
SAMPLE[0] = next(g for g in GEOMETRIES if g[:4] == ("im2col", (4, 4), (3, 3), 2))
DENSE = [g for g in GEOMETRIES if g[0] == "dense"]
each_kind = pytest.mark.parametrize("geometry", SAMPLE, ids=lambda g: g[0])


# As jaxprs name them.
PRODUCTS = ("dot_general", "conv_general_dilated", "conv_input_gradient", "conv_kernel_gradient")


def arrays(geometry, seed=0):
    _, size, kernel, _, _, channels, out, groups, _ = geometry
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2, *size, channels)).astype(np.float32)
    k = rng.normal(size=(*kernel, channels // groups, out)).astype(np.float32)
    return jnp.asarray(x), jnp.asarray(k)


def pair(geometry):
    """(ours, lax's) as functions of (x, kernel)."""
    _, _, _, stride, padding, _, _, groups, rate = geometry
    stride, rate = (s if isinstance(s, tuple) else (s, s) for s in (stride, rate))
    common = {
        "window_strides": stride,
        "padding": padding,
        "rhs_dilation": rate,
        "dimension_numbers": NHWC,
        "feature_group_count": groups,
    }
    ours = functools.partial(conv.conv_general_dilated, **common)
    return ours, functools.partial(lax.conv_general_dilated, **common)


def close(a, b, rtol=1e-5):
    jax.tree.map(
        lambda u, v: np.testing.assert_allclose(
            u, v, rtol=rtol, atol=rtol * max(1.0, float(jnp.abs(v).max()))
        ),
        a,
        b,
    )


def primitives(f, *args):
    """Every equation of the jaxpr, those of inner jaxprs too."""

    def walk(jaxpr):
        for eqn in jaxpr.eqns:
            yield eqn
            for value in eqn.params.values():
                for inner in value if isinstance(value, (tuple, list)) else (value,):
                    inner = getattr(inner, "jaxpr", inner)
                    if hasattr(inner, "eqns"):
                        yield from walk(inner)

    return list(walk(jax.make_jaxpr(f)(*args).jaxpr))


@each_geometry
def test_value_and_first_derivatives_equal_lax(geometry):
    x, k = arrays(geometry)
    dx, dk = arrays(geometry, seed=1)

    def everything(f):
        @jax.jit
        def run(x, k):
            y, tangent = jax.jvp(f, (x, k), (dx, dk))
            weight = jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)
            return y, tangent, jax.vjp(f, x, k)[1](weight)

        return run(x, k)

    ours, reference = pair(geometry)
    close(everything(ours), everything(reference))


@each_geometry
def test_the_chooser_picks_what_was_measured_to_be_quickest(geometry, monkeypatch):
    ours, reference = pair(geometry)
    chosen = []
    traced = {
        name: f and (lambda *args, name=name, f=f: chosen.append(name) or f(*args))
        for name, f in conv.FORMULATIONS.items()
    }
    monkeypatch.setattr(conv, "FORMULATIONS", traced)
    eqns = primitives(ours, *arrays(geometry))
    assert chosen == [geometry[0]] * (geometry[0] != "lax")
    assert (geometry[0] == "lax") == any(e.primitive is lax.conv_general_dilated_p for e in eqns)
    # On an accelerator it is lax's convolution, whatever the geometry.
    monkeypatch.setattr(conv, "backend", lambda: "tpu")
    elsewhere = jax.make_jaxpr(lambda *args: ours(*args))(*arrays(geometry))  # traced afresh
    assert str(elsewhere) == str(jax.make_jaxpr(reference)(*arrays(geometry)))


@pytest.mark.parametrize("formulation", ["dense", "im2col", "grouped", "depthwise", "lax"])
def test_a_formulation_can_be_forced_on_any_backend(formulation, monkeypatch):
    monkeypatch.setattr(conv, "backend", lambda: "gpu")
    groups = {"depthwise": 4, "grouped": 2}.get(formulation, 1)
    geometry = (formulation, (9, 8), (3, 3), 1, "SAME", 4, 4, groups, 1)
    ours, reference = pair(geometry)
    args = arrays(geometry)
    forced = functools.partial(ours, formulation=formulation)
    close(forced(*args), reference(*args))
    found = {e.primitive for e in primitives(forced, *args)}
    assert (lax.conv_general_dilated_p in found) == (formulation == "lax")


@each_kind
def test_vmap_over_images_kernels_and_both(geometry):
    ours, reference = pair(geometry)
    x, k = arrays(geometry)
    xs, ks = jnp.stack([x, 2 * x, -x]), jnp.stack([k, k + 1, -k])
    for axes, args in [((0, None), (xs, k)), ((None, 0), (x, ks)), ((0, 0), (xs, ks))]:
        gradient = [
            jax.jit(jax.vmap(jax.grad(lambda x, k, f=f: jnp.sin(f(x, k)).sum(), (0, 1)), axes))
            for f in (ours, reference)
        ]
        close(gradient[0](*args), gradient[1](*args))


@pytest.mark.parametrize("geometry", SAMPLE + DENSE[4:6], ids=lambda g: g[0])
def test_hessian_vector_products_both_ways_equal_lax(geometry):
    args, tangents = arrays(geometry), arrays(geometry, seed=1)

    def products(f):
        scale = f(*args).size
        gradient = jax.grad(lambda x, k: jnp.sum(jnp.sin(f(x, k) / scale)), (0, 1))
        forward_over_reverse = jax.jvp(gradient, args, tangents)[1]
        dot = lambda a, b: sum(jnp.vdot(u, v) for u, v in zip(a, b, strict=True))
        reverse_over_reverse = jax.grad(lambda a: dot(gradient(*a), tangents))(args)
        return forward_over_reverse, reverse_over_reverse

    ours, reference = (jax.jit(lambda f=f: products(f))() for f in pair(geometry))
    close(ours, reference)
    close(ours[0], ours[1])


@each_kind
def test_half_precision_operands_stay_half(geometry):
    dtype = jnp.bfloat16
    ours, reference = pair(geometry)
    x, k = (a.astype(dtype) for a in arrays(geometry))

    def step(x, k):
        y, pull = jax.vjp(ours, x, k)
        return y, pull(y)

    for eqn in primitives(step, x, k):
        if eqn.primitive.name in PRODUCTS:
            assert {v.aval.dtype for v in eqn.invars} == {jnp.dtype(dtype)}
    y, grads = jax.jit(step)(x, k)
    assert {a.dtype for a in (y, *grads)} == {jnp.dtype(dtype)}
    exact = reference(x.astype(jnp.float32), k.astype(jnp.float32))
    close(y.astype(jnp.float32), exact, rtol=2e-2)


@each_kind
def test_a_sharded_batch_gives_the_same_numbers(geometry):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    ours, _ = pair(geometry)
    x, k = arrays(geometry)
    x = jnp.concatenate([x * s for s in range(1, 9)])  # (16 h w c)

    def step(x, k):
        y, pull = jax.vjp(ours, x, k)
        return y, pull(y)

    batch, whole = (NamedSharding(mesh, PartitionSpec(*s)) for s in [("data",), ()])
    sharded = jax.jit(step, in_shardings=(batch, whole), out_shardings=(batch, (batch, whole)))
    close(sharded(x, k), jax.jit(step)(x, k))


@pytest.mark.parametrize("devices", [1, 2])
def test_devices_add_up_gradients_outside_of_every_call(devices):
    """XLA on CPU keeps collectives of one program in order, and forgets those of what it calls."""
    mesh = jax.make_mesh(
        (devices,), ("data",), axis_types=(jax.sharding.AxisType.Auto,),
        devices=jax.devices()[:devices],
    )  # fmt: skip
    batch, whole = (NamedSharding(mesh, PartitionSpec(*s)) for s in [("data",), ()])
    geometry = ("dense", (8, 8), (3, 3), 2, "SAME", 4, 18, 1, 1)
    ours, _ = pair(geometry)
    step = jax.grad(lambda k, x: jnp.sum(jnp.sin(ours(x, k))))
    x, k = arrays(geometry)
    program = jax.jit(step, in_shardings=(whole, batch), out_shardings=whole).lower(k, x)
    assert ('inlineable = "false"' in program.as_text()) == (devices == 1)
    assert ("all-reduce(" in program.compile().as_text()) == (devices == 2)


@pytest.mark.parametrize(
    "settings",
    [
        {"features": 4, "kernel_size": (3, 3)},
        {"features": 6, "kernel_size": (3, 3), "feature_group_count": 3, "use_bias": False},
        {"features": 4, "kernel_size": (1, 1), "strides": 2},
        {"features": 4, "kernel_size": (3, 3), "padding": "CIRCULAR"},
        {"features": 4, "kernel_size": (2, 2), "strides": (2, 2), "padding": 1},
        {"features": 4, "kernel_size": (3, 3), "kernel_dilation": 2, "dtype": jnp.bfloat16},
        {"features": 4, "kernel_size": (3, 3), "input_dilation": 2, "padding": 1},
    ],
)
def test_conv_is_linens_conv(settings):
    x = jax.random.normal(jax.random.key(0), (2, 3, 2, 3))
    theirs, ours = nn.Conv(**settings), conv.Conv(**settings)
    params = theirs.init(jax.random.key(1), x)
    jax.tree.map(np.testing.assert_array_equal, params, ours.init(jax.random.key(1), x))
    y, reference = ours.apply(params, x), theirs.apply(params, x)
    assert y.dtype == reference.dtype
    close(
        y.astype(jnp.float32),
        reference.astype(jnp.float32),
        rtol=1e-5 if y.dtype == x.dtype else 2e-2,
    )
    # Inside a module it is named as nn.Conv is, so weights move between the two.
    assert list(nn.Sequential([ours]).init(jax.random.key(1), x)["params"]) == ["layers_0"]


def test_one_dimension_and_odd_layouts_go_to_lax():
    sequence = jnp.ones((2, 9, 3))
    layer = conv.Conv(4, (3,), padding="CAUSAL")
    assert layer.init_with_output(jax.random.key(0), sequence)[0].shape == (2, 9, 4)
    image, kernel = jnp.ones((2, 3, 2, 2)), jnp.ones((4, 3, 3, 3))  # channels first
    y = conv.conv_general_dilated(image, kernel, (1, 1), "SAME")
    close(y, lax.conv_general_dilated(image, kernel, (1, 1), "SAME"))


def test_shapes_that_do_not_fit_are_refused_by_lax():
    with pytest.raises(ValueError, match="feature_group_count"):
        conv.conv_general_dilated(
            jnp.ones((1, 2, 2, 3)), jnp.ones((3, 3, 4, 4)), (1, 1), "SAME", dimension_numbers=NHWC
        )


# Windows that overlap, that do not, that leave inputs out, and that read padding.
POOLS = [
    ((9, 8), (3, 3), (2, 2), "SAME"),
    ((7, 7), (3, 2), (1, 2), "VALID"),
    ((8, 8), (2, 2), (2, 2), "VALID"),
    ((9, 10), (2, 2), (3, 3), "VALID"),
    ((6, 5), (3, 3), (2, 2), ((1, 1), (0, 2))),
    ((20, 20), (10, 10), (5, 5), "VALID"),  # more shifts than are written out
]


@pytest.mark.parametrize("kind", ["max", "mean", "mean with padding"])
@pytest.mark.parametrize("geometry", POOLS, ids=str)
def test_poolings_on_cpu_are_those_of_flax(geometry, kind):
    size, *window = geometry
    # few values, so that many windows have two largest; one row of them all below padding's zero
    x = np.random.default_rng(0).integers(-3, 3, (2, *size, 3)).astype(np.float32)
    x[0] -= 7
    name, options = ("max_pool", {}) if kind == "max" else ("avg_pool", {})
    if kind == "mean with padding":
        options = {"count_padding": True}

    def everything(x):
        y, pull = jax.vjp(lambda x: getattr(pool, name)(x, *window, **options), x)
        weight = jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)
        return y, pull(weight)[0]

    ours = jax.jit(everything)(x)
    with conv.target("tpu"):
        close(ours, jax.jit(everything)(x))


def test_what_is_no_number_stays_so_in_a_largest():
    x = jnp.ones((1, 6, 6, 1)).at[0, 2, 3, 0].set(jnp.nan).at[0, 4, 4, 0].set(-jnp.inf)
    shown = pool.max_pool(x, (3, 3), (1, 1), "SAME")
    np.testing.assert_array_equal(shown, nn.max_pool(x, (3, 3), (1, 1), "SAME"))
    assert int(jnp.isnan(shown).sum()) == 9
