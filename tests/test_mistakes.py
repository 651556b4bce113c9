"""A beginner's mistakes: each ends with one line, status 2; the corrected command is accepted."""

import shlex
from typing import Any

import numpy as np
import pytest

from jaxdl import front
from jaxdl.assemble import assemble
from jaxdl.main import main
from jaxdl.override import _literal

BASE = "--config cnn --config.model=mlp --config.data.batch_size=32"
ADAMW = "'adamw(learning_rate=1e-3)'"

# What is typed, a piece of the line that answers, and the corrected command, if there is one.
MISTAKES = [
    ("cnn", "'cnn' is a config: jaxdl --config cnn", "--config cnn"),
    ("configs/cnn.py", "is a config: jaxdl --config configs/cnn.py", "--config configs/cnn.py"),
    ("tain --config cnn", "did you mean 'train'?", "train --config cnn"),
    ("--config cn", "did you mean 'cnn'", "--config cnn"),
    ("--config=nothing.json", "no config file 'nothing.json'", None),
    (f"{BASE} --lr=0.1", "did you mean --config.optimizer.learning_rate=0.1?",
     f"{BASE} --config.optimizer.learning_rate=0.1"),
    (f"{BASE} --optimizer.lr=0.1", "did you mean --config.optimizer.learning_rate=0.1?",
     f"{BASE} --config.optimizer.learning_rate=0.1"),
    (f"{BASE} --batch-size=64", "did you mean --config.data.batch_size=64?",
     f"{BASE} --config.data.batch_size=64"),
    (f"{BASE} --epochs=3", "did you mean --config.duration='3 epochs'?",
     f"{BASE} --config.duration='3 epochs'"),
    (f"{BASE} --steps=30", "did you mean --config.duration='30 steps'?",
     f"{BASE} --config.duration='30 steps'"),
    (f"{BASE} --model=lenet5", "did you mean --config.model=lenet5?",
     "--config cnn --config.model=lenet5"),
    (f"{BASE} --seed=3", "did you mean --config.seed=3?", f"{BASE} --config.seed=3"),
    (f"{BASE} --nonsense", "unrecognized arguments: --nonsense (see --help)", None),
    (f"{BASE} --config.optimizer=AdamW", "did you mean 'adamw'?",
     f"{BASE} --config.optimizer={ADAMW}"),
    (f"{BASE} --config.optimizer=adamw", "learning_rate", f"{BASE} --config.optimizer={ADAMW}"),
    (f"{BASE} --config.optimizer=adamw2", "did you mean 'adamw'",
     f"{BASE} --config.optimizer={ADAMW}"),
    (f"{BASE} --config.model=ResNet18", "did you mean 'resnet18'?",
     f"{BASE} --config.model=resnet18"),
    (f"{BASE} --config.optimizer.lr=0.1", "did you mean 'learning_rate'?",
     f"{BASE} --config.optimizer.learning_rate=0.1"),
    (f"{BASE} --config.optimizer.wd=0.1", "did you mean 'weight_decay'?",
     f"{BASE} --config.optimizer.weight_decay=0.1"),
    (f"{BASE} --config.learning_rate=0.1", "unknown key config.learning_rate", None),
    (f"{BASE} --config.epochs=3", "did you mean 'duration'?", f"{BASE} --config.duration=3"),
    (f"{BASE} --config.data.batch=32", "did you mean 'batch_size'?",
     f"{BASE} --config.data.batch_size=32"),
    (f"{BASE} --config.data.dataset=fake", "did you mean 'source'?",
     f"{BASE} --config.data.source=fake"),
    (f"{BASE} --config.data.source=mnist", "unknown source 'mnist'", None),
    (f"{BASE} --config.data.source='tfds(dataset=cifar10)'", "set TFDS_DATA_DIR", None),
    (f"{BASE} --config.data.source='folder(path=nowhere)'", "no folder 'nowhere'", None),
    (f"{BASE} --config.data.train='train[:50'", "is not a split: write 'name'",
     f"{BASE} --config.data.train='train[:50%]'"),
    (f"{BASE} --config.data.validation=val", "did you mean 'validation'?",
     f"{BASE} --config.data.validation=validation"),
    (f"{BASE} --config.duration=3epoch_", "is not a duration: write '500 steps'",
     f"{BASE} --config.duration='3 epochs'"),
    (f"{BASE} --config.duration=0", "is less than one step", f"{BASE} --config.duration=1"),
    (f"{BASE} --config.log.every=0", "config.log.every '0' is less than one step",
     f"{BASE} --config.log.every=1"),
    (f"{BASE} --config.seed=-1", "config.seed: expected `int` >= 0", f"{BASE} --config.seed=1"),
    (f"{BASE} --config.seed", "needs a value: --config.seed=...", f"{BASE} --config.seed=1"),
    (f"{BASE} --config.evaluation.mode=maximize", "'maximize' is not a choice: did you mean 'max'",
     f"{BASE} --config.evaluation.mode=max"),
    (f"{BASE} --config.evaluation.metrics=acuracy", "did you mean 'accuracy'",
     f"{BASE} --config.evaluation.metrics=accuracy"),
    (f"{BASE} --config.evaluation.monitor=val/accuracy", "validation/accuracy",
     f"{BASE} --config.evaluation.monitor=validation/accuracy"),
    (f"{BASE} --config.objective.loss=focl", "did you mean 'focal'",
     f"{BASE} --config.objective.loss=focal"),
    (f"{BASE} --config.average=EMA", "did you mean 'ema'?", f"{BASE} --config.average=ema"),
    (f"{BASE} --config.freeze='('", "is not a regular expression",
     f"{BASE} --config.freeze='backbone/.*'"),
    (f"{BASE} --config.data.test=tst", "config.data.test: unknown split 'tst'",
     f"{BASE} --config.data.test=test"),
    (f"{BASE} --config.model.widths=abc", "widths", f"{BASE} --config.model.widths=[8,8]"),
    (f"{BASE} --config.augment='random_crop(padding=2'", "is not a list of parts",
     f"{BASE} --config.augment='random_crop(padding=2)'"),
    (f"{BASE} --config.data.batch_size=0", "data.batch_size: expected `int` >= 1",
     f"{BASE} --config.data.batch_size=16"),
    (f"{BASE} --config.data.batch_size=30", "does not divide over 8 devices",
     f"{BASE} --config.data.batch_size=32"),
    (f"{BASE} --config.mesh.fsdp=3", "does not use the 8 devices there are",
     f"{BASE} --config.mesh.fsdp=2"),
    ("--list optimizer", "did you mean 'optimizers'", "--list optimizers"),
    ("--list models nosuch", "no models match 'nosuch'", "--list models resnet18"),
    ("report nowhere", "nowhere", None),
    ("evaluate nowhere", "no run directory 'nowhere'", None),
    ("predict nowhere x.png", "nowhere", None),
    ("summary resnet", "unknown model 'resnet'", "summary resnet20"),
    ("summary ResNet20", "did you mean 'resnet20'?", "summary resnet20"),
    ("compare", "the following arguments are required: RUN", None),
    ("find-lr", "--config", None),
    (f"{BASE} --import nowhere.py", "nowhere", None),
    (f"{BASE} --workdir", "expected one argument", BASE),
]  # fmt: skip


@pytest.mark.parametrize(("typed", "says", "proposed"), MISTAKES, ids=lambda x: str(x)[-60:])
def test_a_mistake_is_answered_by_one_line(typed, says, proposed, tmp_path, monkeypatch, capsys):
    # Up to the point where something would compile.
    monkeypatch.setattr(front, "train", lambda config, workdir: assemble(config))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    assert main(shlex.split(typed)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert says in error
    if proposed:
        assert main(shlex.split(proposed)) == 0


# Every field that is a duration, and one inside each kind of part that takes one.
DURATIONS = {
    "duration": "", "log.every": "", "checkpoint.every": "", "evaluation.every": "",
    "schedule.warmup": "", "average.start": "--config.average=swa",
    "wrappers.0.every": "--config.wrappers=reduce_on_plateau",
}  # fmt: skip


@pytest.mark.parametrize("field", DURATIONS)
def test_a_duration_that_is_none_is_named_by_its_field(field, monkeypatch, capsys):
    monkeypatch.setattr(front, "train", lambda config, workdir: assemble(config))
    command = [*shlex.split(BASE), *shlex.split(DURATIONS[field]), f"--config.{field}=3 epoch_"]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: config.{field}: '3 epoch_' is not a duration")
    assert main([*command[:-1], f"--config.{field}=0.1 epoch"]) == 0


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        (("images",), "image uint8[8, 8, 3]"),
        (("images", "labels"), None),
        (("x", "y"), None),
        (("x", "target"), "image uint8[8, 8, 3], target int32[]"),
    ],
)
def test_arrays_without_labels_are_listed(keys, found, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(front, "train", lambda config, workdir: assemble(config))
    arrays = np.random.default_rng(0).integers(0, 99, (40, 8, 8, 3), np.uint8), np.arange(40) % 4
    np.savez(tmp_path / "data.npz", **dict(zip(keys, arrays, strict=False)))
    splits = "--config.data.train=all[:20] --config.data.validation=all[20:] --config.data.test="
    command = [*shlex.split(f"{BASE} --config.data.batch_size=8 {splits}")]
    status = main([*command, f"--config.data.source=npz(path={tmp_path}/data.npz)"])
    error = capsys.readouterr().err
    assert status == (2 if found else 0)
    if found:
        assert "source 'npz' " in error and found in error and "no label" in error


@pytest.mark.parametrize("number", [".001", "1e-3", "+0.001", "0.001", "1.e-3"])
def test_numbers_as_people_write_them(number, monkeypatch):
    got = []
    monkeypatch.setattr(front, "train", lambda config, workdir: got.append(config))
    line = f"{BASE} --config.optimizer.learning_rate={number} --config.data.batch_size=1e2"
    assert main([*shlex.split(line), "--config.augment=random_crop(padding=2.)"]) == 0
    (config,) = got
    assert config.optimizer.args["learning_rate"] == 0.001 and config.data.batch_size == 100
    assert config.augment[0].args["padding"] == 2


@pytest.mark.parametrize(
    ("typed", "value"),
    [("007", "007"), ("1e3", 1000), ("2.0", 2), ("+5", 5), ("1.5", 1.5), ("1e-3", 1e-3),
     ("9" * 5000, "9" * 5000), ("1e999", float("inf")), ("[1e2, .5]", "[1e2, .5]")],
)  # fmt: skip
def test_what_is_a_number_and_what_stays_text(typed, value):
    read = _literal(typed, Any)
    assert read == value and type(read) is type(value)


def test_what_arguments_mean_is_listed(capsys):
    assert main(["--list", "optimizers", "adamw"]) == 0
    lines = capsys.readouterr().out.splitlines()
    place = lines.index("    eps: float > 0 = 1e-8")
    assert lines[place + 1] == "        added to the root of the second moment."
