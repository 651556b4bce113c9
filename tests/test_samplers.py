"""Samplers: each by its law, batch t a pure function of (seed, t), refusals in one line."""

import dataclasses
from collections import Counter

import jax
import numpy as np
import pytest

from jaxdl.assemble import assemble
from jaxdl.config import Config, Data, part
from jaxdl.data import train_indices
from jaxdl.data.sampler import (
    balanced,
    classes_by_examples,
    episodes,
    shuffle,
    stream_seed,
    weighted,
    words,
)
from jaxdl.errors import UserError
from jaxdl.session import training_batches

COUNTS = (60, 30, 9, 1)
N = sum(COUNTS)
LABELS = np.repeat(np.arange(4), COUNTS)[np.argsort(words(N, 7))].astype(np.int32)


def test_shuffle_is_the_order_of_train_indices():
    order = shuffle(37, 8, 5)
    for t in (0, 3, 4, 17, 1000, 2):
        np.testing.assert_array_equal(order(t), train_indices(5, t, n=37, batch_size=8))


@pytest.mark.parametrize(
    "build",
    [
        lambda seed: shuffle(N, 12, seed),
        lambda seed: balanced(N, 12, seed, LABELS),
        lambda seed: weighted(N, 12, seed, LABELS, weights=(1.0, 2.0, 3.0, 4.0)),
        lambda seed: classes_by_examples(N, 12, seed, LABELS, classes=3, examples=4),
        lambda seed: episodes(N, 12, seed, LABELS[LABELS < 3], ways=2, shots=1, queries=5),
    ],
    ids=["shuffle", "balanced", "weighted", "classes_by_examples", "episodes"],
)
def test_a_batch_is_a_function_of_seed_and_number(build):
    forwards = [build(3)(t) for t in range(40)]
    again = build(3)
    for t in reversed(range(40)):
        np.testing.assert_array_equal(again(t), forwards[t])
        assert forwards[t].shape == (12,) and (forwards[t] >= 0).all() and (forwards[t] < N).all()
    assert any((build(4)(t) != forwards[t]).any() for t in range(3))
    assert (forwards[0] != forwards[1]).any()


def test_balanced_gives_every_class_as_often_and_every_example_of_it():
    order = balanced(N, 10, 0, LABELS)
    rows = np.concatenate([order(t) for t in range(24)])  # 60 rounds of 4 classes
    assert np.bincount(LABELS[rows]).tolist() == [60, 60, 60, 60]
    for c, count in enumerate(COUNTS):
        mine = rows[LABELS[rows] == c]
        for first in range(0, 60 - count + 1, count):
            assert sorted(mine[first : first + count]) == np.flatnonzero(c == LABELS).tolist()
    rounds = LABELS[rows].reshape(60, 4)
    assert (np.sort(rounds, axis=1) == np.arange(4)).all()
    assert len({tuple(r) for r in rounds.tolist()}) > 10


def test_weighted_draws_in_proportion():
    weights = (1.0, 0.0, 5.0, 20.0)
    order = weighted(N, 500, 0, LABELS, weights=weights)
    rows = np.concatenate([order(t) for t in range(200)])
    share = np.array(weights) * COUNTS
    got = np.bincount(LABELS[rows], minlength=4) / len(rows)
    np.testing.assert_allclose(got, share / share.sum(), atol=0.005)  # 3 standard deviations
    mine = np.bincount(rows, minlength=N)[LABELS == 0]
    assert mine.min() > 0.85 * mine.mean() and mine.max() < 1.15 * mine.mean()


def test_p_classes_of_k_examples():
    order = classes_by_examples(N, 15, 0, LABELS, classes=3, examples=5)
    seen = Counter()
    for t in range(60):
        rows = order(t).reshape(3, 5)
        classes = LABELS[rows]
        assert (classes == classes[:, :1]).all() and len(set(classes[:, 0])) == 3
        seen.update(classes[:, 0].tolist())
        for own in rows:
            assert len(set(own)) == min(5, COUNTS[LABELS[own[0]]])
    assert all(30 < seen[c] < 60 for c in range(4))  # 45 in the mean


def test_episodes_lie_as_episode_way_example_and_are_disjoint():
    labels = np.repeat(np.arange(6), 8)
    order = episodes(48, 36, 0, labels, ways=3, shots=2, queries=4, episodes=2)
    tasks, taken = set(), set()
    for t in range(20):
        rows = order(t).reshape(2, 3, 6)
        for episode in rows:
            assert len(set(episode.ravel().tolist())) == 18
            classes = labels[episode]
            assert (classes == classes[:, :1]).all() and len(set(classes[:, 0])) == 3
            tasks.add(tuple(classes[:, 0]))
            taken |= {(int(labels[own[0]]), tuple(own)) for own in rows.reshape(-1, 6).tolist()}
        np.testing.assert_array_equal(rows, order(t).reshape(2, 3, 6))
    assert len(tasks) > 20 and len(taken) > 100  # of 120 draws


def test_streams_have_seeds_of_their_own():
    seeds = [stream_seed(3, name) for name in ("", "a", "b", "ab")]
    assert seeds[0] == 3 and len(set(seeds)) == 4
    assert stream_seed(4, "a") != seeds[1]
    assert seeds[1:3] == [stream_seed(3, "a"), stream_seed(3, "b")]


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (part("weighted", weights=[1.0]), "1 weights, and there are classes up to 9"),
        (part("weighted", weights=[0.0] * 10), "needs a weight above 0"),
        (
            part("classes_by_examples", classes=4, examples=2),
            "makes batches of 4 x 2 = 8 examples, not of 16: set batch_size=8",
        ),
        (part("classes_by_examples", classes=16, examples=1), "16 different classes in a batch"),
        (part("episodes", ways=5, shots=1, queries=15), "of 1 x 5 x 16 = 80 examples"),
        (part("episodes", ways=2, shots=4, queries=4), "class . has"),
        (part("episodes", ways=16, shots=1), "needs the argument 'queries'"),
    ],
    ids=lambda x: x.name if hasattr(x, "name") else "",
)
def test_what_does_not_fit_is_refused(sampler, message):
    data = Data(source=part("fake", size=(4, 4, 1), examples=50), sampler=sampler, batch_size=16)
    with pytest.raises(UserError, match=message):
        assemble(Config(data=data, model=part("mlp", widths=[4])))


def test_a_source_without_classes_is_refused():
    data = Data(source=part("shapes", size=16, examples=20), sampler=part("balanced"), batch_size=8)
    config = Config(data=data, model=part("unet"), objective=part("segmentation"))
    with pytest.raises(UserError, match="sampler 'balanced' reads the class of each example"):
        assemble(config)


@pytest.mark.parametrize("memory", [1.0, 1e-9])
def test_the_batches_of_a_run_are_those_of_its_sampler(memory):
    data = Data(source=part("digits"), sampler=part("balanced"), batch_size=16, memory=memory)
    if memory < 1e-3:  # the arrays of digits are in memory anyway: leave them there, unseen
        config, plan = _plan(data)
        streamed = dataclasses.replace(plan.streams[""].split, arrays=None)
        plan = plan._replace(streams={"": plan.streams[""]._replace(split=streamed)})
    else:
        config, plan = _plan(data)
    order = balanced(1, 16, config.seed, plan.splits["train"].labels("a test"))
    for t, batch in zip(range(5, 8), training_batches(config, plan, 5, 8), strict=True):
        expected = plan.splits["train"].examples(order(t))
        jax.tree.map(np.testing.assert_array_equal, dict(batch), expected)


def _plan(data):
    config = Config(data=data, model=part("mlp", widths=[4]))
    return config, assemble(config)
