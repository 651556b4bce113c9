"""Recall@k against scikit-learn and by hand."""

import math

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from jaxdl.config import Config, Data, Evaluation, part
from jaxdl.metrics.retrieval import fraction_with_a_mate
from jaxdl.run import run


def test_of_the_nearest_it_is_leave_one_out_classification():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 4, 60)
    features = rng.normal(size=(60, 5)) + label[:, None] * 0.7
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    hits = []
    for i in range(60):
        rest = np.arange(60) != i
        nearest = KNeighborsClassifier(1).fit(unit[rest], label[rest])
        hits.append(nearest.predict(unit[i : i + 1])[0] == label[i])
    found = fraction_with_a_mate({"features": features, "label": label}, 1)
    assert found == pytest.approx(np.mean(hits))


def test_by_hand():
    # On the unit circle at 0, 10, 30 and 100 degrees.
    turn = np.radians([0, 10, 30, 100])
    features = np.stack([np.cos(turn), np.sin(turn)], 1) * [[1], [5], [0.1], [2]]
    found = {"features": features, "label": np.array([0, 1, 1, 0])}
    # 0 -> 10 (no), 10 -> 0 (no), 30 -> 10 (yes), 100 -> 30 (no)
    assert fraction_with_a_mate(found, 1) == 0.25
    # 0 -> 10, 30 (no); 10 -> 0, 30 (yes); 30 -> 10, 0 (yes); 100 -> 30, 10 (no)
    assert fraction_with_a_mate(found, 2) == 0.5
    assert fraction_with_a_mate(found, 10) == 1.0


def test_an_example_without_a_mate_does_not_count():
    features = np.eye(3)
    assert math.isnan(fraction_with_a_mate({"features": features, "label": np.arange(3)}, 1))
    found = {"features": np.array([[1.0, 0], [1, 0.1], [0, 1]]), "label": np.array([5, 5, 2])}
    assert fraction_with_a_mate(found, 1) == 1.0


def test_metric_learning_is_measured_by_its_features(tmp_path):
    config = Config(
        data=Data(batch_size=64),
        model=part("cnn", widths=[8, 16]),
        objective=part("embedding", loss=part("triplet", mining="hard")),
        optimizer=part("adamw", learning_rate=5e-3),
        duration="60 steps",
        evaluation=Evaluation(
            metrics=(part("recall_at"), part("recall_at", k=5)), monitor="validation/recall_at"
        ),
    )
    values = run(config, tmp_path)
    assert 0.5 < values["test/recall_at"] < values["test/recall_at_5"]  # chance is 0.1
