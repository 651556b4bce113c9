"""Subsets: each by its law, fixed by the seed, and refused where it does not fit."""

import dataclasses

import numpy as np
import pytest

from jaxdl.assemble import open_splits
from jaxdl.config import Config, Data, Population, part
from jaxdl.data import from_arrays, open_split
from jaxdl.data.sampler import words
from jaxdl.data.subset import bootstrap, classes, fold, fraction, subset_of
from jaxdl.errors import UserError
from jaxdl.population.members import check as check_population
from jaxdl.registry import bind

N, COUNTS = 1000, (500, 300, 150, 50)
LABELS = np.repeat(np.arange(4), COUNTS)[np.argsort(words(N, 7))].astype(np.int32)
GIB = 2**30


def counts(rows):
    return np.bincount(LABELS[rows], minlength=4).tolist()


def test_fractions_are_stratified_and_nested():
    parts = [fraction(N, 3, LABELS, part=p) for p in (0.02, 0.1, 0.5)]
    assert [counts(rows) for rows in parts] == [[10, 6, 3, 1], [50, 30, 15, 5], [250, 150, 75, 25]]
    assert set(parts[0]) < set(parts[1]) < set(parts[2])
    for rows in parts:
        assert (np.diff(rows) > 0).all()
    assert set(fraction(N, 4, LABELS, part=0.5)) != set(parts[2])
    assert counts(fraction(N, 3, LABELS, part=0.001)) == [1, 1, 1, 1]


def test_a_fraction_without_labels_is_of_all():
    small, large = (fraction(N, 3, None, part=p) for p in (0.1, 0.3))
    assert len(small) == 100 and len(large) == 300 and set(small) < set(large)


def test_folds_are_disjoint_complete_and_stratified():
    folds = [fold(N, 3, LABELS, index=i, of=7) for i in range(7)]
    assert sorted(np.concatenate(folds)) == list(range(N))
    assert {len(f) for f in folds} == {142, 143}
    for c, count in enumerate(COUNTS):
        assert {counts(f)[c] for f in folds} <= {count // 7, -(-count // 7)}
    rest = fold(N, 3, LABELS, index=2, of=7, complement=True)
    assert sorted([*rest, *folds[2]]) == list(range(N))


def test_a_bootstrap_has_63_percent_of_the_examples_and_is_fixed():
    n = 20000
    rows = bootstrap(n, 0, member=1)
    assert len(rows) == n
    assert len(np.unique(rows)) / n == pytest.approx(1 - np.exp(-1), abs=0.01)
    # how often an example comes is Poisson distributed with mean 1
    often = np.bincount(np.bincount(rows, minlength=n), minlength=4)[:4] / n
    np.testing.assert_allclose(often, np.exp(-1) / np.array([1, 1, 2, 6]), atol=0.01)
    np.testing.assert_array_equal(rows, bootstrap(n, 0, member=1))
    assert (rows != bootstrap(n, 0, member=2)).any() and (rows != bootstrap(n, 1, member=1)).any()


def test_classes_by_number_and_by_name():
    rows = classes(N, LABELS, ("ant", "bee", "cat", "dog"), 4, keep=("bee", 3))
    assert counts(rows) == [0, 300, 0, 50]
    with pytest.raises(UserError, match="unknown class 'bea': did you mean 'bee'"):
        classes(N, LABELS, ("ant", "bee", "cat", "dog"), 4, keep=("bea",))
    with pytest.raises(UserError, match="unknown class 4: they are numbered 0 to 3"):
        classes(N, LABELS, (), 4, keep=(4,))
    with pytest.raises(UserError, match="class 4 has no examples"):
        classes(N, LABELS, (), 5, keep=(4,))


def test_the_rows_are_the_same_on_every_machine():
    assert fraction(20, 0, None, part=0.25).tolist() == [2, 4, 7, 9, 19]
    assert bootstrap(6, 0, member=0).tolist() == [0, 3, 4, 4, 5, 5]


class Records:
    """Images that are made when they are asked for, and counted."""

    def __init__(self):
        self.read = []

    def __len__(self):
        return N

    def __getitem__(self, i):
        self.read.append(i)
        return {"image": np.full((2, 2, 1), i % 256, np.uint8), "label": LABELS[i]}


@pytest.mark.parametrize("memory", [GIB, 100])
def test_only_what_a_subset_keeps_is_decoded(memory):
    from jaxdl.data import Source

    records = Records()
    source = Source(records, num_classes=4, labels=lambda: LABELS)
    some = subset_of(bind("subsets", part("fraction", part=0.1)), seed=3)
    split = open_split(lambda _: source, "train", memory=memory, subset=some)
    rows = fraction(N, 3, LABELS, part=0.1)
    assert set(records.read) <= {0, *rows}
    assert len(split) == 100 and split.in_memory == (memory == GIB)
    got = split.examples(np.arange(100))
    np.testing.assert_array_equal(got["label"], LABELS[rows])
    np.testing.assert_array_equal(got["image"][:, 0, 0, 0], rows % 256)
    np.testing.assert_array_equal(split.numbers(np.arange(100)), rows)
    np.testing.assert_array_equal(split.labels("a test"), LABELS[rows])


def test_classes_are_counted_before_some_are_left_out():
    source = from_arrays({"image": np.zeros((N, 2, 2, 1), np.uint8), "label": LABELS})
    some = subset_of(bind("subsets", part("classes", keep=[0, 1])), seed=0)
    split = open_split(lambda _: source, "train", memory=GIB, subset=some)
    assert split.num_classes == 4 and len(split) == 800


def test_labels_that_cannot_be_had_are_refused_in_one_line():
    from jaxdl.data import Source

    some = subset_of(bind("subsets", part("fraction", part=0.1)), seed=3)
    source = Source(Records(), num_classes=4)
    with pytest.raises(UserError, match="cannot give them without decoding all"):
        open_split(lambda _: source, "train", memory=100, subset=some)
    assert len(open_split(lambda _: source, "train", memory=GIB, subset=some)) == 100
    named = subset_of(bind("subsets", part("classes", keep=[0])), seed=3)
    with pytest.raises(UserError, match="subset 'classes' reads the class of each example"):
        open_split(lambda _: source, "train", memory=GIB, subset=named, labels=False)


FAKE = Data(source=part("fake", size=(4, 4, 1), examples=100), batch_size=16)


def with_subset(name, **args):
    return Config(data=dataclasses.replace(FAKE, subset=part(name, **args)))


def test_a_subset_is_of_the_training_split_alone():
    whole, some = open_splits(Config(data=FAKE)), open_splits(with_subset("fraction", part=0.3))
    assert len(some["train"]) < len(whole["train"])
    assert len(some["test"]) == len(whole["test"])


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("fraction", {"part": 1.0}, "leaves all 100 examples of split 'train' as they are"),
        ("classes", {"keep": list(range(10))}, "leaves all 100 examples"),
        ("fold", {"index": 5, "of": 5}, "5 of 5 folds, 0 to 4"),
        ("classes", {"keep": [12]}, "unknown class 12"),
        ("classes", {"keep": []}, "leaves nothing of split 'train'"),
    ],
)
def test_what_changes_nothing_or_does_not_fit_is_refused(name, args, message):
    with pytest.raises(UserError, match=message):
        open_splits(with_subset(name, **args))


def test_members_of_other_seeds_cannot_share_a_drawn_subset():
    drawn = dataclasses.replace(with_subset("fraction", part=0.5), population=Population(seeds=2))
    with pytest.raises(UserError, match="config.data.subset 'fraction' is drawn by the seed"):
        check_population(drawn)
    named = dataclasses.replace(with_subset("classes", keep=[1]), population=Population(seeds=2))
    check_population(named)


def test_a_subset_of_ones_own_needs_only_what_it_declares():
    def every_other(n: int, /) -> np.ndarray:
        return np.arange(0, n, 2)

    source = from_arrays({"image": np.zeros((N, 2, 2, 1), np.uint8)})
    split = open_split(lambda _: source, "train", memory=GIB, subset=subset_of(every_other, 0))
    assert split.rows.tolist() == list(range(0, N, 2))
