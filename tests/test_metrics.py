"""Metrics of labels and of maps: scikit-learn's and SciPy's figures, on awkward input too."""

import decimal
import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import mannwhitneyu
from sklearn import metrics as sk

from jaxdl import registry
from jaxdl.config import part
from jaxdl.metrics.segmentation import mean_over_seen, overlaps

N, CLASSES = 200, 5


@functools.cache
def metric(name, **args):
    found = registry.bind("metrics", part(name, **args))()
    return found, jax.jit(found.sums)


def value(name, logits, label, /, mask=None, **args):
    found, sums = metric(name, **args)
    mask = np.ones(len(label), np.float32) if mask is None else mask
    parts = jax.tree.map(
        np.asarray, sums({"logits": jnp.asarray(logits)}, {"label": label, "mask": mask})
    )
    if found.merge == "concat":
        return found.value({k: v[mask > 0] for k, v in parts.items()})
    return found.value(*(np.asarray(x, np.float64) for x in parts))


def random(seed=0, k=CLASSES):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, k, N).astype(np.int32)
    logits = rng.normal(0, 2, (N, k)).astype(np.float32)
    logits[np.arange(N), label] += 1
    return logits, label


def without(logits, label, truth=(), said=()):
    """The same, where some classes are never true and some never said."""
    left = [c for c in range(CLASSES) if c not in truth]
    label = np.asarray(left, np.int32)[label % len(left)]
    logits = logits.copy()
    logits[:, list(said)] = -50
    return logits, label


CASES = {
    "random": random(),
    "a class never true": without(*random(1), truth=[2]),
    "a class never said": without(*random(2), said=[4]),
    "a class nowhere": without(*random(3), truth=[0], said=[0]),
    "one class true": without(*random(4), truth=[0, 1, 2, 4]),
    "one class said": without(*random(5), said=[0, 1, 2, 3]),
    "all the same": without(*random(6), truth=[0, 1, 3, 4], said=[0, 1, 3, 4]),
    "all right": (10 * np.eye(CLASSES, dtype=np.float32)[random(7)[1]], random(7)[1]),
}


@pytest.mark.parametrize("case", CASES)
def test_confusion_metrics_are_those_of_scikit_learn(case):
    logits, label = CASES[case]
    said = logits.argmax(-1)
    for average in ("macro", "micro", "weighted"):
        scores = sk.precision_recall_fscore_support(label, said, average=average, zero_division=0)
        for name, expected in zip(("precision", "recall", "f1"), scores[:3], strict=True):
            found = value(name, logits, label, average=average)
            np.testing.assert_allclose(found, expected, atol=1e-12, err_msg=f"{name} {average}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a class that is not there, or alone
        balanced = sk.balanced_accuracy_score(label, said)
        kappa = sk.cohen_kappa_score(label, said)
        matthews = sk.matthews_corrcoef(label, said)
        np.testing.assert_allclose(value("balanced_accuracy", logits, label), balanced, atol=1e-12)
    np.testing.assert_allclose(value("kappa", logits, label), kappa, atol=1e-12)
    np.testing.assert_allclose(value("matthews", logits, label), matthews, atol=1e-12)


def with_ties(k):
    logits, label = random(8, k)
    return np.round(logits), label


def ranked(logits):
    """The rank of each row by each class's probability, which are tied to 80 digits or not."""
    with decimal.localcontext(prec=100):
        powers = [[decimal.Decimal(float(x)).exp() for x in row] for row in logits]
        scores = [[round(p / sum(row), 80) for p in row] for row in powers]
    columns = list(zip(*scores, strict=True))
    return [[sorted(set(column)).index(p) for p in column] for column in columns]


@pytest.mark.parametrize("case", CASES)
def test_ranking_is_that_of_scikit_learn_class_by_class(case):
    logits, label = CASES[case]
    ranks = ranked(logits)
    there = [c for c in range(CLASSES) if 0 < (label == c).sum() < N]
    for name, one in [("auroc", sk.roc_auc_score), ("average_precision", ap)]:
        expected = np.mean([one(label == c, ranks[c]) for c in there]) if there else np.nan
        np.testing.assert_allclose(value(name, logits, label), expected, rtol=1e-9)
    scores = softmax(logits.astype(np.float64), axis=-1)
    if len(there) == CLASSES and scores.max() < 1:
        expected = sk.roc_auc_score(label, scores, multi_class="ovr", average="macro")
        np.testing.assert_allclose(value("auroc", logits, label), expected, rtol=1e-9)


ap = sk.average_precision_score


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_rows_that_are_permuted_or_moved_are_tied(shift):
    random, n = np.random.default_rng(5), 120
    logits = random.integers(-2, 3, (n, 4)) * 0.75 + shift * random.integers(0, 9, (n, 1))
    logits = logits.astype(np.float32)
    label = random.integers(0, 4, n).astype(np.int32)
    ranks = ranked(logits)
    for name, one in [("auroc", sk.roc_auc_score), ("average_precision", ap)]:
        expected = np.mean([one(label == c, ranks[c]) for c in range(4)])
        np.testing.assert_allclose(value(name, logits, label), expected, rtol=1e-12)


def test_infinite_logits_are_ranked():
    logits = np.array([[-np.inf, 0, 1], [0, -np.inf, 1], [np.inf, 0, 0], [2, 0, -np.inf]])
    label = np.array([2, 1, 0, 0], np.int32)
    # Class 0: p = 0, .27, 1, .88; class 1: .27, 0, 0, .12; class 2: .73, .73, 0, 0.
    expected = np.mean([1.0, 0.5 / 3, (2 + 0.5) / 3])
    np.testing.assert_allclose(value("auroc", logits, label), expected)


@pytest.mark.parametrize("make", [random, with_ties], ids=["random", "ties"])
def test_of_two_classes_the_second_is_looked_for(make):
    logits, label = make(k=2)
    score = softmax(logits.astype(np.float64), axis=-1)[:, 1]
    np.testing.assert_allclose(value("auroc", logits, label), sk.roc_auc_score(label, score))
    np.testing.assert_allclose(value("average_precision", logits, label), ap(label, score))
    # The share of pairs that are in order, half for ties: Mann and Whitney's U.
    u = mannwhitneyu(score[label == 1], score[label == 0]).statistic
    pairs = (label == 1).sum() * (label == 0).sum()
    np.testing.assert_allclose(value("auroc", logits, label), u / pairs)


def test_the_order_of_the_very_sure_is_kept():
    # Their probabilities are all 1 in float32, and from 37 on in float64 too.
    logits = np.stack([np.zeros(N), np.linspace(20, 500, N)], axis=-1).astype(np.float32)
    label = (np.arange(N) >= N // 2).astype(np.int32)
    assert value("auroc", logits, label) == 1
    assert value("auroc", logits[::-1], label) == 0


def by_hand(logits, label, bins):
    """(ECE, MCE) by a loop over intervals that are open below and closed above."""
    p = np.asarray(jax.nn.softmax(jnp.asarray(logits)))
    sure, hit = p.max(-1), p.argmax(-1) == label
    edges = (np.arange(bins + 1) / bins).astype(np.float32)
    gaps, shares = [], []
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        inside = (sure > low) & (sure <= high)
        if inside.any():
            gaps.append(abs(hit[inside].mean() - sure[inside].astype(np.float64).mean()))
            shares.append(inside.mean())
    return np.dot(gaps, shares), max(gaps)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("bins", [1, 15])
def test_calibration_by_a_loop_over_bins(case, bins):
    logits, label = CASES[case]
    expected = by_hand(logits, label, bins)
    for name, e in zip(("calibration_error", "max_calibration_error"), expected, strict=True):
        np.testing.assert_allclose(value(name, logits, label, bins=bins), e, atol=2e-6)


def test_calibration_worked_out():
    # Guo et al.'s definition: (0.6, 0.8] has two of confidence 0.75 and one hit.
    p = np.array([0.75, 0.75, 0.95, 0.95, 0.6])
    logits = np.log(np.stack([p, 1 - p], axis=-1)).astype(np.float32)
    label = np.array([0, 1, 0, 0, 1], np.int32)
    # 0.6 stands on an edge and belongs to the bin below it.
    expected = (2 * 0.25 + 2 * 0.05 + 1 * 0.6) / 5
    found = value("calibration_error", logits, label, bins=5)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    found = value("max_calibration_error", logits, label, bins=5)
    np.testing.assert_allclose(found, 0.6, rtol=1e-5)


def test_even_odds_stand_in_the_bin_below_the_edge():
    # 1/5 is the upper edge of bin 3 of 15: with others in bin 4, it matters where it goes.
    logits = np.zeros((N, CLASSES), np.float32)
    logits[::2, 0] = 0.1
    label = np.zeros(N, np.int32)
    label[::4] = 1
    np.testing.assert_allclose(
        value("max_calibration_error", logits, label, bins=15), by_hand(logits, label, 15)[1],
        rtol=1e-5,
    )  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_brier_is_that_of_scikit_learn(case):
    logits, label = CASES[case]
    p = softmax(logits.astype(np.float64), axis=-1)
    expected = sk.brier_score_loss(label, p, labels=range(CLASSES), scale_by_half=False)
    np.testing.assert_allclose(value("brier", logits, label), expected, rtol=1e-5, atol=1e-9)


def test_a_network_that_went_to_nan_is_no_number():
    logits, label = random()
    logits = logits.copy()
    logits[17] = np.nan
    for name in (
        "cross_entropy", "brier", "calibration_error", "max_calibration_error", "auroc",
        "average_precision",
    ):  # fmt: skip
        assert np.isnan(value(name, logits, label)), name
        # Unless it is padding that did.
        mask = (np.arange(N) != 17).astype(np.float32)
        expected = value(name, np.nan_to_num(logits), label, mask)
        np.testing.assert_allclose(value(name, logits, label, mask), expected, rtol=1e-6)
        assert np.isfinite(expected)


def test_one_class_alone():
    logits, label = np.ones((N, 1), np.float32), np.zeros(N, np.int32)
    expected = {"precision": 1, "recall": 1, "f1": 1, "balanced_accuracy": 1, "matthews": 0}
    expected |= {"kappa": np.nan, "auroc": np.nan, "average_precision": np.nan}
    expected |= {"brier": 0, "calibration_error": 0, "max_calibration_error": 0}
    for name, e in expected.items():
        np.testing.assert_equal(value(name, logits, label), e, err_msg=name)


def test_infinite_logits_have_an_order_too():
    logits, label = random()
    logits = np.where(logits < -1, -np.inf, logits)
    scores = softmax(logits.astype(np.float64), axis=-1)
    keep = np.isfinite(logits).any(-1)
    logits, label, scores = logits[keep], label[keep], scores[keep]
    expected = np.mean([sk.roc_auc_score(label == c, scores[:, c]) for c in range(CLASSES)])
    np.testing.assert_allclose(value("auroc", logits, label), expected, rtol=1e-9)


def maps(seed, classes_seen):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(4, 5, 6, CLASSES)).astype(np.float32)
    label = rng.integers(0, classes_seen, (4, 5, 6))
    label[rng.random(label.shape) < 0.2] = 255
    mask = np.array([1, 1, 0, 1], np.float32)
    return logits, label, mask, (label != 255) & (mask[:, None, None] > 0)


@pytest.mark.parametrize("classes_seen", [1, 3, 5])
def test_dice_is_the_f1_score_of_pixels(classes_seen):
    logits, label, mask, counted = maps(classes_seen, classes_seen)
    truth, said = label[counted], logits.argmax(-1)[counted]
    each = sk.f1_score(truth, said, labels=range(CLASSES), average=None, zero_division=0)
    np.testing.assert_allclose(value("dice", logits, label, mask), each, rtol=1e-6)
    mean = sk.f1_score(truth, said, average="macro")
    np.testing.assert_allclose(value("mean_dice", logits, label, mask), mean, rtol=1e-6)
    jaccard = sk.jaccard_score(truth, said, average="macro")
    np.testing.assert_allclose(value("mean_iou", logits, label, mask), jaccard, rtol=1e-6)
    iou = value("iou", logits, label, mask)
    np.testing.assert_allclose(value("dice", logits, label, mask), 2 * iou / (1 + iou))


def test_maps_of_nothing_but_void_have_no_mean():
    logits, label, *_ = maps(0, 3)
    void = np.full_like(label, 255)
    assert np.isnan(value("mean_dice", logits, void, np.ones(4, np.float32)))
    assert np.isnan(mean_over_seen(np.zeros(2), np.zeros(2)))


def test_more_pixels_than_float32_counts_to():
    shape = (1, 2**12 + 1, 2**12)
    count = jax.jit(lambda x, y: overlaps({"logits": x}, {"label": y}))
    found = count(jnp.zeros((*shape, 1), jnp.bfloat16), jnp.zeros(shape, jnp.int32))
    assert [int(x[0]) for x in found] == [2**24 + 2**12] * 3
