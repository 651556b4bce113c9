"""Segmentation: ways back to a larger map, networks by hand, the objective and its metrics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, jaccard_score
from zoo import initial, quick

from jaxdl import models, tree
from jaxdl.metrics.segmentation import correct_pixels, intersections, mean_iou, mean_over_seen
from jaxdl.nn.dense import to_convolutional
from jaxdl.nn.upsample import Upsample, bilinear, max_pool_with_indices, unpool
from jaxdl.objectives.base import Model
from jaxdl.objectives.segmentation import segmentation
from jaxdl.train.gradients import accumulate_grads

KEY = jax.random.key(0)


def params_of(name, classes, image, **args):
    model = models.create(name, classes, **args)
    return jax.eval_shape(model.init, KEY, jnp.zeros((1, *image)))["params"]


def out_of(name, image, **args):
    model = models.create(name, 2, **args)
    return jax.eval_shape(lambda x: model.init_with_output(KEY, x)[0], jnp.zeros(image)).shape


def test_maxima_and_their_places_by_loops():
    x = np.random.default_rng(0).standard_normal((2, 5, 6, 3)).astype(np.float32)
    values, index = max_pool_with_indices(jnp.asarray(x))
    back = unpool(values, index, (5, 6))
    assert values.shape == index.shape == (2, 3, 3, 3)
    expected = np.zeros_like(x)
    for b, i, j, c in np.ndindex(2, 3, 3, 3):
        window = x[b, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, c]
        k, m = np.unravel_index(window.argmax(), window.shape)
        assert values[b, i, j, c] == window.max()
        assert index[b, i, j, c] == 2 * k + m
        expected[b, 2 * i + k, 2 * j + m, c] = window.max()
    np.testing.assert_array_equal(back, expected)


def ramp(height, width):
    one = 2.0 * np.arange(height)[:, None] + np.arange(width)
    return jnp.asarray(np.stack([one, one], axis=-1)[None], jnp.float32)


@pytest.mark.parametrize("factor", [2, 3, 8])
def test_a_ramp_stays_a_ramp(factor):
    # Pixels are areas: output p lies at (p + 1/2) / f - 1/2 of the input.
    x, n = ramp(5, 6), factor
    place = lambda size: (np.arange(size * n) + 0.5) / n - 0.5
    expected = 2 * place(5)[:, None] + place(6)
    layer = Upsample(factor)
    variables = layer.init(KEY, x)
    inside = np.s_[n:-n, n:-n]
    for y in (layer.apply(variables, x), bilinear(x, (5 * n, 6 * n))):
        assert y.shape == (1, 5 * n, 6 * n, 2)
        for c in (0, 1):
            np.testing.assert_allclose(y[0, ..., c][inside], expected[inside], atol=1e-5)


def test_unet_of_the_paper():
    assert out_of("unet", (1, 572, 572, 1), padding="VALID") == (1, 388, 388, 2)
    assert out_of("unet", (1, 45, 61, 1), width=4) == (1, 45, 61, 2)
    # Figure 1: pairs of 3x3 convolutions down and up, 2x2 up-convolutions, a 1x1 at the end.
    pair = lambda i, o: 9 * i * o + o + 9 * o * o + o
    down = pair(1, 64) + pair(64, 128) + pair(128, 256) + pair(256, 512) + pair(512, 1024)
    up = sum(4 * 2 * o * o + o + pair(2 * o, o) for o in (512, 256, 128, 64))
    count = tree.count(params_of("unet", 2, (32, 32, 1)))
    assert count == down + up + 64 * 2 + 2 == 31_030_658


def test_segnet_by_hand():
    # Figure 2: VGG-16 and its mirror image; the last convolution, with a bias, gives the classes.
    convs = 1_728 + 36_864 + 73_728 + 147_456 + 294_912 + 2 * 589_824 + 1_179_648 + 5 * 2_359_296
    scales = 2 * (2 * 64 + 2 * 128 + 3 * 256 + 6 * 512)
    # The mirror gives what the encoder's convolutions read, all but the image.
    mirrored = convs - 1_728
    mirrored_scales = 2 * (2 * 64 + 2 * 128 + 3 * 256 + 5 * 512)
    head = 9 * 64 * 11 + 11
    count = tree.count(params_of("segnet", 11, (32, 32, 3)))
    assert count == convs + scales + mirrored + mirrored_scales + head == 29_441_419
    assert out_of("segnet", (1, 45, 61, 3), width=2) == (1, 45, 61, 2)


def test_segnet_has_the_encoder_of_vgg16_bn():
    encoder = tree.flatten(params_of("segnet", 5, (32, 32, 3))["backbone"])
    vgg = tree.flatten(params_of("vgg16_bn", 5, (32, 32, 3), hidden=1)["backbone"])
    shared = {k: v.shape for k, v in vgg.items() if not k.startswith("fc")}
    assert shared == {k: v.shape for k, v in encoder.items() if not k.startswith("up")}


# Ours: VGG-16 without its last layer, 134,260,544; the scores of fc7, pool4 and pool3; 4x4
# kernels between classes. The authors' FCN-8s has one more kernel, the last upsampling's, kept
# fixed, 16 x 16 x 21 x 21: 134,489,759 in all.
FCN_BY_HAND = {
    "fcn32s": 134_260_544 + 4097 * 21,
    "fcn16s": 134_260_544 + 4097 * 21 + 513 * 21 + 16 * 21 * 21,
    "fcn8s": 134_260_544 + 4097 * 21 + 513 * 21 + 257 * 21 + 2 * 16 * 21 * 21,
}


@pytest.mark.parametrize("name", FCN_BY_HAND)
def test_fcn_by_hand(name):
    count = tree.count(params_of(name, 21, (32, 32, 3)))
    assert count == FCN_BY_HAND[name]
    for size in ((32, 32), (45, 61), (97, 100)):
        assert out_of(name, (1, *size, 3), width=2, hidden=4) == (1, *size, 2)
    if name == "fcn8s":
        assert count + 16 * 16 * 21 * 21 == 134_489_759


def test_fcn_takes_the_weights_of_vgg16():
    small = {"width": 2, "hidden": 8}
    vgg = params_of("vgg16", 5, (224, 224, 3), **small)["backbone"]
    vgg = jax.tree.map(lambda s: np.arange(s.size).reshape(s.shape), vgg)
    shapes = params_of("fcn8s", 5, (32, 32, 3), **small)["backbone"]
    converted = to_convolutional(vgg, shapes)
    assert {k: v.shape for k, v in tree.flatten(converted).items()} == {
        k: v.shape for k, v in tree.flatten(shapes).items()
    }
    np.testing.assert_array_equal(converted["fc6"]["kernel"].ravel(), vgg["fc6"]["kernel"].ravel())


def fcn32():
    """The map behind fc7 of a small FCN-32s, smooth throughout: (h, w, c) -> (h', w', d)."""
    model = models.create("fcn32s", 2, width=2, hidden=4, activation="softplus")
    params = initial(model.init, KEY, jnp.zeros((1, 32, 32, 3)))["params"]
    return jax.jit(
        lambda image: model.apply({"params": params}, image[None], method="features")[0][0]
    )


def test_receptive_field_of_fcn_by_the_support_of_a_gradient():
    # Five stages see 1 + 2 (2 + 2 * 2 + 3 * 4 + 3 * 8 + 3 * 16) + (1 + 2 + 4 + 8 + 16) = 212
    # pixels in steps of 32; fc6 sees seven of those: 212 + 6 * 32 = 404.
    size = (480, 480)
    fc7 = fcn32()
    image = jax.random.normal(KEY, (*size, 3))
    gradient = jax.grad(lambda x: fc7(x)[7, 7].sum())(image)
    rows = np.flatnonzero(np.abs(gradient).sum(axis=(1, 2)))
    # Entry 7 lies on pixels [224, 256), in the middle of what it sees.
    middle = (224 + 256) / 2
    assert rows[0] >= middle - 202 and rows[-1] < middle + 202
    assert (rows[0], rows[-1]) == (middle - 202, middle + 201)


def test_fcn_moves_with_the_image_by_its_stride():
    fc7 = fcn32()
    image = jax.random.normal(KEY, (448, 512, 3))
    here, moved = fc7(image[:, :480]), fc7(image[:, 32:])
    scale = np.abs(here - here.mean(axis=(0, 1), keepdims=True)).max()  # what tells entries apart
    # Columns that see no border: entry i sees [32 i - 186, 32 i + 218), so 6 and 7 of 480 pixels.
    np.testing.assert_allclose(moved[6, 6], here[6, 7], atol=1e-4 * scale)
    assert np.abs(moved[6, 0] - here[6, 1]).max() > 1e-2 * scale


def example():
    random = np.random.default_rng(1)
    logits = random.standard_normal((4, 5, 6, 4)).astype(np.float32)
    label = random.integers(0, 3, (4, 5, 6))  # class 3 is never true
    label[random.random(label.shape) < 0.2] = 255
    mask = np.array([1.0, 1.0, 1.0, 0.0], np.float32)
    counted = (label != 255) & (mask[:, None, None] > 0)
    batch = {"image": jnp.zeros((4, 5, 6, 3)), "label": jnp.asarray(label), "mask": mask}
    return {"logits": jnp.asarray(logits)}, batch, label[counted], logits.argmax(-1)[counted]


def test_metrics_are_those_of_scikit_learn():
    outputs, batch, truth, said = example()
    total, count = correct_pixels(outputs, batch)
    np.testing.assert_allclose(total / count, accuracy_score(truth, said), rtol=1e-6)
    intersection, union = intersections(outputs, batch)
    each = jaccard_score(truth, said, labels=[0, 1, 2, 3], average=None)
    np.testing.assert_allclose(intersection / union, each, rtol=1e-6)
    expected = jaccard_score(truth, said, average="macro")
    sums = map(np.asarray, mean_iou().sums(outputs, batch))
    np.testing.assert_allclose(mean_over_seen(*sums), expected, rtol=1e-6)


def test_a_class_that_is_nowhere_is_left_out_of_the_mean():
    assert mean_over_seen(np.array([1, 0, 3]), np.array([2, 0, 4])) == (1 / 2 + 3 / 4) / 2
    assert np.isnan(mean_over_seen(np.zeros(2), np.zeros(2)))


def test_iou_of_two_batches_is_that_of_one():
    outputs, batch, *_ = example()
    halves = [
        intersections({"logits": outputs["logits"][s]}, {k: v[s] for k, v in batch.items()})
        for s in (np.s_[:2], np.s_[2:])
    ]
    for whole, *parts in zip(intersections(outputs, batch), *halves, strict=True):
        np.testing.assert_array_equal(whole, sum(parts))


def small_goal(**args):
    module = models.create("unet", 4, width=2, depth=1, drop_rate=0.0, **args)
    goal = segmentation(Model(module, jnp.dtype("float32")))
    outputs, batch, *_ = example()
    batch = batch | {"image": jax.random.normal(KEY, (4, 5, 6, 3))}
    return goal, batch, initial(goal.init, KEY, batch)


def test_the_loss_is_the_mean_of_valid_pixels():
    goal, batch, (params, variables) = small_goal()
    loss, aux = quick(goal.loss)(params, variables, batch, KEY)
    logits = np.asarray(aux.outputs["logits"], np.float64)
    assert logits.shape == (4, 5, 6, 4)
    found = []
    for b, i, j in np.ndindex(3, 5, 6):
        label = int(batch["label"][b, i, j])
        if label != 255:
            found.append(np.log(np.exp(logits[b, i, j]).sum()) - logits[b, i, j, label])
    np.testing.assert_allclose(loss, np.mean(found), rtol=1e-5)
    assert aux.metrics["loss"][1] == len(found)


def test_accumulated_batches_are_one_batch():
    goal, batch, (params, variables) = small_goal()
    plain = quick(jax.value_and_grad(goal.loss, has_aux=True))
    (one, _), gradient = plain(params, variables, batch, KEY)
    (two, _), other = quick(accumulate_grads(2)(goal.loss))(params, variables, batch, KEY)
    np.testing.assert_allclose(one, two, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_labels_of_a_larger_map_are_cut_to_the_middle():
    # VALID: 5x6 -> 3x4 is a pair's work; the label's middle row and columns are what is left.
    outputs, batch, *_ = example()
    middle = {"logits": outputs["logits"][:, 1:4, 1:5]}
    cut = batch | {"label": batch["label"][:, 1:4, 1:5]}
    for a, b in zip(correct_pixels(middle, batch), correct_pixels(middle, cut), strict=True):
        assert a == b
