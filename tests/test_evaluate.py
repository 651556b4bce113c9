"""Evaluation: every example once, whatever the batch and the devices; scikit-learn's figures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as sk
from test_train import mesh_of

from jaxdl import registry
from jaxdl.config import part
from jaxdl.data.arrays import from_arrays
from jaxdl.data.pipeline import evaluation_batches, open_split
from jaxdl.train.evaluate import Metric, make_evaluate, make_predict, ratio
from jaxdl.train.sharding import batch_sharding
from jaxdl.types import Objective

CLASSES = 7
# Those that read a label an example, and not tokens or maps.
OF_LABELS = [e for e in registry.entries("metrics") if "each" not in e.facts]
PARTS = {
    "accuracy": part("accuracy"),
    "top_3": part("top_k", k=3),
    "cross_entropy": part("cross_entropy"),
    "confusion": part("confusion"),
}


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
    metrics = {name: Metric(registry.bind("metrics", p)) for name, p in PARTS.items()}
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

    predictions = make_predict(GOAL, mesh)(jnp.ones(()), {}, batches())
    np.testing.assert_array_equal(predictions["label"], label)
    np.testing.assert_array_equal(predictions["prediction"], logits.argmax(-1))
    np.testing.assert_allclose(predictions["confidence"], probabilities.max(-1), rtol=1e-5)


@pytest.mark.parametrize("entry", OF_LABELS, ids=lambda e: e.name)
def test_padding_counts_for_nothing_even_where_it_is_nan(entry):
    metric = jax.jit(registry.bind("metrics", part(entry.name)))
    logits = jax.random.normal(jax.random.key(0), (6, CLASSES))
    label = jnp.arange(6) % CLASSES
    total, count = metric({"logits": logits}, {"label": label, "mask": jnp.ones(6)})
    padded = jnp.concatenate([logits, jnp.full((2, CLASSES), jnp.nan)])
    mask = jnp.asarray([1.0] * 6 + [0.0] * 2)
    batch = {"label": jnp.concatenate([label, label[:2]]), "mask": mask}
    total_2, count_2 = metric({"logits": padded}, batch)
    np.testing.assert_allclose(total_2, total, rtol=1e-6)
    assert count == count_2 == 6


def test_merging_is_addition():
    logits = jax.random.normal(jax.random.key(0), (10, CLASSES))
    label = jnp.arange(10) % CLASSES
    for entry in OF_LABELS:
        metric = registry.bind("metrics", part(entry.name))
        parts = [
            metric({"logits": logits[s]}, {"label": label[s]}) for s in (slice(3), slice(3, 10))
        ]
        whole = metric({"logits": logits}, {"label": label})
        for merged, value in zip(map(sum, zip(*parts, strict=True)), whole, strict=True):
            np.testing.assert_allclose(merged, value, rtol=1e-5)


def test_top_k_with_more_than_there_are_classes_is_one():
    metric = registry.bind("metrics", part("top_k", k=50))
    total, count = metric({"logits": jnp.zeros((4, 3))}, {"label": jnp.arange(4) % 3})
    assert total == count == 4


def test_a_metric_may_make_its_value_of_the_sums_of_the_whole_split():
    split, logits, label = task(40)
    mesh = mesh_of(1)
    batches = evaluation_batches(split, batch_size=16, sharding=batch_sharding(mesh))
    loss = registry.bind("metrics", part("cross_entropy"))
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
