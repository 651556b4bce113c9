"""A run knows its data: each answer to data that has changed, by source and by command."""

import json
import re
import shutil

import numpy as np
import pytest
from changed_data import CHANGES, NAMES, SOURCES, examples
from conftest import ROOT
from PIL import Image

from jaxdl.config import Config, Data, part
from jaxdl.data.identity import comparable, compare, head_rows
from jaxdl.data.source import Source
from jaxdl.data.split import open_split
from jaxdl.data.tokenizers import learnt
from jaxdl.errors import UserError
from jaxdl.main import main
from jaxdl.registry import bind

OPTIONS = "--config cnn --config.model=mlp --config.model.widths=[8] --config.data.batch_size=16"
OPTIONS += " --config.data.train=train --config.data.validation=None --config.data.test=test"
OPTIONS += " --config.log.sinks= --config.log.every=1"
ORDER = "in another order (cat, ant, bee): 'label' is mapped to the order of the run"
OTHERS = "are not those that the run was"


def refused(text):
    return 2, text


def told(text):
    return 0, text


SILENT = told("")
ANSWERS = {
    # what differs: resume, evaluate, init_from; the names that `predict` gives are always the run's
    "nothing": (SILENT, SILENT, SILENT),
    "renamed": (
        refused("'bee' is missing, 'wasp' is new"),
        refused("'bee' is missing, 'wasp' is new"),
        told("ant, bee, cat there, ant, cat, wasp here ('bee' is missing, 'wasp' is new)"),
    ),
    "permuted": (told(ORDER), told(ORDER), told("here (the same in another order)")),
    "added": (
        refused("'dog' is new"),
        refused("'dog' is new"),
        told("params/head/logits/kernel [8, 3] there, [8, 4] here"),
    ),
    "removed": (
        refused("'cat' is missing"),
        refused("'cat' is missing"),
        told("params/head/logits/kernel [8, 3] there, [8, 2] here"),
    ),
    "resized": (
        refused("'image' of split 'train' is uint8[9, 9, 3], and was uint8[8, 8, 3]"),
        refused("'image' of split 'test' is uint8[9, 9, 3], and was uint8[8, 8, 3]"),
        told("[192, 8] there, [243, 8] here"),
    ),
    "more": (
        told("split 'train' has 27 examples, 24 before"),
        told("split 'test' has 27 examples, 24 before"),
        SILENT,
    ),
    "other pixels": (
        told(f"images of split 'train' {OTHERS} trained on"),
        told(f"images of split 'test' {OTHERS} measured on"),
        SILENT,
    ),
    "other labels": (
        told(f"labels of split 'train' {OTHERS} trained on"),
        told(f"labels of split 'test' {OTHERS} measured on"),
        SILENT,
    ),
    "other split": (
        refused("holds a run of another config (data.train: 'train' -> 'train[:50%]')"),
        told("split 'test' is 'train', and was 'test' in the run"),
        SILENT,
    ),
}
OTHER_SPLITS = ("--config.data.train=train[:50%]", "--config.data.test=train", "--config.seed=1")
# The classes of a folder and of a table stand in one order, that of their names.
CELLS = [
    (source, change)
    for source in SOURCES
    for change in ANSWERS
    if change != "permuted" or source in ("npz", "tfds")
]


def test_the_documented_table_is_the_one_that_is_tested():
    """The cells of docs/your-own-data.md begin with the word for what is tested."""
    text = (ROOT / "docs" / "your-own-data.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line[:4] == "| **"]
    documented = {row[0].split("**")[1]: [re.match(r"\w+", x)[0] for x in row[1:]] for row in rows}
    word = lambda answer: {(0, ORDER): "mapped", SILENT: "nothing"}.get(
        answer, "refused" if answer[0] else "told"
    )
    tested = {change: list(map(word, answers)) for change, answers in ANSWERS.items()}
    tested.pop("nothing")
    assert documented == {k: [*words[:2], "as", words[2]] for k, words in tested.items()}


class Trained:
    """A run of two steps, of which each test has a copy, and the place where its data lies."""

    def __init__(self, root, source):
        self.make, self.data, self.kept = SOURCES[source], root / "data", root / "run"
        self.options = [*OPTIONS.split(), f"--config.data.source={self.make(self.data)}"]
        assert main([*self.options, "--workdir", str(self.kept), "--config.duration=2"]) == 0

    def copied(self, place, change):
        """A copy of the run; its data are made anew, with a change."""
        shutil.rmtree(self.data)
        self.make(self.data, **CHANGES.get(change, {}))
        shutil.copytree(self.kept, place)
        return str(place)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    runs = {}

    def of(source):
        if source not in runs:
            runs[source] = Trained(tmp_path_factory.mktemp(source), source)
        return runs[source]

    return of


def answered(command, answer, capsys):
    """Run a command, check its status and what it says; returns standard output."""
    capsys.readouterr()
    status, printed = main(command), capsys.readouterr()
    expected, text = answer
    assert status == expected, printed.err
    assert text in printed.out + printed.err
    if status:
        assert printed.err.count("\n") == 1
    elif not text:
        told_of = ("in another order", "examples, ", OTHERS, "in the run", " here")
        assert not any(words in printed.out + printed.err for words in told_of)
    return printed.out


@pytest.mark.parametrize(("source", "change"), CELLS)
def test_a_run_answers_data_that_has_changed(source, change, trained, tmp_path, capsys):
    one = trained(source)
    on_resume, on_evaluate, on_beginning = ANSWERS[change]
    others = OTHER_SPLITS if change == "other split" else ("", "", "")
    resumed, evaluated, begun = ([text] if text else [] for text in others)
    run = one.copied(tmp_path / "run", change)
    files = {p.name: p.read_bytes() for p in (tmp_path / "run").glob("*.json*")}

    answered(["evaluate", run, *evaluated], on_evaluate, capsys)
    Image.fromarray(examples()[0][1]).save(tmp_path / "photo.png")
    predict = ["predict", run, str(tmp_path / "photo.png"), "--json"]
    named = json.loads(answered(predict, SILENT, capsys))["classes"]
    assert {c["number"]: c["class"] for c in named} == dict(enumerate(NAMES))
    resume = [*one.options, "--workdir", run, "--config.duration=3", *resumed]
    answered(resume, on_resume, capsys)
    if on_resume[0]:
        assert files == {p.name: p.read_bytes() for p in (tmp_path / "run").glob("*.json*")}
    begin = [*one.options, f"--config.init_from={one.kept}", "--config.duration=1", *begun]
    answered([*begin, "--workdir", str(tmp_path / "begun")], on_beginning, capsys)


@pytest.mark.parametrize("source", SOURCES)
def test_predictions_need_no_data(source, trained, tmp_path, capsys):
    one = trained(source)
    run = one.copied(tmp_path / "run", "nothing")
    shutil.rmtree(one.data)
    Image.fromarray(examples()[0][1]).save(tmp_path / "photo.png")
    predict = ["predict", run, str(tmp_path / "photo.png"), "--json"]
    named = json.loads(answered(predict, SILENT, capsys))["classes"]
    assert {c["number"]: c["class"] for c in named} == dict(enumerate(NAMES))
    one.make(one.data)


def test_data_that_a_user_names_may_have_another_size(trained, tmp_path, capsys):
    run = str(trained("npz").copied(tmp_path / "run", "nothing"))
    named = lambda name: f"--config.data.source={SOURCES['npz'](tmp_path / name, **CHANGES[name])}"
    unfit = "for these backbone/dense0/kernel would be [243, 8], and is [192, 8]"
    answered(["evaluate", run, named("resized")], refused(unfit), capsys)
    answered(["evaluate", run, named("permuted")], told(ORDER), capsys)
    answered(["evaluate", run, named("renamed")], refused("'wasp' is new"), capsys)
    assert main(["evaluate", run, named("more")]) == 0
    assert capsys.readouterr().err == ""


def test_a_network_of_any_size_is_measured_on_larger_images(tmp_path):
    run = [*OPTIONS.replace("=mlp", "=cnn").replace("[8]", "[4]").split(), "--config.duration=1"]
    run += [f"--config.data.source={SOURCES['npz'](tmp_path / 'data')}", "--workdir"]
    assert main([*run, str(tmp_path / "run")]) == 0
    larger = SOURCES["npz"](tmp_path / "larger", size=12)
    assert main(["evaluate", str(tmp_path / "run"), f"--config.data.source={larger}"]) == 0


class Counted:
    """Images of classes that are read one by one, and what was read."""

    def __init__(self, n=1000):
        self.image = np.random.default_rng(0).integers(0, 256, (n, 4, 4, 3), np.uint8)
        self.label = np.arange(n) % 3
        self.read = []

    def __len__(self):
        return len(self.image)

    def __getitem__(self, index):
        self.read.append(index)
        return {"image": self.image[index], "label": self.label[index]}


def opened(records, memory=0, holds=True):
    labels = lambda: records.label
    source = Source(records, num_classes=3, labels=labels, holds_labels=holds)
    return open_split(lambda _: source, "train", memory=memory)


def told_of(changed, then, **options):
    split = opened(changed, **options)
    return compare({"digests": {"train": then}, "train": 1000}, {"train": split})


def test_a_digest_reads_all_labels_and_sixteen_examples():
    records = Counted()
    split = opened(records)
    records.read.clear()
    then = split.digests
    assert len(records.read) == 16 and {0, 999} < set(records.read)
    assert sorted(then) == ["all labels", "image", "label"]
    assert split.digests is then and len(records.read) == 16
    # The same whatever fits in memory.
    assert opened(Counted(), memory=2**30).digests == then
    assert told_of(Counted(), then) == []

    one = Counted()
    one.label[501] = 1 - one.label[501] % 2
    assert 501 not in records.read
    told = ["labels of split 'train' are not those that the run was trained on"]
    assert told_of(one, then) == told_of(one, then, memory=2**30) == told
    # A source that would read its records for the labels is asked for those of the 16 alone.
    assert told_of(one, then, holds=False) == []
    for place in (0, records.read[5], 999):
        other = Counted()
        other.image[place, 3, 3, 2] ^= 1
        told = ["images of split 'train' are not those that the run was trained on"]
        assert told_of(other, then) == told
    turned = Counted()
    turned.image, turned.label = turned.image[::-1], turned.label[::-1]
    told = ["images and labels of split 'train' are not those that the run was trained on"]
    assert told_of(turned, then) == told
    fewer = ["split 'train' has 999 examples, 1,000 before"]
    assert told_of(Counted(999), then) == fewer


def test_what_was_not_recorded_is_not_compared():
    split = open_split(lambda _: {"image": np.zeros((2, 3, 3, 1), np.uint8)}, "x", memory=2**20)
    assert compare({}, {"test": split}) == []
    named = Source(split.source.records, ("a", "b"))
    split = open_split(lambda _: named, "x", memory=2**20)
    assert compare({"class_names": [], "digests": None, "targets": None}, {"test": split}) == []
    with pytest.raises(UserError, match=r"are a, b, and the run was trained on a, c \('c' is m"):
        compare({"class_names": ["a", "c"]}, {"test": split})
    for role, before in (("train", 3), ("train", 1), ("test", 1)):
        with pytest.raises(UserError, match=f"of 2 classes, and the run was trained on {before}$"):
            compare({"num_classes": before}, {role: split})
    assert compare({"num_classes": 3}, {"test": split}) == []
    elements = {"image": {"shape": [4, 4, 1], "dtype": "uint8"}}
    with pytest.raises(UserError, match=r"is uint8\[3, 3, 1\], and was uint8\[4, 4, 1\] when"):
        compare({"elements": elements}, {"test": split})
    assert compare({"elements": elements}, {"test": split}, other_shapes=["test"]) == []


def test_another_vocabulary_is_refused():
    def split_of(*texts):
        words = learnt(bind("tokenizers", part("words")), lambda: list(texts))
        tokens = np.stack([words.encode(text) for text in texts])
        source = Source([{"tokens": row} for row in tokens], tokenizer=words)
        return open_split(lambda _: source, "train", memory=2**20)

    split = split_of("an ant", "a bee")
    tokenizer = {"name": split.tokenizer.part.name, "args": {"vocabulary": []}}
    words = list(split.tokenizer.part.args["vocabulary"])
    then = {"vocabulary": 8, "tokenizer": tokenizer | {"args": {"vocabulary": words}}}
    assert compare(then, {"train": split}) == []
    with pytest.raises(UserError, match="'words' with 8 tokens, and was 'words' with 8"):
        compare(then, {"train": split_of("an ant", "a wasp")})


def test_only_data_that_is_asked_for_alike_is_compared():
    config = lambda **data: Config(data=Data(source=part("digits"), **data))
    data = {"train": 9, "test": 5, "elements": {}, "class_names": ["a"], "num_classes": 1}
    data["digests"] = {"train": {"image": "1"}, "test": {"image": "2"}}
    same = comparable(data, config(), config())
    asked = same.pop("asked")
    assert same == data and set(asked) == {"train", "validation", "test"}
    part_of = part("fraction", part=0.5)
    subset = comparable(data, config(subset=part_of), config())
    assert "train" not in subset and subset["digests"] == {"test": {"image": "2"}}
    named = Config(data=Data(source=part("fake")))
    assert comparable(data, named, config()) == {"class_names": ["a"], "num_classes": 1}


def test_rows_of_a_head_keep_their_places():
    assert head_rows((), NAMES) is head_rows(NAMES, ()) is head_rows(NAMES, list(NAMES)) is None
    assert head_rows(("a", "b"), ("b", "a")) == (
        "row i of the head stays row i: its classes are a, b there, b, a here (the same in "
        "another order)"
    )
