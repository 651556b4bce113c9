"""Data whose classes stand in another order: the run goes on, and measures, as if they did not."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from changed_data import NAMES, npz, tfds

from jaxdl import load_run
from jaxdl.assemble import assemble
from jaxdl.config import Config, Data, Evaluation, Held, Population, Stream, part
from jaxdl.data.class_order import in_order
from jaxdl.data.identity import compare, names_of
from jaxdl.data.source import Source
from jaxdl.data.split import open_split
from jaxdl.data.target import Target
from jaxdl.errors import UserError
from jaxdl.main import main
from jaxdl.population.run import run as run_population
from jaxdl.registry import bind
from jaxdl.run import run as train
from jaxdl.rundir.weights import run_weights

PERMUTED = ("cat", "ant", "bee")
OPTIONS = "--config cnn --config.model=mlp --config.model.widths=[8] --config.data.batch_size=16"
OPTIONS += " --config.data.train=train --config.data.validation=None --config.data.test=test"
OPTIONS += " --config.log.sinks= --config.log.every=1"


class Rows:
    """Records of two arrays that are read one by one."""

    def __init__(self, image, label):
        self.image, self.label = image, label

    def __len__(self):
        return len(self.image)

    def __getitem__(self, index):
        return {"image": self.image[index], "label": self.label[index]}


def source_of(label, **fields):
    image = np.arange(len(label) * 27, dtype=np.uint8).reshape(-1, 3, 3, 3)
    return Source(Rows(image, np.asarray(label)), **fields)


def lines_of(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    timed = ("images_per_second", "data_wait")
    return [{k: v for k, v in line.items() if not k.endswith(timed)} for line in lines]


@pytest.mark.parametrize("make", [npz, tfds])
def test_a_run_goes_on_and_is_measured_to_the_last_bit(make, tmp_path, capsys):
    data, whole, halves = (tmp_path / name for name in ("data", "whole", "halves"))
    run = [
        *OPTIONS.split(),
        f"--config.data.source={make(data)}",
        "--config.schedule=constant",
        "--workdir",
    ]
    assert main([*run, str(halves), "--config.duration=2"]) == 0
    shutil.copytree(halves, whole)
    measure = ["evaluate", str(halves), "--json"]
    capsys.readouterr()
    assert main(measure) == 0
    before = capsys.readouterr()
    assert before.err == "" and main([*run, str(whole), "--config.duration=4"]) == 0

    shutil.rmtree(data)
    make(data, names=PERMUTED)
    capsys.readouterr()
    assert main(measure) == 0
    permuted = capsys.readouterr()
    assert permuted.out == before.out and permuted.err.count("\n") == 1
    assert permuted.err.startswith("the classes of test stand in another order (cat, ant, bee): ")
    loaded, values = load_run(halves), json.loads(before.out)
    assert loaded.class_names == NAMES
    assert {k: v for k, v in loaded.evaluate().items() if isinstance(v, float)} == values
    capsys.readouterr()
    assert main([*run, str(halves), "--config.duration=4"]) == 0
    assert "the classes of train, test stand in another order" in capsys.readouterr().out
    jax.tree.map(np.testing.assert_array_equal, *(run_weights(r).params for r in (whole, halves)))
    assert lines_of(whole) == lines_of(halves)
    for file in ("outputs/test.npz", "predictions.npz"):
        with np.load(whole / file) as one, np.load(halves / file) as other:
            assert one.files == other.files
            for name in one.files:
                np.testing.assert_array_equal(one[name], other[name])
    manifests = [json.loads((r / "manifest.json").read_text()) for r in (whole, halves)]
    assert manifests[0]["data"] == manifests[1]["data"]
    assert manifests[0]["outputs"] == manifests[1]["outputs"]


def test_a_permuted_split_is_measured_as_it_was(tmp_path, capsys):
    config = dataclasses.replace(population(tmp_path / "data", 1), population=None)
    npz(tmp_path / "data")
    train(config, tmp_path / "run")
    before = load_run(tmp_path / "run").evaluate()
    assert capsys.readouterr().err == ""
    shutil.rmtree(tmp_path / "data")
    npz(tmp_path / "data", names=PERMUTED)
    assert load_run(tmp_path / "run").evaluate() == before
    assert capsys.readouterr().err == (
        "the classes of test stand in another order (cat, ant, bee): 'label' is mapped to the "
        "order of the run\n"
    )
    npz(tmp_path / "larger", size=9)
    source = part("npz", path=str(tmp_path / "larger"))
    larger = dataclasses.replace(config, data=dataclasses.replace(config.data, source=source))
    with pytest.raises(UserError, match=r"dense0/kernel would be \[243, 8\], and is \[192, 8\]"):
        load_run(tmp_path / "run", config=larger).evaluate()


@pytest.mark.parametrize("memory", [0, 2**20])
def test_classes_are_numbered_as_in_the_run(memory):
    label = np.array([0, 1, 2, 2, 1, 0])  # cat, ant, bee, bee, ant, cat
    stored = source_of(label, class_names=PERMUTED, labels=lambda: label)
    split = open_split(lambda _: stored, "all", memory=memory, names={"label": NAMES})
    expected = [NAMES.index(PERMUTED[number]) for number in label]
    assert expected == [2, 0, 1, 1, 0, 2] and split.class_names == NAMES
    assert split.examples(np.arange(6))["label"].tolist() == expected
    assert split.labels("a test").tolist() == expected
    assert split.source.read([4, 2])[1]["label"] == split.source.example(2)["label"] == 1
    assert split.source.name(3) == "record 3" and len(split.source) == 6
    np.testing.assert_array_equal(split.examples(np.arange(6))["image"], stored.records.image)


@pytest.mark.parametrize("kind", ["multilabel", "soft", "numbers"])
def test_columns_stand_as_in_the_run(kind):
    rows = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]], np.int32 if kind == "multilabel" else "f4")
    stored = source_of(rows, targets={"label": Target(kind, 3, PERMUTED)})
    split = open_split(lambda _: stored, "all", memory=2**20, names={"label": NAMES})
    by_name = dict(zip(PERMUTED, rows.T, strict=True))
    np.testing.assert_array_equal(split.arrays["label"].T, [by_name[name] for name in NAMES])
    assert split.targets["label"] == Target(kind, 3, NAMES)


def test_a_further_target_has_an_order_of_its_own():
    records = [{"image": np.zeros((3, 3, 3), np.uint8), "label": i, "colour": i} for i in range(2)]
    colour = Target("classes", 2, ("red", "blue"))
    stored = Source(records, ("a", "b"), targets={"colour": colour}, labels=lambda: np.arange(2))
    names = {"label": ("a", "b"), "colour": ("blue", "red")}
    split = open_split(lambda _: stored, "all", memory=0, names=names)
    rows = split.examples(np.arange(2))
    assert rows["label"].tolist() == split.labels("a test").tolist() == [0, 1]
    assert rows["colour"].tolist() == [1, 0] and split.targets["colour"].names == ("blue", "red")
    data = {"class_names": ["a", "b"], "targets": {"colour": {"names": ["blue", "red"]}}}
    order = "the classes of train stand in another order (red, blue): 'colour' is mapped to the "
    assert compare(data, {"train": split}) == [order + "order of the run"]
    data["targets"]["colour"]["names"] = ["blue", "green"]
    with pytest.raises(UserError, match=r"the classes of 'colour' of split 'train' are blue, red"):
        compare(data, {"train": split})


def test_columns_of_a_table_are_mapped_by_their_names(tmp_path):
    lines = ["text,dog,hat,split", "one,1,0,test", "two,1,1,test", "three,0,1,test"]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    labels = []
    for columns in (("dog", "hat"), ("hat", "dog")):
        source = bind("sources", part("csv", path=str(tmp_path / "t.csv"), label=columns, length=4))
        opened = open_split(source, "test", memory=2**20, names={"label": ("dog", "hat")})
        assert opened.targets["label"] == Target("multilabel", 2, ("dog", "hat"))
        labels.append(opened.arrays["label"])
    assert sorted(labels[0].tolist()) == [[0, 1], [1, 0], [1, 1]]
    np.testing.assert_array_equal(*labels)


def test_what_cannot_be_mapped_is_left_and_refused():
    masks = source_of(np.zeros((2, 3, 3), int), class_names=PERMUTED)
    for names in (NAMES, ("ant", "bee"), ("ant", "bee", "dog")):
        assert in_order(masks, {"label": names}) is masks
        split = open_split(lambda _: masks, "all", memory=2**20, names={"label": names})
        with pytest.raises(UserError, match="are cat, ant, bee, and .*: masks are not mapped to"):
            compare({"class_names": list(names)}, {"test": split})
    twice = source_of([0, 1, 2], class_names=("a", "b", "a"))
    assert in_order(twice, {"label": ("a", "a", "b")}) is twice
    unnamed = source_of([0, 1, 2])
    assert in_order(unnamed, {"label": NAMES}) is unnamed
    # A label that is no class is refused as ever, and not taken for another.
    wrong = source_of([0, 3, -1], class_names=PERMUTED)
    with pytest.raises(UserError, match=r"record 1: label 3 is outside 0\.\.2"):
        open_split(lambda _: wrong, "all", memory=2**20, names={"label": NAMES})


def test_further_streams_and_splits_of_the_source_are_mapped(tmp_path):
    npz(tmp_path / "one")
    npz(tmp_path / "other", names=PERMUTED)

    def opened(folder, **known):
        data = Data(
            source=part("npz", path=str(tmp_path / folder)),
            train="train[:50%]",
            validation=None,
            test="test",
            streams={"more": Stream(split="train[50%:]", batch_size=8)},
            batch_size=8,
        )
        splits = {"seen": Held("train", preprocess=())}
        evaluation = Evaluation(monitor="seen/accuracy", splits=splits)
        return assemble(Config(data, evaluation=evaluation, model=part("mlp")), **known).splits

    expected, mapped = opened("one"), opened("other", names={"label": NAMES})
    assert set(expected) == {"train", "test", "seen", "streams.more"}
    for role, split in mapped.items():
        np.testing.assert_array_equal(split.arrays["label"], expected[role].arrays["label"])
        assert split.class_names == NAMES


def population(data, duration):
    return Config(
        data=Data(
            source=part("npz", path=str(data)), train="train", validation=None, batch_size=16
        ),
        model=part("mlp", widths=(8,)),
        optimizer=part("sgd", learning_rate=0.1),
        schedule=part("constant"),
        duration=duration,
        population=Population(seeds=2),
    )


def test_a_population_goes_on_to_the_last_bit(tmp_path, capsys):
    data, whole, halves = (tmp_path / name for name in ("data", "whole", "halves"))
    npz(data)
    run_population(population(data, 2), halves)
    shutil.copytree(halves, whole)
    run_population(population(data, 4), whole)
    shutil.rmtree(data)
    npz(data, names=PERMUTED, brighter=1)
    capsys.readouterr()
    run_population(population(data, 3), halves)
    out = capsys.readouterr().out
    assert "changed since the last start: the classes of train, test stand in another order" in out
    assert "changed since the last start: images of split 'train' are not those that the" in out
    shutil.rmtree(data)
    npz(data, names=PERMUTED)
    shutil.rmtree(halves)
    shutil.copytree(whole, halves)  # at step 4 of both; on to step 5
    run_population(population(data, 5), halves)
    values = load_run(halves / "members" / "0").evaluate()
    shutil.rmtree(data)
    npz(data)
    run_population(population(data, 5), whole)
    assert load_run(whole / "members" / "0").evaluate() == values
    for member in ("0", "1"):
        left, right = (run_weights(run / "members" / member).params for run in (whole, halves))
        jax.tree.map(np.testing.assert_array_equal, left, right)


@pytest.mark.parametrize("recorded_in", ["manifest.json", "members/0/manifest.json"])
def test_a_population_refuses_other_classes(recorded_in, tmp_path):
    npz(tmp_path / "data")
    (tmp_path / "run/checkpoints/2").mkdir(parents=True)
    (tmp_path / "run" / recorded_in).parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"data": {"class_names": ["ant", "bee", "wasp"]}})
    (tmp_path / "run" / recorded_in).write_text(text)
    with pytest.raises(UserError, match=r"\('wasp' is missing, 'cat' is new\)"):
        run_population(population(tmp_path / "data", 4), tmp_path / "run")


def test_names_are_those_that_a_manifest_has():
    targets = {"label": {"names": []}, "colour": {"names": ["red", "blue"]}}
    data = {"class_names": ["a", "b"], "targets": targets}
    assert names_of(data) == {"label": ("a", "b"), "colour": ("red", "blue")}
    assert names_of({"class_names": [], "targets": None}) == names_of({}) == {}
    columns = {"label": {"names": ["hat", "dog"]}}
    assert names_of({"class_names": [], "targets": columns}) == {"label": ("hat", "dog")}
