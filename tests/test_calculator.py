"""The closed forms against the book's exercise, hand-worked layers, and a Flax model."""

import flax.linen as nn
import jax
import pytest

from jaxdl import tree
from jaxdl.errors import UserError
from jaxdl.perf.calculator import Conv, Dense, Pool, calculate
from jaxdl.perf.summary import summary

# Géron, Hands-On Machine Learning, chapter 14: three 3x3 stride-2 SAME convolutions on 200x300 RGB.
EXERCISE = [Conv(100, 3, 2), Conv(200, 3, 2), Conv(400, 3, 2)]
IMAGE = (200, 300, 3)


def test_the_books_parameters_and_activations():
    rows = calculate(EXERCISE, IMAGE).rows
    assert [r.shape for r in rows] == [IMAGE, (100, 150, 100), (50, 75, 200), (25, 38, 400)]
    assert [r.parameters for r in rows] == [0, 2_800, 180_200, 720_400]
    assert [r.activations for r in rows] == [180_000, 1_500_000, 750_000, 380_000]
    # every output hears 3 x 3 of each channel below
    assert [r.macs for r in rows] == [0, 1_500_000 * 27, 750_000 * 900, 380_000 * 1800]


def test_the_books_memory_and_what_it_leaves_out():
    one, fifty = calculate(EXERCISE, IMAGE), calculate(EXERCISE, IMAGE, batch_size=50)
    assert one.parameters == 903_400
    assert one.inference_bytes == 12_613_600
    assert one.training_bytes_lower_bound == 14_853_600
    assert fifty.training_bytes_lower_bound == 565_613_600
    # What the book leaves out does not grow with the batch.
    for c in (one, fifty):
        assert (c.parameter_bytes, c.gradient_bytes) == (3_613_600, 3_613_600)
        assert c.optimizer_bytes == 7_227_200
    assert fifty.training_bytes == 565_613_600 + 3_613_600 + 7_227_200
    assert fifty.inference_bytes == 50 * 9_000_000 + 3_613_600


def test_half_precision_halves_and_sgd_keeps_nothing():
    whole = calculate(EXERCISE, IMAGE)
    half = calculate(EXERCISE, IMAGE, itemsize=2, slots=0)
    assert half.optimizer_bytes == 0
    assert half.training_bytes_lower_bound == whole.training_bytes_lower_bound / 2
    assert half.training_bytes == 7_426_800 + 1_806_800


def test_lenet5():
    # C1 156, C3 2,416, C5 48,120, F6 10,164, output 850: 61,706 in all (LeCun et al. 1998, where
    # every map of C3 sees all six).
    layers = [
        Conv(6, 5, padding="VALID"),
        Pool(2),
        Conv(16, 5, padding="VALID"),
        Pool(2),
        *map(Dense, (120, 84, 10)),
    ]
    lenet = calculate(layers, (32, 32, 1))
    shapes = [(28, 28, 6), (14, 14, 6), (10, 10, 16), (5, 5, 16), (120,), (84,), (10,)]
    assert [r.shape for r in lenet.rows[1:]] == shapes
    assert [r.parameters for r in lenet.rows[1:]] == [156, 0, 2416, 0, 48120, 10164, 850]
    assert lenet.macs == 4704 * 25 + 1600 * 150 + 400 * 120 + 120 * 84 + 84 * 10


# Padding, stride, groups, no bias; each beside the layer of the same name in Flax.
LAYERS = [
    (Conv(12, 5, 2, padding=2, bias=False), nn.Conv(12, (5, 5), 2, padding=2, use_bias=False)),
    (Pool(3, 2, padding=1), lambda x: nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))),
    (Conv(8, 3, groups=4), nn.Conv(8, (3, 3), feature_group_count=4)),
    (Pool(2, padding="SAME"), lambda x: nn.avg_pool(x, (2, 2), (2, 2), "SAME")),
    (Conv(8, 2, padding="VALID"), nn.Conv(8, (2, 2), padding="VALID")),
    (Dense(9), lambda x: x.reshape(x.shape[0], -1)),
    (Dense(4, bias=False), nn.Dense(4, use_bias=False)),
]


@pytest.mark.parametrize("image", [(32, 32, 4), (37, 26, 4)])
def test_a_flax_model_of_the_same_layers_agrees(image):
    calculated = calculate([layer for layer, _ in LAYERS], image)
    layers = [layer for _, layer in LAYERS]
    model = nn.Sequential([*layers[:6], nn.Dense(9), layers[6]])
    x = jax.ShapeDtypeStruct((3, *image), "float32")
    y, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), x)
    assert y.shape == (3, *calculated.rows[-1].shape)
    assert tree.count(variables) == calculated.parameters
    # Layers with parameters are modules, whose rows know the rest.
    traced = [r for r in summary(model, image).rows if r.parameters]
    known = [r for r in calculated.rows if r.parameters]
    assert [(r.outputs[0][1:], r.parameters, r.macs, r.activation_bytes) for r in traced] == [
        (r.shape, r.parameters, r.macs, 4 * r.activations) for r in known
    ]


def test_the_exercise_as_a_flax_model():
    model = nn.Sequential([nn.Conv(n, (3, 3), strides=2) for n in (100, 200, 400)])
    traced, calculated = summary(model, IMAGE), calculate(EXERCISE, IMAGE)
    assert traced.parameters == 903_400 and traced.macs == calculated.macs
    assert traced.weight_bytes + traced.inference_bytes == 12_613_600
    assert traced.weight_bytes + traced.training_bytes == 14_853_600
    fifty = summary(model, IMAGE, batch_size=50)
    assert fifty.weight_bytes + fifty.training_bytes == 565_613_600


def test_the_table_tells_it():
    told = str(calculate(EXERCISE, IMAGE, batch_size=50))
    assert "\nConv   100x150x100       2,800    1,500,000  6,000,000         40.5 M\n" in told
    assert "\ntraining, at least  565,613,600 B  parameters, all activations\n" in told


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ([Conv(4), Pool(9)], "layer 2, Pool: its window of 9 is larger than its map of 8"),
        ([Dense(4), Conv(4)], "layer 2, Conv: needs a map"),
        ([Conv(4, groups=2)], "layer 1, Conv: 3 -> 4 channels make no 2 groups"),
    ],
)
def test_a_layer_that_does_not_fit_is_named(layers, said):
    with pytest.raises(UserError, match=said):
        calculate(layers, (8, 8, 3))
