"""Evaluation: every example once, whatever the batch and the devices; scikit-learn's figures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh
from sklearn import metrics as sk

from jaxdl import registry
from jaxdl.config import part
from jaxdl.data.arrays import from_arrays
from jaxdl.data.pipeline import evaluation_batches, open_split
from jaxdl.metrics.base import Metric, ratio
from jaxdl.train.evaluate import make_evaluate
from jaxdl.train.outputs import output_rows
from jaxdl.train.sharding import AXES, batch_sharding
from jaxdl.types import VOID, Objective

CLASSES = 7
# All but the one that needs another metric inside.
ENTRIES = {e.name: e for e in registry.entries("metrics") if e.name != "on"}
METRICS = {name: entry.build() for name, entry in ENTRIES.items()}
# What they are of: each example's class, pixels, tokens, or a target of another kind.
UNITS = {
    name: entry.metadata.get("target") or entry.metadata.get("unit", "example")
    for name, entry in ENTRIES.items()
}
# Those that read a label an example, and not tokens or maps, and that add up.
OF_LABELS = [n for n, m in METRICS.items() if "example" in UNITS[n] and m.merge == "add"]
PARTS = {
    "accuracy": part("accuracy"),
    "top_3": part("top_k", k=3),
    "cross_entropy": part("cross_entropy"),
    "confusion": part("confusion"),
}


def mesh_of(n):
    devices = np.asarray(jax.devices()[:n]).reshape(n, 1)
    return Mesh(devices.reshape(*devices.shape, 1, 1), AXES, axis_types=(AxisType.Auto,) * 4)


def task(n):
    """A split whose 'images' are logits already, so that figures can be had without a network."""
    rng = np.random.default_rng(n)
    label = rng.integers(0, CLASSES, n).astype(np.int32)
    label[:1] = CLASSES - 1
    logits = rng.normal(size=(n, 1, 1, CLASSES)).astype(np.float32)
    logits[np.arange(n), 0, 0, label] += rng.normal(1, 1, n)
    split = open_split(
        lambda _: from_arrays({"image": logits, "label": label}), "all", memory=2**30,
        num_classes=CLASSES,
    )  # fmt: skip
    return split, logits[:, 0, 0].astype(np.float64), label


# The "parameters" scale the logits; padding would show up at once, as its label counts too.
GOAL = Objective(
    init=lambda key, batch: (jnp.ones(()), {}),
    loss=None,
    predict=lambda params, variables, batch: {"logits": params * batch["image"][:, 0, 0]},
)


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("n", [1, 7, 64, 65, 333])
def test_equal_to_scikit_learn(n, devices):
    split, logits, label = task(n)
    mesh = mesh_of(devices)
    batches = lambda: evaluation_batches(split, batch_size=32, sharding=batch_sharding(mesh))
    metrics = {name: registry.bind("metrics", p)() for name, p in PARTS.items()}
    found = make_evaluate(GOAL, metrics, mesh)(jnp.ones(()), {}, batches())

    classes = np.arange(CLASSES)
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = {
        "accuracy": sk.accuracy_score(label, logits.argmax(-1)),
        "top_3": sk.top_k_accuracy_score(label, logits, k=3, labels=classes),
        "cross_entropy": sk.log_loss(label, probabilities, labels=classes),
        "confusion": sk.confusion_matrix(label, logits.argmax(-1), labels=classes) / n,
    }
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6, atol=1e-7, err_msg=name)

    gathered = {"rows": output_rows(n, 64.0, "example")}
    numbered = (dict(batch) | {"index": jnp.arange(32)} for batch in batches())
    predictions = make_evaluate(GOAL, gathered, mesh)(jnp.ones(()), {}, numbered)["rows"]
    np.testing.assert_array_equal(predictions["label"], label)
    np.testing.assert_array_equal(predictions["prediction"], logits.argmax(-1))
    np.testing.assert_allclose(predictions["confidence"], probabilities.max(-1), rtol=1e-5)


@pytest.mark.parametrize("name", OF_LABELS)
def test_padding_counts_for_nothing_even_where_it_is_nan(name):
    metric = jax.jit(METRICS[name].sums)
    logits = jax.random.normal(jax.random.key(0), (6, CLASSES))
    label = jnp.arange(6) % CLASSES
    total, count = metric({"logits": logits}, {"label": label, "mask": jnp.ones(6)})
    padded = jnp.concatenate([logits, jnp.full((2, CLASSES), jnp.nan)])
    mask = jnp.asarray([1.0] * 6 + [0.0] * 2)
    batch = {"label": jnp.concatenate([label, label[:2]]), "mask": mask}
    total_2, count_2 = metric({"logits": padded}, batch)
    np.testing.assert_allclose(total_2, total, rtol=1e-6)
    np.testing.assert_array_equal(count, count_2)
    assert np.sum(count) == 6


def of_kind(unit, n):
    """A split for the metrics of one kind: what a network gave, and what is true."""
    rng = np.random.default_rng(n)
    of_class = lambda *shape: rng.integers(0, CLASSES, shape).astype(np.int32)
    logits = lambda *shape: rng.normal(size=(*shape, CLASSES)).astype(np.float32)
    if unit == "pixel":
        label = of_class(n, 3, 4)
        label[rng.random(label.shape) < 0.2] = VOID
        return {"logits": logits(n, 3, 4), "label": label}
    if unit == "token":
        return {"logits": logits(n, 9), "tokens": of_class(n, 9), "generated": of_class(n, 9)}
    if unit == "multilabel":
        return {"logits": logits(n), "label": of_class(n, CLASSES) % 2}
    if unit == "soft":
        weight = rng.random((n, CLASSES)).astype(np.float32)
        return {"logits": logits(n), "label": weight / weight.sum(axis=1, keepdims=True)}
    if unit == "numbers":
        return {"logits": logits(n), "label": logits(n)}
    features = rng.normal(size=(n, 5)).astype(np.float32)
    return {"logits": logits(n), "label": of_class(n), "features": features}


def at_random(split, size, seed):
    """The examples in batches with gaps anywhere, which hold NaN and other labels."""
    rng = np.random.default_rng(seed)
    left = list(rng.permutation(len(split["logits"])))
    while left:
        mask = rng.random(size) < rng.random()
        mask &= np.cumsum(mask) <= len(left)
        picked = [left.pop() for _ in range(mask.sum())]
        batch = {"mask": mask.astype(np.float32)}
        for name, array in split.items():
            is_float = array.dtype.kind == "f"
            filling = np.full if is_float else lambda *args: rng.integers(1, CLASSES, args[0])
            batch[name] = filling((size, *array.shape[1:]), np.nan).astype(array.dtype)
            batch[name][mask] = array[picked]
        yield batch


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("unit", ["example", "pixel", "token", "multilabel", "soft", "numbers"])
def test_any_batches_and_any_padding_give_one_value(unit, devices):
    split, mesh = of_kind(unit, 29), mesh_of(devices)
    metrics = {name: metric for name, metric in METRICS.items() if unit in UNITS[name]}
    as_they_are = GOAL._replace(predict=lambda params, variables, batch: dict(batch))
    evaluate = make_evaluate(as_they_are, metrics, mesh)
    place = lambda batch: jax.device_put(batch, batch_sharding(mesh))

    whole = jax.jit(lambda s: {name: metric.sums(s, s) for name, metric in metrics.items()})(split)
    for seed in range(3):
        found = evaluate((), {}, map(place, at_random(split, 8, seed)))
        assert list(found) == list(metrics)
        for name, metric in metrics.items():
            parts = jax.tree.map(np.asarray, whole[name])
            is_dict = metric.merge == "concat"
            expected = metric.value(parts) if is_dict else metric.value(*map(np.float64, parts))
            np.testing.assert_allclose(found[name], expected, rtol=1e-6, err_msg=name)


def test_without_any_example_there_is_no_value():
    metrics = {name: registry.bind("metrics", p)() for name, p in PARTS.items()}
    found = make_evaluate(GOAL, metrics, mesh_of(1))(jnp.ones(()), {}, [])
    assert list(found) == list(PARTS) and np.isnan(list(found.values())).all()
    for name in OF_LABELS:
        metric = METRICS[name]
        given = ({"logits": jnp.zeros((1, CLASSES))}, {"label": jnp.zeros(1, int)})
        nothing = [np.zeros(s.shape) for s in jax.eval_shape(metric.sums, *given)]
        assert np.isnan(metric.value(*nothing)).all(), name


def test_arguments_that_the_value_takes_reach_it():
    matrix = np.array([[3.0, 1.0], [0.0, 4.0]])
    for average, expected in [("macro", (1 + 4 / 5) / 2), ("micro", 7 / 8)]:
        metric = registry.bind("metrics", part("precision", average=average))()
        assert metric.value(matrix, np.float64(8)) == expected


def test_top_k_with_more_than_there_are_classes_is_one():
    metric = registry.bind("metrics", part("top_k", k=50))()
    total, count = metric.sums({"logits": jnp.zeros((4, 3))}, {"label": jnp.arange(4) % 3})
    assert total == count == 4


def test_a_metric_may_make_its_value_of_the_sums_of_the_whole_split():
    split, logits, label = task(40)
    mesh = mesh_of(1)
    batches = evaluation_batches(split, batch_size=16, sharding=batch_sharding(mesh))
    loss = registry.bind("metrics", part("cross_entropy"))().sums
    metrics = {
        "exp": Metric(loss, lambda total, count: np.exp(total / count)),
        "mean": Metric(loss),
    }
    found = make_evaluate(GOAL, metrics, mesh)(jnp.ones(()), {}, batches)
    expected = np.log(np.exp(logits).sum(-1)) - logits[np.arange(40), label]
    np.testing.assert_allclose(found["exp"], np.exp(expected.mean()), rtol=1e-6)
    np.testing.assert_allclose(found["mean"], expected.mean(), rtol=1e-6)


def test_nothing_counted_is_no_number_and_no_warning():
    found = ratio(np.array([3.0, 0.0]), np.array([4.0, 0.0]))
    assert found[0] == 0.75 and np.isnan(found[1])
    assert np.isnan(ratio(np.float64(0), np.float64(0)))
    np.testing.assert_array_equal(ratio(np.array([3.0, 0.0]), np.float64(4)), [0.75, 0.0])
