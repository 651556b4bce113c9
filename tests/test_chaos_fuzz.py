"""Hostile input: one clear message and status 2, or a valid command; nothing else happens."""

import json
import os

import numpy as np
import pytest
from chaos import fuzz
from chaos.commands import obey, stopped_short, watched
from chaos.files import image, png
from conftest import ROOT
from PIL import Image

from jaxdl.main import main

MANY = {"configs": 30, "commands": 40, "weights": 40, "files": 25}

pytestmark = pytest.mark.filterwarnings("default")  # of Pillow, about broken files


@pytest.mark.parametrize("name", MANY)
def test_hostile_input(name):
    kinds, bad, slowest = fuzz.run(name, MANY[name], 0)
    assert not bad, bad[0]
    assert kinds["refused"] >= 5 and kinds["valid"] >= 1 and slowest < 5


def test_the_watch_tells_a_proper_answer_from_others(tmp_path, monkeypatch):
    """Each way to misbehave is seen as what it is, or the experiment would prove nothing."""
    monkeypatch.chdir(tmp_path)

    def judged(misbehave):
        monkeypatch.setattr("jaxdl.main._dispatch", lambda arguments: misbehave())
        return obey([], tmp_path).kind

    def spin():
        while True:
            pass

    assert judged(lambda: 0) == "valid"
    assert judged(lambda: 1 / 0) == "traceback"
    assert judged(lambda: os.system("true")) == "escaped"
    assert judged(lambda: (tmp_path / "inside").write_text("") and 0) == "valid"
    assert judged(lambda: (tmp_path.parent / "outside").write_text("") and 0) == "escaped"
    assert judged(lambda: 2) == "unclear"  # without a word
    monkeypatch.setattr("chaos.commands.PATIENCE", 0.1)
    assert judged(spin) == "late"


# --- What was found, each at its root -------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff\xfe{", "is not text"),
        (b'{"seed": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", "too many brackets"),
        (b'{"seed": ' + b"9" * 9999 + b"}", "not JSON"),
        (b'{"model": {"name": "cnn", "args": {"widths": [NaN]}}}', "nan is not a finite number"),
        (b'{"model": {"name": "cnn", "args": {"drop_rate": 1e999}}}', "inf is not a finite number"),
        (b'{"init_from": "a\\u0000b"}', "not of any text"),
        (b'{"imports": ["\\ud800"]}', "not of any text"),
        (b'{"seed": 4294967296}', "config.seed: expected `int` <= 4294967295"),
        (b'{"duration": "99999999999 epochs"}', "too many"),
        (b'{"preprocess": [{"name": "random_flip"}]}', "put it into config.augment"),
        (b'{"data": {"source": {"name": "digits", "args": {"size": 9999}}}}', "<= 512, got 9999"),
        (
            b'{"data": {"source": {"name": "fake", "args": {"examples": 9999999}}}}',
            "this machine has",
        ),
        (b'{"model": {"name": "\\u001b[2J"}}', "unknown model '\\x1b[2J'"),
    ],
)
def test_a_config_that_no_one_meant(content, said, tmp_path, capsys):
    (tmp_path / "c.json").write_bytes(content)
    with stopped_short():
        arguments = ["--config", str(tmp_path / "c.json"), "--workdir", str(tmp_path / "run")]
        assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1


def test_a_long_message_loses_its_middle(capsys):
    assert main(["x" * 100_000]) == 2
    assert 1000 < len(capsys.readouterr().err) < 2100


def test_a_place_inside_a_plain_dict_can_be_set(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    rates = ["--config", "configs/cnn.py", "--config.lr_multipliers.head=0.1", "--print-config"]
    assert main([*rates, "--config.optimizer.args.eps=1e-6"]) == 0
    shown = json.loads(capsys.readouterr().out)
    inside = ["--config.model.widths=[8]", "--config.model.widths.0.x=1"]
    assert main(["--config", "configs/cnn.py", *inside]) == 2
    assert "widths.0 is 8: nothing can be set inside it" in capsys.readouterr().err
    assert shown["lr_multipliers"] == {"head": 0.1} and shown["optimizer"]["args"]["eps"] == 1e-6


def of_folder(tmp_path, capsys, **args):
    source = json.dumps({"name": "folder", "args": {"path": str(tmp_path / "data"), **args}})
    data = {"source": json.loads(source), "train": "all", "validation": None, "test": None}
    (tmp_path / "c.json").write_text(json.dumps({"data": data | {"batch_size": 8}}))
    with stopped_short():
        outcome = obey(["--config", "c.json", "--workdir", "run"], tmp_path)
    return outcome.kind, outcome.said


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "cat").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(rng.integers(0, 256, (8, 9, 3), np.uint8)).save(
            tmp_path / "data" / "cat" / f"{i}.png"
        )
    return tmp_path / "data" / "cat"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (os.mkfifo, "it is not a file"),
        (lambda place: place.symlink_to("/dev/zero"), "it is not a file"),
        (lambda place: place.symlink_to(place.name), "Too many levels of symbolic links"),
        (lambda place: place.write_bytes(png(9000, 9000, b"0", 1)), "are too many pixels"),
        (lambda place: place.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n"), "cannot identify"),
    ],
    ids=["fifo", "device", "loop", "bomb", "postscript"],
)
def test_what_is_no_image(make, said, folder, tmp_path, capsys):
    make(folder / "x.png")
    kind, message = of_folder(tmp_path, capsys, image_size=8)
    assert kind == "refused" and said in message and "x.png" in message


def test_what_lies_beside_images(folder, tmp_path, capsys):
    (folder / "x.png").mkdir()  # a folder by the name of an image may hold some
    (folder / "x.png" / "y.png").symlink_to(folder / "0.png")
    (folder / "long.png").write_bytes(png(1, 60_000, bytes(2 * 60_000)))
    assert of_folder(tmp_path, capsys, image_size=8) == ("valid", "")


def test_an_eps_file_starts_no_process(tmp_path):
    from jaxdl.data.images import load
    from jaxdl.errors import UserError

    picture = tmp_path / "x.png"
    Image.new("RGB", (4, 4)).save(picture, "EPS")
    with watched(tmp_path) as did, pytest.raises(UserError, match="cannot identify"):
        load(picture, 3)
    assert did == []
    assert image  # the makers above give good files, too
