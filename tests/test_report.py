"""The report: what a run directory says, read back and shown, whole or broken."""

import base64
import io
import json
import re
import subprocess
import sys
import warnings
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from scipy.optimize import brentq

from jaxdl import config_file
from jaxdl.config import Config, Data, Evaluation, part
from jaxdl.errors import UserError
from jaxdl.main import main
from jaxdl.report import facts, page, plots, samples, settings, text, write_report
from jaxdl.rundir import read
from jaxdl.rundir.matrices import read_matrices, save_matrices
from jaxdl.rundir.outputs import read_outputs, save_outputs

EVIL = '<script>alert("x")</script>'
VOID = {"meta", "br", "img", "link", "input", "hr", "use", "path", "image", "rect"}


class Page(HTMLParser):
    """Tags with their attributes, and the text of the page."""

    def __init__(self, file: Path):
        super().__init__()
        self.tags, self.open, self.words = [], [], []
        self.source = file.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(SimpleNamespace(name=tag, attrs=dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(SimpleNamespace(name=tag, attrs=dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def named(self, name: str) -> list:
        return [tag for tag in self.tags if tag.name == name]


def make_run(root: Path, classes: int = 3, names=None, channels: int = 1, config=None) -> Path:
    """A run of 3 epochs of 10 steps whose every number is known."""
    run = root / "run"
    run.mkdir()
    config = config or Config(model=part("cnn", width=8), duration="3 epochs")
    (run / "config.json").write_text(config_file.to_json(config))
    manifest = {
        "status": "finished",
        "parameters": 5288548,
        "seconds": 123.4,
        "compile_seconds": 20.1,
        "started": "2026-05-04T03:02:01+00:00",
        "seed": 7,
        "python": "3.11.7",
        "versions": {"jax": "0.10.2"},
        "hardware": {"backend": "cpu", "devices": 8, "device_kind": "cpu"},
        "mesh": {"data": 8, "fsdp": 1},
        "git": {"commit": None},
        "data": {"source": "digits", "test": 360, "class_names": names or []},
    }
    (run / "manifest.json").write_text(json.dumps(manifest))
    lines = []
    for epoch, (loss, accuracy) in enumerate([(2.0, 0.5), (0.51239, 0.91666), (0.25, 0.875)], 1):
        step = 10 * epoch
        train = {"train/loss": loss / 2, "train/accuracy": accuracy, "train/gradient_norm": 1.5}
        train |= {"train/learning_rate": 1e-3, "train/images_per_second": 1000.0 * epoch}
        lines.append({"step": step, "epoch": epoch, **train})
        valid = {"validation/cross_entropy": loss, "validation/accuracy": accuracy}
        lines.append({"step": step, "epoch": epoch, **valid})
    lines.append({"step": 30, "epoch": 3, "test/accuracy": 350 / 360, "test/cross_entropy": 0.1})
    write_metrics(run, lines)
    write_predictions(run, classes, channels)
    return run


def write_metrics(run: Path, lines: list[dict], tail: str = "") -> None:
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + tail)


def write_predictions(run: Path, classes: int, channels: int, **changes) -> None:
    """n = 4 * classes examples; each class is right 3 times and once mistaken for the next."""
    label = np.repeat(np.arange(classes), 4)
    prediction = label.copy()
    prediction[3::4] = (label[3::4] + 1) % classes
    confusion = 3 * np.eye(classes, dtype=int) + np.roll(np.eye(classes, dtype=int), 1, axis=1)
    index = np.array([0, 3, 7, 1])
    image = np.random.default_rng(0).integers(0, 256, (4, 8, 8, channels), dtype=np.uint8)
    confidence = np.linspace(0.5, 0.99, len(label))
    arrays = {"label": label, "prediction": prediction, "confidence": confidence}
    arrays |= {"confusion": confusion, "image": image, "index": index, "split": "test"} | changes
    np.savez(run / "predictions.npz", **{k: v for k, v in arrays.items() if v is not None})


# The whole page


def test_numbers_on_the_page(tmp_path):
    run = make_run(tmp_path)
    path = write_report(run)
    assert path == run / "report.html"
    seen = Page(path)
    assert seen.open == []
    assert [h.name for h in seen.tags].count("h1") == 1
    for expected in (
        "cnn on digits",
        "finished",
        "97.22%",  # 350 / 360
        "95% interval 94.96 to 98.48%; 360 examples",
        "best 91.67% at epoch 2, step 20",
        "5,288,548",
        "2 min 3 s (of it 20.1 s compiling)",
        "2,000 (median)",
        "2026-05-04 03:02 UTC",
        "8 × cpu",
        "data 8, fsdp 1",
        "3 of 12 test examples are wrong.",
        "cnn(width=8)",
    ):
        assert expected in seen.text, expected
    assert f"python -m jaxdl.main --config {run}/config.json" in seen.text
    table = facts.results(read.read_metrics(run), read.read_config(run))
    assert table["columns"] == ["train", "validation, last", "validation, best", "test"]
    assert dict(table["rows"]) == {
        "accuracy": ["87.50%", "87.50%", "91.67%", "97.22%"],
        "loss": ["0.125", "", "", ""],
        "cross entropy": ["", "0.25", "0.5124", "0.1"],
    }


def test_page_needs_nothing_from_elsewhere(tmp_path):
    seen = Page(write_report(make_run(tmp_path)))
    for tag in seen.tags:
        assert tag.name not in ("script", "link", "iframe", "object", "base")
        for key in ("src", "href", "xlink:href", "srcset", "poster"):
            value = tag.attrs.get(key) or "#"
            assert value.startswith(("data:image/png;base64,", "#")), (tag.name, value)
    assert "http" not in seen.source.replace("http-equiv", "")
    assert "@import" not in seen.source
    (policy,) = [t.attrs["content"] for t in seen.named("meta") if "http-equiv" in t.attrs]
    assert policy.startswith("default-src 'none'")


def test_page_is_accessible(tmp_path):
    seen = Page(write_report(make_run(tmp_path)))
    assert seen.named("html")[0].attrs["lang"] == "en"
    assert all(image.attrs.get("alt") for image in seen.named("img"))
    labels = [t.attrs["aria-label"] for t in seen.tags if t.attrs.get("role") == "img"]
    assert len(labels) == len(seen.named("svg")) == 4
    assert "validation accuracy goes from 50.00% to 87.50%" in " ".join(labels)
    ids = [t.attrs["id"] for t in seen.tags if "id" in t.attrs]
    assert len(ids) == len(set(ids)) > 0
    assert seen.text.count("✗") == 2
    assert seen.text.count("✓") == 2


@pytest.mark.parametrize(
    "file", ["config.json", "manifest.json", "metrics.jsonl", "predictions.npz"]
)
def test_one_file_missing(tmp_path, file):
    run = make_run(tmp_path)
    (run / file).unlink()
    seen = Page(write_report(run))
    assert seen.open == []
    said = {
        "config.json": "config.json is missing: no settings are shown.",
        "manifest.json": "cnn on digits",
        "metrics.jsonl": "The run logged no metrics.",
        "predictions.npz": "97.22%",
    }
    assert said[file] in seen.text
    assert ("is missing" in seen.text) == (file == "config.json")
    assert ("Confusion matrix" in seen.text) == (file != "predictions.npz")


@pytest.mark.parametrize("file", ["config.json", "manifest.json", "metrics.jsonl"])
def test_one_file_alone(tmp_path, file):
    run = make_run(tmp_path)
    for other in set(read.FILES) - {file} | {"predictions.npz"}:
        (run / other).unlink()
    if file == "manifest.json":
        (run / file).write_text('{"data": null, "hardware": [], "seconds": "?", "status": null}')
    assert Page(write_report(run)).open == []


def test_hostile_strings_are_escaped(tmp_path):
    config = Config(model=part("cnn", name=EVIL), data=Data(source=part(EVIL)))
    run = make_run(tmp_path, names=[EVIL, "$\\frac{", "ü\x00\ud800"], config=config)
    manifest = read.read_manifest(run) | {"status": EVIL, "command": EVIL, "platform": EVIL}
    manifest["started"] = EVIL
    manifest["versions"] = {EVIL: EVIL}
    (run / "manifest.json").write_text(json.dumps(manifest))
    lines = [{"step": s, "validation/$\\frac{" + EVIL: 0.5, EVIL + "/accuracy": 1} for s in (1, 2)]
    write_metrics(run, [*read.read_metrics(run), *lines])
    seen = Page(write_report(run))
    assert seen.named("script") == []
    assert seen.open == []
    assert seen.text.count(EVIL) > 10


@pytest.mark.parametrize("classes", [2, 20, 21, 150])
def test_confusion_by_number_of_classes(tmp_path, classes):
    run = make_run(tmp_path, classes, names=[f"kind {i}" for i in range(classes)])
    seen = Page(write_report(run))
    tables = [t for t in seen.named("table") if t.attrs["class"] == "confusion"]
    cells = [t for t in seen.named("td") if t.attrs.get("class") == "cell"]
    maps = [t for t in seen.named("img") if t.attrs["alt"].startswith("Map")]
    assert len(tables) == (classes <= 20)
    assert len(cells) == (2 * classes if classes <= 20 else 0)
    assert len(maps) == (20 < classes <= 100)
    assert ("Most frequent confusions" in seen.text) == (classes > 20)
    assert ("kind 0 kind 1 1 25.0%" in seen.text) == (classes > 20)
    assert f"{classes} of {4 * classes} test examples are wrong." in seen.text


def test_nan_and_null_are_gaps_and_are_said(tmp_path):
    run = make_run(tmp_path)
    lines = read.read_metrics(run)
    lines[0]["train/loss"], lines[2]["train/loss"] = None, float("nan")
    lines[3]["validation/accuracy"] = float("inf")
    write_metrics(run, lines)
    seen = Page(write_report(run))
    assert "Not finite: 2 of the 3 values of train/loss, first at step 10." in seen.text
    assert "best 87.50% at epoch 3, step 30" in seen.text
    for line in lines:
        line.update({k: None for k in line if "/" in k})
    write_metrics(run, lines)
    seen = Page(write_report(run))
    assert seen.named("svg") == []
    assert "NaN" in seen.text


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA"), (2, "L")])
def test_images_keep_their_pixels(tmp_path, channels, mode):
    run = make_run(tmp_path, channels=channels)
    shown = [t for t in Page(write_report(run)).named("img") if t.attrs["src"]]
    kept = read.read_predictions(run)
    order = [2, 1, 3, 0]  # the wrong ones first, each kind by confidence
    assert len(shown) == 4
    for tag, place in zip(shown, order, strict=True):
        data = base64.b64decode(tag.attrs["src"].partition(",")[2])
        picture = Image.open(io.BytesIO(data))
        assert picture.mode == mode
        expected = kept.image[place] if channels > 2 else kept.image[place, ..., 0]
        np.testing.assert_array_equal(np.asarray(picture), expected)


def test_large_images_are_reduced(tmp_path):
    run = make_run(tmp_path)
    write_predictions(run, 3, 3, image=np.zeros((4, 900, 300, 3), np.uint8))
    tag = Page(write_report(run)).named("img")[0]
    picture = Image.open(io.BytesIO(base64.b64decode(tag.attrs["src"].partition(",")[2])))
    assert picture.size == (53, 160)


def test_no_pyplot_and_no_jax(tmp_path):
    run = make_run(tmp_path)
    program = (
        "import sys, pathlib; from jaxdl.report import write_report\n"
        "assert not {'matplotlib', 'jinja2', 'PIL', 'scipy'} & set(sys.modules)\n"
        "write_report(pathlib.Path(sys.argv[1]))\n"
        "assert not {'matplotlib.pyplot', 'jax', 'tensorflow'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program, str(run)], check=True, timeout=60)


def test_settings_of_matplotlib_are_left_alone(tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    write_report(make_run(tmp_path))
    assert dict(matplotlib.rcParams) == before


def test_same_run_same_page(tmp_path):
    run = make_run(tmp_path)
    assert write_report(run).read_bytes() == write_report(run).read_bytes()


# Reading


def test_torn_last_line_is_skipped_and_others_are_errors(tmp_path):
    run = make_run(tmp_path)
    whole = read.read_metrics(run)
    for tail in ('{"step": 40, "train/l', "\0\0\0", "{"):
        write_metrics(run, whole, tail)
        assert read.read_metrics(run) == whole
    write_metrics(run, whole[:2], '{"step": 40, "tr\n{"step": 50}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 3: not JSON"):
        read.read_metrics(run)
    for bad in ("[1]", '{"epoch": 1}', '{"step": "1"}'):
        write_metrics(run, whole[:1], bad)
        with pytest.raises(UserError, match=r"metrics\.jsonl, line 2"):
            read.read_metrics(run)


def test_series():
    lines = [
        {"step": 10, "a": 1, "b": 0.5},
        {"step": 20, "a": 2.0},
        {"step": 30, "a": 9.0, "note": "restored"},
        {"step": 40, "a": None},
        {"step": 20, "a": 3.0},
        {"step": 15, "a": 2.5},
    ]
    steps, values = read.series(lines, "a")
    assert steps.dtype == np.int64
    np.testing.assert_array_equal(steps, [10, 15, 20, 30, 40])
    np.testing.assert_array_equal(values, [1, 2.5, 3, 9, np.nan])
    assert [len(x) for x in read.series(lines, "note")] == [0, 0]
    assert [x.tolist() for x in read.series(lines, "b")] == [[10], [0.5]]


def test_config_and_manifest_round_trip(tmp_path):
    run = make_run(tmp_path)
    assert read.read_config(run) == Config(model=part("cnn", width=8), duration="3 epochs")
    assert read.read_manifest(run)["parameters"] == 5288548
    (run / "manifest.json").unlink()
    assert read.read_manifest(run) == {}


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", b"{"),
        ("config.json", b'{"modle": {}}'),
        ("config.json", b'{"seed": "x"}'),
        ("manifest.json", b"{'a': 1}"),
        ("manifest.json", b"[]"),
        ("manifest.json", b"\xff\xfe"),
        ("metrics.jsonl", b'{"step": 1}\n?\n{"step": 2}\n'),
    ],
)
def test_broken_files_are_named(tmp_path, file, content):
    run = make_run(tmp_path)
    (run / file).write_bytes(content)
    with pytest.raises(UserError) as caught:
        write_report(run)
    assert str(run / file) in str(caught.value)
    assert "\n" not in str(caught.value)


def cut(file: Path, size: int) -> None:
    file.write_bytes(file.read_bytes()[:size])


@pytest.mark.parametrize("size", [0, 4, 700, -1])
def test_a_report_without_damaged_predictions(tmp_path, size, capsys, monkeypatch):
    run = make_run(tmp_path)
    file = run / "predictions.npz"
    cut(file, size)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert main(["report", str(run)]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {file}: not a readable .npz file")
    seen = Page(run / "report.html")
    assert "Confusion matrix" not in seen.text and "97.22%" in seen.text
    assert f"{file}: not a readable .npz file" in seen.text


def test_a_report_without_a_damaged_matrix(tmp_path):
    run = make_run(tmp_path)
    save_matrices(run, "test", {"intact": np.full((2, 2), 41), "torn": np.full((2, 2), 53)})
    whole = Page(write_report(run)).text
    assert "41" in whole and "53" in whole
    file = run / "matrices" / "test" / "torn.npy"
    for size in (-1, 20, 0):
        cut(file, size)
        with pytest.warns(UserWarning, match=rf"{file}: not a readable .npy file"):
            seen = Page(write_report(run))
        assert f"{file}: not a readable .npy file" in seen.text
        assert "41" in seen.text and "53" not in seen.text and "Confusion matrix" in seen.text


def test_a_report_of_a_torn_last_line(tmp_path):
    run = make_run(tmp_path)
    lines = read.read_metrics(run)
    write_metrics(run, lines, '{"step": 40, "train/l')
    line = f"{run / 'metrics.jsonl'}, line {len(lines) + 1}: the last line is incomplete"
    with pytest.warns(UserWarning, match=line):
        seen = Page(write_report(run))
    assert line in seen.text and "97.22%" in seen.text


def test_a_report_does_not_need_outputs(tmp_path):
    run = make_run(tmp_path)
    rows = {"logits": np.eye(3, dtype=np.float32), "label": np.arange(3), "index": np.arange(3)}
    save_outputs(run, "test", rows, "digest")
    page = write_report(run).read_bytes()
    cut(run / "outputs" / "test.npz", 200)
    assert write_report(run).read_bytes() == page


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_damaged_arrays_are_named_whatever_the_damage(tmp_path, damage):
    rows = {"logits": np.eye(3, dtype=np.float32), "label": np.arange(3), "index": np.arange(3)}
    save_outputs(tmp_path, "test", rows, "digest")
    write_predictions(tmp_path, 3, 1)
    save_matrices(tmp_path, "test", {"m": np.eye(3)})
    readers = {
        "outputs/test.npz": lambda: read_outputs(tmp_path),
        "predictions.npz": lambda: read.read_predictions(tmp_path),
        "matrices/test/m.npy": lambda: read_matrices(tmp_path),
    }
    random = np.random.default_rng(0)
    for name, reader in readers.items():
        file = tmp_path / name
        whole, refused = file.read_bytes(), 0
        for at in random.integers(0, len(whole), 150).tolist():
            flipped = whole[:at] + bytes([whole[at] ^ 1 << int(random.integers(8))])
            file.write_bytes(whole[:at] if damage == "cut" else flipped + whole[at + 1 :])
            try:
                reader()
            except UserError as error:
                assert str(file) in str(error) and "\n" not in str(error)
                refused += 1
        assert refused == 150 if damage == "cut" else refused > 0
        file.write_bytes(whole)


@pytest.mark.parametrize(
    "changes",
    [
        {"label": None},
        {"label": np.zeros(5, int)},
        {"confusion": np.zeros((2, 3))},
        {"image": np.zeros((3, 8, 8, 1), np.uint8)},
        {"image": np.zeros((4, 8, 8, 1), np.float32)},
        {"index": np.array([0, 1, 2, 12])},
        {"label": np.array([{}] * 12, object)},
    ],
)
def test_predictions_that_do_not_fit(tmp_path, changes):
    run = make_run(tmp_path)
    write_predictions(run, 3, 1, **changes)
    with pytest.raises(UserError, match=r"predictions\.npz"):
        read.read_predictions(run)


def test_predictions_may_be_bare(tmp_path):
    run = make_run(tmp_path)
    write_predictions(run, 3, 1, image=None, index=None, confusion=None, split=None)
    seen = Page(write_report(run))
    assert "3 of 12 test examples are wrong." in seen.text
    assert seen.named("img") == []


def test_no_run_directory(tmp_path):
    with pytest.raises(UserError, match="no run directory"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is not a run directory"):
        write_report(tmp_path)
    with pytest.raises(UserError, match="has no config.json"):
        read.read_config(tmp_path)


# The parts


def test_best_follows_the_config():
    lines = [
        {"step": s, "epoch": s / 4, "validation/loss": v}
        for s, v in ((1, 3.0), (2, 1.0), (3, 1.0), (4, 2.0))
    ]

    def judge(mode):
        return Config(evaluation=Evaluation(monitor="validation/loss", mode=mode))

    assert facts.best(lines, judge("min")) == ("validation/loss", 2, 0.5, 1.0)
    assert facts.best(lines, judge("max")) == ("validation/loss", 1, 0.2, 3.0)
    assert facts.best(lines, None) is None
    assert facts.headline(lines, judge("min"), {})["note"] == "best, at epoch 0.5, step 2"


def test_epoch_of_a_step_that_does_not_say():
    lines = [{"step": 0, "epoch": 0}, {"step": 20}, {"step": 50, "epoch": 2.5437}, {"step": 60}]
    assert facts.epoch_at(lines, 60) == 3.1  # 60 * 2.5437 / 50 = 3.05
    assert facts.epoch_at(lines, 50) == 2.5
    assert facts.epoch_at(lines[:2], 20) is None


@pytest.mark.parametrize(("right", "examples"), [(350, 360), (3, 10), (1, 7)])
def test_accuracy_interval_solves_the_score_equation(right, examples):
    share = right / examples

    # Wilson: the p at which |share - p| is 1.96 standard errors of p itself.
    def gap(p):
        return (share - p) ** 2 - 1.959963985**2 * p * (1 - p) / examples

    low, high = facts.accuracy_interval(share, examples)
    np.testing.assert_allclose(low, brentq(gap, 1e-12, share), atol=1e-9)
    np.testing.assert_allclose(high, brentq(gap, share, 1 - 1e-12), atol=1e-9)


def test_most_confused_against_a_plain_loop():
    matrix = np.random.default_rng(1).integers(0, 50, (30, 30))
    found = samples.most_confused(matrix, [str(i) for i in range(30)], limit=10)
    pairs = [(int(matrix[i, j]), i, j) for i in range(30) for j in range(30) if i != j]
    expected = sorted(pairs, key=lambda p: (-p[0], p[1], p[2]))[:10]
    assert [(int(n), int(i), int(j)) for i, j, n, _ in found] == expected
    assert found[0][3] == f"{100 * expected[0][0] / matrix[expected[0][1]].sum():.1f}%"
    assert samples.most_confused(np.eye(3, dtype=int), ["a", "b", "c"]) == []


def test_heat_map_colors():
    pixels = samples.heat_map(np.array([[1.0, 0.0], [0.5, 0.25]]))
    assert pixels.shape == (2, 2, 4)
    assert pixels[..., 3].tolist() == [[255, 0], [128, 64]]
    assert pixels[0, 0, 2] > pixels[0, 0, 0]
    assert pixels[1, 0, 0] > pixels[1, 0, 2]


def test_settings_name_only_what_was_changed():
    assert settings.settings(Config()) == []
    config = Config(
        optimizer=part("sgd", loss=part("focal", gamma=2.0)),
        augment=(part("flip"), part("mixup", alpha=0.2)),
        seed=3,
    )
    assert settings.settings(config) == [
        ("optimizer", "sgd(loss=focal(gamma=2.0))"),
        ("augment", "flip, mixup(alpha=0.2)"),
        ("seed", "3"),
    ]


def test_curves_have_gaps_and_lone_values():
    values = np.array([1.0, 2.0, np.nan, 3.0, np.inf, 4.0] + [np.nan] * 9)
    steps = np.arange(len(values))
    svg = plots.curves_svg([plots.Curve("x", steps, values, 0, False)], "x")
    (line,) = re.findall(r'<path d="([^"]*)"[^>]*fill: none; stroke: var\(--curve-1\)', svg)
    assert line.count("L ") == 1  # one stretch of two values
    assert len(re.findall(r"<use [^>]*--curve-1", svg)) == 2  # and the lone two as dots
    assert "#0101" not in svg


def test_wide_curves_are_logarithmic_only_where_they_can_be():
    def curve(*values):
        return [plots.Curve("x", np.arange(2), np.array(values), 0, False)]

    assert plots.is_wide(curve(0.01, 2.0))
    assert not plots.is_wide(curve(0.1, 2.0))
    assert not plots.is_wide(curve(0.0, 2.0))
    assert not plots.is_wide(curve(np.nan, np.nan))


def test_shares_are_never_logarithmic():
    lines = [
        {"step": s, "validation/accuracy": v, "validation/loss": 1 / v}
        for s, v in ((1, 0.001), (2, 1))
    ]
    logs = {str(p["title"]): p["log"] for p in page.panels(lines, None)}
    assert logs == {"Loss": True, "Accuracy": False}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (5288548, "5,288,548"),
        (0.123456, "0.1235"),
        (12345.678, "12,345.7"),
        (30000.0, "30,000"),
        (2.0, "2"),
        (1e-7, "1e-07"),
        (float("nan"), "NaN"),
        (float("inf"), "inf"),
        ("abc", "abc"),
        (True, "True"),
    ],
)
def test_numbers(value, said):
    assert text.number(value) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.04, "0.0 s"),
        (59.94, "59.9 s"),
        (60, "1 min 0 s"),
        (3599.6, "1 h 0 min"),
        (7380, "2 h 3 min"),
    ],
)
def test_durations(value, said):
    assert text.seconds(value) == said


def test_shares_are_percentages():
    assert text.measure("accuracy", 0.97225) == "97.22%"
    assert text.measure("top_5_accuracy", 1.0) == "100.00%"
    assert text.measure("accuracy", float("nan")) == "NaN"
    assert text.measure("cross_entropy", 0.97225) == "0.9722"


# Segmentation masks


def write_maps(run: Path, **changes) -> None:
    """Two examples of 4x6 pixels in 3 classes, void in a corner; one prediction is all wrong."""
    label = np.resize([0, 1, 2, 1], (2, 4, 6))
    prediction = np.stack([label[0], (label[1] + 1) % 3])
    label[:, 0, 0] = 255
    image = np.random.default_rng(0).random((2, 4, 6, 3)).astype(np.float32)
    arrays = {"image": image, "label": label, "prediction": prediction}
    arrays |= {"index": np.array([0, 7]), "split": "test"} | changes
    np.savez(run / "predictions.npz", **arrays)


def pixels_of(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def test_segmentation_masks_are_shown_beside_their_images(tmp_path):
    run = make_run(tmp_path, names=["sky", EVIL])
    write_maps(run)
    seen = Page(write_report(run))
    assert seen.open == [] and EVIL not in seen.source
    assert "2 test examples: image, truth and prediction" in seen.text
    assert "sky" in seen.text and "examples are wrong" not in seen.text
    pictures = [t.attrs for t in seen.named("img")]
    assert [p["alt"] for p in pictures] == [
        f"test example {i}: {what}" for i in (0, 7) for what in ("image", "truth", "prediction")
    ]
    _, truth, said, _, other_truth, other = (pixels_of(p["src"]) for p in pictures)
    assert truth.shape == (4, 6, 3)
    np.testing.assert_array_equal(truth[0, 0], [0, 0, 0])
    same = np.all(truth == said, axis=-1)
    assert same.sum() == 23 and not same[0, 0]
    assert not np.all(other_truth == other, axis=-1).any()
    # One colour a class, three of them.
    assert len(np.unique(said.reshape(-1, 3), axis=0)) == 3


def test_colours_of_classes_are_told_apart():
    palette = samples.colors(22).astype(int)
    apart = np.abs(palette[:, None] - palette).sum(-1) + 999 * np.eye(22, dtype=int)
    assert apart.min() > 30
    assert samples.colors(0).shape == (0, 3)


@pytest.mark.parametrize(
    "changes", [{"image": np.zeros((3, 4, 6, 1))}, {"prediction": np.zeros((2, 4), int)}]
)
def test_broken_segmentation_masks_are_told(tmp_path, changes):
    run = make_run(tmp_path)
    write_maps(run, **changes)
    with pytest.raises(UserError, match="image, label and prediction are not 2 maps alike"):
        read.read_predictions(run)


def test_intersection_over_union_is_read_as_a_percentage():
    assert text.measure("mean_iou", 0.8723) == "87.23%"


def test_skipped_steps_and_the_gap_are_remarked_on():
    lines = [
        {"step": 10, "train/skipped": 0.0},
        {"step": 20, "train/skipped": 0.25},
        {
            "step": 20,
            "validation/accuracy": 0.5,
            "train_eval/accuracy": 0.75,
            "generalization_gap/accuracy": 0.25,
        },
    ]
    skipped, gap = facts.remarks(lines, {})
    assert "in 1 of 2 log windows" in skipped and "step 20" in skipped
    assert "0.75 on as many training examples" in gap and "a gap of 0.25" in gap
    assert facts.remarks([{"step": 1, "train/skipped": 0.0}], {}) == []
