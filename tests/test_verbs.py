"""Every verb as a user types it: what it prints, and how it refuses."""

import json
import re
import signal
import sys
import xml.etree.ElementTree as ElementTree

import pytest
from conftest import ROOT
from PIL import Image

from jaxdl import verbs
from jaxdl.cluster.signals import Interrupted
from jaxdl.main import main
from jaxdl.research import run_all as runs_module
from jaxdl.verbs import every_verb

TINY = [
    "--config", "configs/cnn.py", "--config.model=mlp", "--config.model.widths=[4]",
    "--config.augment=[]", "--config.duration=4 steps", "--config.log.sinks=[]",
]  # fmt: skip
BEFORE = ["plot-schedule", "find-lr", "find-batch-size", "memory", "trials", "profile"]


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def said(capsys, *arguments):
    status = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    assert status == 0, captured.err
    assert captured.err == ""
    return captured.out


def refused(capsys, *arguments):
    """Run `main` on a mistake: status 2, one line of error."""
    assert main([str(a) for a in arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and "\n" not in error and "Traceback" not in error
    return error


@pytest.mark.parametrize("verb", [*every_verb(), "train"])
def test_help(capsys, verb):
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: jaxdl {'' if verb == 'train' else verb}")
    if verb in BEFORE:
        assert "--config FILE[:ARGUMENT]" in out and "--import MODULE" in out


def test_a_file_a_verb_named_as_the_verb(capsys):
    files = {p.stem for p in (ROOT / "jaxdl" / "verbs").glob("*.py")} - {"__init__", "parsing"}
    assert {name.replace("-", "_") for name in every_verb()} == files
    for name, verb in every_verb().items():
        assert verb.act.__module__ == f"jaxdl.verbs.{name.replace('-', '_')}"
        assert verb.summary.endswith(".") and verb.summary.split()[0].istitle()
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    for name, verb in every_verb().items():
        assert re.search(rf"^  {name} +{re.escape(verb.summary)}$", out, flags=re.M)


NEW_VERB = """
from jaxdl.verbs import option, verb

@verb(option("name"), option("--times", type=int, default=1), trains=True)
def greet_me(options):
    '''Say hello.'''
    import signal
    assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    print(*["hello", options.name] * options.times)
    return 7
"""


def test_a_new_file_is_a_verb(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(verbs, "__path__", [*verbs.__path__, str(tmp_path)])
    monkeypatch.setattr(verbs, "_verbs", dict(verbs._verbs))
    (tmp_path / "greet_me.py").write_text(NEW_VERB)
    try:
        before = signal.getsignal(signal.SIGTERM)
        assert main(["greet-me", "you", "--times", "2"]) == 7
        assert capsys.readouterr().out == "hello you hello you\n"
        assert signal.getsignal(signal.SIGTERM) == before
        assert "did you mean 'greet-me'" in refused(capsys, "greet_me")
        assert "--times: invalid int value" in refused(capsys, "greet-me", "you", "--times", "x")
    finally:
        sys.modules.pop("jaxdl.verbs.greet_me")


def test_an_unknown_verb(capsys):
    assert "unknown verb 'memroy': did you mean 'memory'" in refused(capsys, "memroy")
    assert "did you mean 'find-lr'" in refused(capsys, "find_lr")
    assert "choices: " in refused(capsys, "xyzzy")


@pytest.mark.parametrize("verb", BEFORE)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--config"),
        (["--config", "configs/cn.py"], "did you mean 'configs/cnn.py'"),
        ([*TINY, "--config.modle.width=3"], "unknown key config.modle"),
        ([*TINY, "--config.seed"], "needs a value"),
        ([*TINY, "--no-such-option"], "--no-such-option"),
        ([*TINY, "extra"], "extra"),
        ([*TINY, "--import", "no_such_module"], "cannot import 'no_such_module'"),
        ([*TINY, "--config.optimizer=sdg"], "unknown optimizer 'sdg': did you mean"),
        ([*TINY, "--config.data.source=digit"], "unknown source 'digit'"),
    ],
)
def test_mistakes_in_the_config_of_any_verb(capsys, tmp_path, verb, arguments, message):
    where = {"trials": ["--workdir", tmp_path], "plot-schedule": ["--out", tmp_path / "a.png"]}
    assert message in refused(capsys, verb, *arguments, *where.get(verb, []))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("verb", "arguments", "message"),
    [
        ("plot-schedule", ["--out", "a.gif"], "cannot draw 'a.gif': choices: pdf, png, svg"),
        ("plot-schedule", ["--out", "a"], "cannot draw 'a'"),
        ("plot-schedule", ["--out", "/proc/none/a.png"], "cannot write '/proc/none/a.png': "),
        ("plot-schedule", ["--out", "README.md/a.png"], "cannot write 'README.md/a.png': "),
        ("plot-schedule", ["--examples", "0"], "expected a number from 1, got '0'"),
        ("find-lr", ["--out", "a.pgn"], "cannot draw 'a.pgn': did you mean 'png'"),
        ("find-lr", ["--steps", "9"], "9 steps are too few"),
        ("find-lr", ["--steps", "ten"], "--steps: expected a number from 1, got 'ten'"),
        ("find-lr", ["--low", "0"], "--low: expected a number above 0, got '0'"),
        ("find-lr", ["--low", "nan"], "--low: expected a number above 0, got 'nan'"),
        ("find-lr", ["--high", "inf"], "--high: expected a number above 0, got 'inf'"),
        ("find-lr", ["--low", "1", "--high", "0.1"], "1.0 to 0.1 does not rise"),
        ("find-batch-size", ["--fraction", "1.1"], "above 0 and at most 1, not 1.1"),
        (
            "find-batch-size",
            ["--fraction", "all"],
            "--fraction/--share: expected a number above 0, got 'all'",
        ),
        ("find-batch-size", ["--largest", "0"], "--largest: expected a number from 1"),
        ("find-batch-size", ["--largest", "7"], "a batch has 8 examples or more here"),
        (
            "find-batch-size",
            ["--fraction", "1e-12"],
            "not even the smallest batch fits: see `jaxdl m",
        ),
        ("memory", ["--limit", "0"], "--limit: expected a number above 0, got '0'"),
        ("memory", ["--limit", "-1"], "--limit: expected a number above 0, got '-1'"),
        ("memory", ["--limit", "nan"], "got 'nan'"),
        ("memory", ["--limit", "inf"], "got 'inf'"),
        ("memory", ["--limit", "16GB"], "got '16GB'"),
        ("memory", ["--config.data.batch_size=12"], "does not divide over 8 devices"),
        ("trials", [], "--workdir"),
        ("trials", ["--workdir", "a", "--seeds", "0"], "--seeds: expected a number from 1"),
        ("trials", ["--workdir", "a", "--vary", ""], "--vary '' is not NAME FIELD=VALUE"),
        ("trials", ["--workdir", "a", "--vary", "b 'c"], "is not NAME FIELD=VALUE"),
        ("trials", ["--workdir", "a", "--vary", "b seed"], "variant 'b': 'seed' is not FIELD=VAL"),
        ("trials", ["--workdir", "a", "--vary", "b", "--vary", "b"], "two variants are called 'b'"),
        ("trials", ["--workdir", "a", "--vary", "b sed=1"], "variant 'b': unknown key config.sed"),
        ("trials", ["--workdir", "a", "--vary", "b/c"], "run 'b/c-0': a name has letters"),
        ("trials", ["--workdir", "a", "--metric", "test/acuracy"], "did you mean 'test/accuracy'"),
        ("trials", ["--workdir", "README.md"], "cannot write to workdir README.md/base-0"),
    ],
)
def test_mistakes_of_one_verb(capsys, verb, arguments, message):
    assert message in refused(capsys, verb, *TINY, *arguments)


def test_find_lr(capsys, tmp_path):
    arguments = ["--config.optimizer.learning_rate=7", "--steps", "40", "--high", "100"]
    out = said(capsys, "find-lr", *TINY, *arguments, "--out", tmp_path / "new" / "loss.png")
    file, found, advised = out.splitlines()
    assert file == str(tmp_path / "new" / "loss.png")
    with Image.open(file) as image:
        assert image.format == "PNG"
    pattern = r"the loss falls fastest at (\S+), and is least at (\S+)"
    steepest, lowest = map(float, re.fullmatch(pattern, found).groups())
    assert 1e-6 < steepest < lowest < 100
    rate = float(re.fullmatch(r"try --config\.optimizer\.learning_rate=(\S+)", advised)[1])
    assert rate == pytest.approx(min(steepest, lowest / 10), rel=0.06)
    assert [p.name for p in tmp_path.rglob("*")] == ["new", "loss.png"]


def test_find_batch_size(capsys):
    *rows, last = said(capsys, "find-batch-size", *TINY, "--largest", "16").splitlines()
    pattern = r"batch +(\d+) +[\d.]+ KiB  [\d,]+ examples/s"
    assert [int(re.fullmatch(pattern, row)[1]) for row in rows] == [8, 16]
    assert last == "the largest tried: --config.data.batch_size=16"


def test_find_batch_size_names_the_last_that_fits(capsys, monkeypatch):
    from jaxdl.perf import batch_size

    sizes = iter([1000, 3000])
    monkeypatch.setattr(batch_size, "limit", lambda: 2000)
    monkeypatch.setattr(batch_size, "_program_bytes", lambda step: next(sizes))
    lines = said(capsys, "find-batch-size", *TINY).splitlines()
    assert lines[1].endswith("16       2.9 KiB  does not fit")
    assert lines[2:] == ["the largest that fits: --config.data.batch_size=8"]


def test_memory(capsys):
    first, parts, state, *placed = said(capsys, "memory", *TINY, "--limit", "1.5").splitlines()
    assert re.fullmatch(r"a step needs about [\d.]+ KiB on each device, of 1.50 GiB", first)
    assert all(name in parts for name in ("state", "gradients", "activations", "batch"))
    assert "on each device, of" in state and "whole" in placed[0]
    large = ["--config.data.batch_size=65536", "--limit", "0.0025"]
    assert "--config.gradient.accumulate=2" in said(capsys, "memory", *TINY, *large)
    nothing = said(capsys, "memory", *TINY, "--limit", "1e-8")
    assert "no single change would fit" in nothing


def test_trials(capsys, tmp_path):
    vary = ["--vary", "slow", "--vary", "fast optimizer.learning_rate=0.1 model.widths=[8]"]
    metrics = ["--metric", "test/accuracy", "--metric", "train/loss"]
    arguments = ["trials", *TINY, *vary, *metrics, "--seeds", "2", "--workdir", tmp_path]
    out = said(capsys, *arguments).splitlines()
    assert [line.split("  ")[:2] for line in out[:4]] == [
        ["slow", "seed 0"], ["fast", "seed 0"], ["slow", "seed 1"], ["fast", "seed 1"],
    ]  # fmt: skip
    assert out[4] == "| variant | test/accuracy | train/loss |"
    assert out[6].startswith("| slow | 0.") and out[7].startswith("| fast | 0.")
    config = json.loads((tmp_path / "fast-1" / "config.json").read_text())
    assert config["optimizer"]["args"]["learning_rate"] == 0.1 and config["seed"] == 1
    assert config["model"]["args"]["widths"] == [8]
    assert said(capsys, *arguments).splitlines() == out


def test_an_interrupted_trial_says_so(capsys, tmp_path, monkeypatch):
    def run(config, place):
        raise Interrupted(signal.SIGTERM, 2)

    monkeypatch.setattr(runs_module, "run", run)
    status = main(["trials", *TINY, "--workdir", str(tmp_path)])
    assert status == 75
    out = capsys.readouterr().out
    assert out == "interrupted by SIGTERM at step 2; the same command goes on from there\n"


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_plot_schedule(capsys, tmp_path, suffix):
    file = tmp_path / "new" / f"rate.{suffix}"
    assert said(capsys, "plot-schedule", *TINY, "--out", file).strip() == str(file)
    if suffix == "png":
        with Image.open(file) as image:
            assert image.format == "PNG"
    else:
        assert ElementTree.parse(file).getroot().tag.endswith("svg")
        assert "configs/cnn.py: peak 0.002 at step" in file.read_text()


def test_a_part_of_one_s_own_is_found_by_every_verb(capsys, tmp_path, own_registry):
    own = tmp_path / "own_schedule.py"
    own.write_text(
        "from jaxdl.registry import register\n\n\n"
        "@register('schedules')\ndef own_half(total_steps: int, /):\n"
        "    return lambda step: 0.5\n"
    )
    arguments = [*TINY, "--import", own, "--config.schedule=own_half"]
    out = said(capsys, "plot-schedule", *arguments, "--out", tmp_path / "a.svg")
    assert out and "peak 0.001 at step 0" in (tmp_path / "a.svg").read_text()
    assert "a step needs" in said(capsys, "memory", *arguments)
