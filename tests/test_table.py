"""The source csv: rows of images or texts, targets of every kind; scikit-learn agrees."""

import csv
import dataclasses
import json

import numpy as np
import pytest
from PIL import Image
from sklearn import metrics as sk

from jaxdl import registry
from jaxdl.config import Config, Data, Evaluation, Log, part
from jaxdl.data.split import open_split
from jaxdl.errors import UserError
from jaxdl.loaded import load_run
from jaxdl.run import run
from jaxdl.rundir.outputs import read_outputs

N = {"train": 48, "val": 24, "test": 24}


def write(path, rows, delimiter=","):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def opened(path, split, **args):
    found = registry.bind("sources", part("csv", path=str(path), **args))
    return open_split(found, split, memory=2**30)


@pytest.fixture(scope="module")
def pixels():
    """Noise of four numbers an example, which say everything there is to learn."""
    return np.random.default_rng(0).integers(0, 256, (sum(N.values()), 2, 2, 1), np.uint8)


def values(pixels):
    """The targets of the images, by kind: columns (n, k)."""
    z = pixels.reshape(len(pixels), 4) / 255
    soft = np.round(z[:, :3] / z[:, :3].sum(axis=1, keepdims=True), 4)
    soft[:, 2] = np.abs(np.round(1 - soft[:, 0] - soft[:, 1], 4))
    return {
        "classes": (z[:, :1] + z[:, 1:2] > 1).astype(int) * 3 + 1,
        "multilabel": (z[:, :3] > 0.5).astype(int),
        "soft": soft,
        "numbers": np.round(z[:, :2] * 10 - 3, 3),
        "one number": np.round(z[:, :1] * 7, 3),
    }


@pytest.fixture(scope="module")
def table(tmp_path_factory, pixels):
    """A table with every kind of label in columns of its own, KIND0, KIND1, ..."""
    root = tmp_path_factory.mktemp("table")
    (root / "img").mkdir()
    splits = [name for name, n in N.items() for _ in range(n)]
    rows = []
    for i, split in enumerate(splits):
        Image.fromarray(pixels[i, :, :, 0]).save(root / "img" / f"{i}.png")
        row = {"image": f"img/{i}.png", "split": split}
        for kind, array in values(pixels).items():
            row |= {f"{kind}{j}": x for j, x in enumerate(array[i])}
        rows.append(row)
    return write(root / "t.csv", rows)


def columns_of(pixels, kind):
    return tuple(f"{kind}{j}" for j in range(values(pixels)[kind].shape[1]))


KINDS = {"classes": "classes", "multilabel": "multilabel", "soft": "soft",
         "numbers": "numbers", "one number": "numbers"}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_rows_are_the_files_and_the_cells_of_their_line(table, pixels, name):
    split = opened(table, "validation", label=columns_of(pixels, name), channels=1)
    truth = values(pixels)[name][N["train"] : N["train"] + N["val"]]
    target = split.targets["label"]
    assert (target.kind, len(split)) == (KINDS[name], N["val"])
    label = split.arrays["label"].reshape(N["val"], -1)
    if name == "classes":
        assert target.names == ("1", "4") and split.num_classes == 2
        label = np.array([1, 4])[label]
        np.testing.assert_array_equal(split.labels("a test"), split.arrays["label"])
    else:
        assert target.names == columns_of(pixels, name) and target.size == truth.shape[1]
    # The order is another than the table's, and the same for images and labels.
    shown = [image.tobytes() for image in split.arrays["image"]]
    listed = [image.tobytes() for image in pixels[N["train"] : N["train"] + N["val"]]]
    order = [listed.index(image) for image in shown]
    assert sorted(order) == list(range(N["val"])) != order
    np.testing.assert_allclose(label, truth[order], rtol=1e-6)


def npz_of(pixels, kind, path):
    arrays, start = {}, 0
    for split, n in N.items():
        truth = values(pixels)[kind][start : start + n]
        truth = truth.astype(np.float32 if truth.dtype.kind == "f" else np.int64)
        truth = truth[:, 0] // 4 if kind == "classes" else truth
        truth = truth[:, 0] if kind == "one number" else truth
        name = "validation" if split == "val" else split
        arrays |= {f"{name}_image": pixels[start : start + n], f"{name}_label": truth}
        start += n
    np.savez(path, **arrays)
    return path


def softmax(y):
    e = np.exp(y - y.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


# loss, and by metric what scikit-learn gives of logits and truth (a value, or one a label)
MEASURED = {
    "classes": ("cross_entropy", {
        "accuracy": lambda y, t: sk.accuracy_score(t, y.argmax(1)),
        "f1": lambda y, t: sk.f1_score(t, y.argmax(1), average="macro"),
        "auroc": lambda y, t: sk.roc_auc_score(t, y[:, 1] - y[:, 0]),
    }),
    "multilabel": ("binary_cross_entropy", {
        "multilabel_accuracy": lambda y, t: 1 - sk.hamming_loss(t, y > 0),
        "exact_match": lambda y, t: sk.accuracy_score(t, y > 0),
        "multilabel_f1": lambda y, t: sk.f1_score(t, y > 0, average=None, zero_division=0),
        "mean_multilabel_f1": lambda y, t: sk.f1_score(t, y > 0, average="macro", zero_division=0),
        "multilabel_auroc": lambda y, t: sk.roc_auc_score(t, y, average=None),
        "mean_multilabel_auroc": lambda y, t: sk.roc_auc_score(t, y, average="macro"),
    }),
    "soft": ("cross_entropy", {
        "soft_cross_entropy": lambda y, t: np.mean([
            sk.log_loss([0, 1, 2], [p] * 3, sample_weight=q, labels=[0, 1, 2])
            for p, q in zip(softmax(y), t, strict=True)
        ]),
    }),
    "numbers": ("squared_error", {
        "mean_absolute_error": lambda y, t: sk.mean_absolute_error(t, y),
        "mean_squared_error": lambda y, t: sk.mean_squared_error(t, y),
        "root_mean_squared_error": lambda y, t: sk.mean_squared_error(t, y) ** 0.5,
        "r2": lambda y, t: sk.r2_score(t, y),
    }),
}  # fmt: skip
MEASURED["one number"] = MEASURED["numbers"]


def config(source, kind, duration="6 steps", batch_size=16):
    loss, metrics = MEASURED[kind]
    first = next(iter(metrics))
    return Config(
        data=Data(source=source, batch_size=batch_size, evaluation_batch_size=16),
        model=part("mlp", widths=[8]),
        objective=part("supervised", loss=part(loss)),
        optimizer=part("adamw", learning_rate=1e-2),
        schedule=part("constant"),
        preprocess=(part("normalize"),),
        duration=duration,
        evaluation=Evaluation(
            every="3 steps", metrics=tuple(map(part, metrics)), monitor=f"validation/{first}"
        ),
        log=Log(every="1 step", sinks=()),
    )


@pytest.mark.parametrize("form", ["csv", "npz"])
@pytest.mark.parametrize("kind", MEASURED)
def test_metrics_are_those_of_scikit_learn_and_a_resumed_run_is_the_same(
    table, pixels, tmp_path, kind, form
):
    source = (
        part("csv", path=str(table), label=columns_of(pixels, kind), channels=1)
        if form == "csv"
        else part("npz", path=str(npz_of(pixels, kind, tmp_path / "x.npz")))
    )
    found = run(config(source, kind), tmp_path / "whole")
    kept = read_outputs(tmp_path / "whole")
    logits, label = kept.logits.astype(np.float64), kept.label
    assert len(label) == N["test"]
    names = [str(i) for i in range(3)] if form == "npz" else columns_of(pixels, kind)
    for metric, by_sklearn in MEASURED[kind][1].items():
        expected = np.asarray(by_sklearn(logits, label))
        keys = [metric] if expected.ndim == 0 else [f"{metric}/{name}" for name in names]
        got = [found[f"test/{key}"] for key in keys]
        np.testing.assert_allclose(got, expected.reshape(-1), rtol=1e-5, atol=1e-7, err_msg=metric)
    manifest = json.loads((tmp_path / "whole" / "manifest.json").read_text())
    assert manifest["status"] == "finished" and (tmp_path / "whole" / "report.html").is_file()
    answers = load_run(tmp_path / "whole").predict(pixels[:3])
    assert answers["logits"].shape == (3, logits.shape[1])
    # In two parts.
    run(config(source, kind, "3 steps"), tmp_path / "parts")
    run(config(source, kind), tmp_path / "parts")
    np.testing.assert_array_equal(read_outputs(tmp_path / "parts").logits, kept.logits)


@pytest.mark.parametrize("kind", ["multilabel", "soft", "numbers"])
def test_no_metric_depends_on_a_batch_of_as_many_examples_as_classes(tmp_path, kind):
    # A label (8, 8) compared with a class (8,) would be broadcast without a word.
    rng = np.random.default_rng(2)
    z = rng.random((64, 8)).astype(np.float32)
    label = {"multilabel": (z > 0.5).astype(int), "soft": z / z.sum(axis=1, keepdims=True)}
    arrays = {"image": z.reshape(64, 2, 4, 1), "label": label.get(kind, z * 9)}
    np.savez(tmp_path / "x.npz", **arrays)
    asked = config(part("npz", path=str(tmp_path / "x.npz")), kind, "2 steps", batch_size=8)
    measured = []
    for size in (8, 24):
        splits = {"train": "all[:32]", "validation": "all[32:40]", "test": "all[40:]"}
        data = dataclasses.replace(asked.data, evaluation_batch_size=size, **splits)
        found = run(dataclasses.replace(asked, data=data), tmp_path / str(size))
        measured.append({k: v for k, v in found.items() if k.startswith("test/")})
        lines = (tmp_path / str(size) / "metrics.jsonl").read_text().splitlines()
        assert "train/accuracy" not in {key for line in lines for key in json.loads(line)}
    assert measured[0] == pytest.approx(measured[1], rel=1e-5, nan_ok=True)


def test_a_slice_holds_its_share_of_every_class(tmp_path):
    counts = {"rare": 10, "usual": 50, "common": 140}
    rows = [{"text": f"{c}{i}", "label": c} for c, n in counts.items() for i in range(n)]
    path = write(tmp_path / "t.csv", rows)
    whole = opened(path, "all")
    assert whole.class_names == ("common", "rare", "usual")
    for low, high in [(0, 10), (0, 80), (80, 100), (35, 60)]:
        some = opened(path, f"all[{low}%:{high}%]")
        assert some.class_names == whole.class_names
        seen = np.bincount(some.arrays["label"], minlength=3)
        expected = np.array([counts[c] for c in whole.class_names]) * (high - low) / 100
        assert np.abs(seen - expected).max() <= 2, (low, high, seen)
    # Together the slices are the whole, once; and so it is each time.
    first, rest = opened(path, "all[:80%]"), opened(path, "all[80%:]")
    joined = np.concatenate([first.arrays["tokens"], rest.arrays["tokens"]])
    np.testing.assert_array_equal(joined, whole.arrays["tokens"])
    assert len(np.unique(joined, axis=0)) == 200


@pytest.mark.slow
def test_labelled_texts_are_learned(tmp_path):
    rng = np.random.default_rng(1)
    rows = []
    for i in range(120):
        mood = "good" if i % 2 else "bad"
        filling = " ".join(rng.choice(["a", "film", "of", "the", "sea"], 4))
        rows.append({
            "review": f"{mood}, {filling}", "mood": mood,
            "split": "train" if i < 60 else "validation" if i < 90 else "test",
        })  # fmt: skip
    path = write(tmp_path / "t.csv", rows)
    args = {"text": "review", "label": "mood", "length": 6, "tokenizer": part("words", size=20)}
    test = opened(path, "test", **args)
    said = {test.tokenizer.decode(t).split()[0] for t in test.arrays["tokens"]}
    assert said == {"good", "bad"}
    named = [test.class_names[k] for k in test.arrays["label"]]
    assert named == [test.tokenizer.decode(t).split()[0] for t in test.arrays["tokens"]]
    asked = config(part("csv", path=str(path), **args), "classes", "60 steps")
    model = part("transformer_encoder", width=8, depth=1, heads=2, hidden=8)
    found = run(
        asked.__class__(**{**vars(asked), "model": model, "preprocess": ()}), tmp_path / "r"
    )
    assert found["test/accuracy"] > 0.95
    cut = opened(path, "test", text="review", label="mood", length=4)
    assert cut.source.notes == ("30 of 30 texts cut to 4 tokens",)


def test_whole_numbers_are_classes_unless_numbers_are_asked_for(tmp_path):
    rows = [{"text": "x", "label": a} for a in ("10", "9", "09", "30")]
    path = write(tmp_path / "t.csv", rows)
    assert opened(path, "all").targets["label"].names == ("9", "10", "30")
    aged = opened(path, "all", kind="numbers")
    assert aged.targets["label"].kind == "numbers"
    assert sorted(aged.arrays["label"]) == [9, 9, 10, 30]
    tabs = write(tmp_path / "t.tsv", rows, "\t")
    assert len(opened(tabs, "all", delimiter="\t")) == 4


GOOD = "text,label,split,p,q\nx,cat,train,0.5,0.5\ny,dog,test,1,0\n"
BAD = [
    ("", {}, "has no rows"),
    ("text,label\n", {}, "has no rows"),
    ("text;label\nx;y\n", {}, "is its delimiter ';'"),
    ("text,text\nx,y\n", {}, "names column 'text' twice"),
    ("text,label\nx,cat\ny\n", {}, "line 3: 1 cells, and the first line names 2"),
    ("a,label,split\nx,cat,train\n", {}, "say which holds the inputs, image=COLUMN"),
    (GOOD, {"text": "test"}, "no column 'test'.*'text'"),
    (GOOD, {"label": "labels"}, "no column 'labels'.*'label'"),
    (GOOD, {"split_column": "splits"}, "no column 'splits' of splits.*'split'"),
    (GOOD, {"image": "text", "text": "text"}, "images or of text, not both"),
    (GOOD, {"image": "text"}, "1 of 1 files in column 'text' of .* are missing: .*x .line 2"),
    (GOOD, {"label": ["p", "p"]}, "each once"),
    (GOOD, {"label": []}, "must name columns"),
    (GOOD, {"label": ["label", "p"]}, "line 2: 'label' is 'cat', and a number is expected"),
    (GOOD, {"label": ["p", "q"], "kind": "multilabel"}, "line 2: the labels are 0.5, 0.5.*0 or 1"),
    (GOOD, {"label": ["p", "q"], "kind": "classes"}, "line 2: .* stand in one column"),
    (GOOD, {"label": "label", "kind": "numbers"}, "line 2: 'label' is 'cat'"),
    (GOOD, {"delimiter": ""}, "delimiter of a table is one character"),
    (GOOD.replace("dog", ""), {}, "column 'label' is empty in line 3"),
    (GOOD.replace("test,1", ",1"), {}, "column 'split' is empty in line 3"),
    (GOOD.replace("0.5,0.5", "nan,1"), {"label": ["p", "q"]}, "line 2: 'p' is 'nan'"),
    (GOOD.replace("train", "fit"), {}, "unknown split 'train'.*fit"),
    ("text,label\nx,cat\n", {}, "unknown split 'train': all there is is 'all'"),
    (None, {}, "cannot read the table .*No such file"),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(BAD)))
def test_a_table_that_does_not_hold_what_is_asked_is_refused_in_one_line(tmp_path, case):
    content, args, message = BAD[case]
    path = tmp_path / "t.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message) as refused:
        opened(path, "train", **args)
    assert "\n" not in str(refused.value)


def test_a_tokenizer_that_learns_needs_a_training_split(tmp_path):
    path = write(tmp_path / "t.csv", [{"text": "x", "label": "a"}, {"text": "y", "label": "b"}])
    with pytest.raises(UserError, match="reads split 'train', and the table has all"):
        opened(path, "all", tokenizer=part("words"))
    (tmp_path / "latin.csv").write_bytes(b"text,label\n\xe9,a\n")
    with pytest.raises(UserError, match="cannot read the table"):
        opened(tmp_path / "latin.csv", "all")
