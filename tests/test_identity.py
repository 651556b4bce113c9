"""A run knows its data: other classes or shapes are refused, other sizes are told."""

import shutil

import numpy as np
import pytest
from PIL import Image

from jaxdl.data.identity import compare
from jaxdl.data.source import Source
from jaxdl.data.split import open_split
from jaxdl.errors import UserError
from jaxdl.main import main

RNG = np.random.default_rng(0)
BASE = "--config cnn --config.model=mlp --config.model.widths=[8] --config.data.batch_size=16"
SPLITS = "--config.data.train=train --config.data.validation=None --config.data.test=test"


def folder(path, names=("ant", "bee", "cat"), size=8, count=8):
    for split in ("train", "test"):
        for i, name in enumerate(names):
            (path / split / name).mkdir(parents=True)
            for j in range(count):
                pixels = np.full((size, size, 3), 80 * i + j, np.uint8)
                Image.fromarray(pixels).save(path / split / name / f"{j}.png")


def npz(path, names=("ant", "bee", "cat"), size=8, count=8):
    path.mkdir()
    label = np.repeat(np.arange(len(names)), count)
    image = np.broadcast_to(80 * label[:, None, None, None], (len(label), size, size, 3))
    for split in ("train", "test"):
        np.savez(
            path / f"{split}.npz", image=image.astype(np.uint8), label=label, class_names=names
        )


CHANGES = {
    "renamed": ({"names": ("ant", "cat", "wasp")}, "'bee' is missing, 'wasp' is new"),
    "permuted": ({"names": ("cat", "bee", "ant")}, "(the same in another order)"),
    "added": ({"names": ("ant", "bee", "cat", "dog")}, "'dog' is new"),
    "removed": ({"names": ("ant", "bee")}, "'cat' is missing"),
    "resized": ({"size": 9}, "'image' of split"),
    "more files": ({"count": 9}, None),
}


# The classes of a folder stand in one order, that of their names.
CELLS = [(make, c) for make in (folder, npz) for c in CHANGES if (make, c) != (folder, "permuted")]


@pytest.mark.parametrize(("make", "change"), CELLS)
def test_a_run_answers_data_that_has_changed(make, change, tmp_path, capsys):
    settings, says = CHANGES[change]
    data, workdir = tmp_path / "data", tmp_path / "run"
    source = f"{make.__name__}(path={data})"
    run = [
        *BASE.split(),
        *SPLITS.split(),
        f"--config.data.source={source}",
        "--workdir",
        str(workdir),
    ]
    run += ["--config.log.sinks="]
    make(data)
    assert main([*run, "--config.duration=2"]) == 0
    shutil.rmtree(data)
    make(data, **settings)
    before = {p.name: p.read_bytes() for p in workdir.glob("*.json*")}
    capsys.readouterr()
    for command in ([*run, "--config.duration=3"], ["evaluate", str(workdir)]):
        status = main(command)
        answer = capsys.readouterr()
        if says:
            assert status == 2 and says in answer.err and answer.err.count("\n") == 1
            assert {p.name: p.read_bytes() for p in workdir.glob("*.json*")} == before
        else:
            assert status == 0
            assert (
                command[0] == "evaluate" or "split 'train' has 27 examples, 24 before" in answer.out
            )


def test_what_was_not_recorded_is_not_compared():
    split = open_split(lambda _: {"image": np.zeros((2, 3, 3, 1), np.uint8)}, "x", memory=2**20)
    assert compare({}, {"test": split}) == []
    named = Source(split.source.records, ("a", "b"))
    split = open_split(lambda _: named, "x", memory=2**20)
    assert compare({"class_names": []}, {"test": split}) == []
    with pytest.raises(UserError, match=r"are a, b, and the run was trained on b, a \(the same"):
        compare({"class_names": ["b", "a"]}, {"test": split})


def test_data_that_a_user_names_may_have_another_size(tmp_path, capsys):
    data, workdir = tmp_path / "data", tmp_path / "run"
    npz(data)
    run = ["--config", "cnn", "--config.model.widths=[4]", "--config.data.batch_size=16"]
    run += [*SPLITS.split(), "--config.log.sinks=", "--config.duration=1"]
    run += [f"--config.data.source=npz(path={data})", "--workdir", str(workdir)]
    assert main(run) == 0
    npz(tmp_path / "larger", size=12)
    npz(tmp_path / "turned", names=("cat", "bee", "ant"))
    named = lambda name: f"--config.data.source=npz(path={tmp_path / name})"
    assert main(["evaluate", str(workdir), named("larger")]) == 0
    assert main(["evaluate", str(workdir), named("turned")]) == 2
    assert "(the same in another order)" in capsys.readouterr().err
