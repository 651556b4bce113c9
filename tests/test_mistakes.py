"""A beginner's mistakes: one line, status 2; the command that ends the line is accepted."""

import shlex
from typing import Any

import numpy as np
import pytest

from jaxdl import front
from jaxdl.assemble import assemble
from jaxdl.corrections import arguments, either, setting, value, word
from jaxdl.main import main
from jaxdl.override import _literal

MLP = "--config cnn --config.model=mlp"
BASE = f"{MLP} --config.data.batch_size=32"
ADAMW = "'adamw(learning_rate=1e-3)'"

# What is typed, a piece of the line that answers, and the command to paste that ends this line.
MISTAKES = [
    ("cnn", "'cnn' is a config: jaxdl --config cnn", "--config cnn"),
    ("configs/cnn.py", "is a config: jaxdl --config configs/cnn.py", "--config configs/cnn.py"),
    ("tain --config cnn", "did you mean 'train'?", "train --config cnn"),
    ("--config cn", "did you mean 'cnn'", "--config cnn"),
    ("--config=nothing.json", "no config file 'nothing.json'", "--config cnn --print-config"),
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
     f"{BASE} --config.model=lenet5"),
    (f"{BASE} --seed=3", "did you mean --config.seed=3?", f"{BASE} --config.seed=3"),
    (f"{BASE} --nonsense", "unrecognized arguments: --nonsense (see --help)", "--help"),
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
    (f"{BASE} --config.learning_rate=0.1", "unknown key config.learning_rate",
     f"{BASE} --config.optimizer.learning_rate=0.1"),
    (f"{BASE} --config.epochs=3", "did you mean 'duration'?",
     f"{BASE} --config.duration='3 epochs'"),
    (f"{BASE} --config.data.batch=32", "did you mean 'batch_size'?",
     f"{BASE} --config.data.batch_size=32"),
    (f"{BASE} --config.data.dataset=fake", "did you mean 'source'?",
     f"{BASE} --config.data.source=fake"),
    (f"{BASE} --config.data.source=mnist", "unknown source 'mnist'", "--list sources"),
    (f"{BASE} --config.data.source='tfds(dataset=cifar10)'", "set TFDS_DATA_DIR",
     "--list sources tfds"),
    (f"{BASE} --config.data.source='folder(path=nowhere)'", "no folder 'nowhere'",
     "--list sources folder"),
    (f"{BASE} --config.data.train='train[:50'", "is not a split: write 'name'",
     f"{BASE} --config.data.train='train[:50]'"),
    (f"{BASE} --config.data.validation=val", "did you mean 'validation'?",
     f"{BASE} --config.data.validation=validation"),
    (f"{BASE} --config.duration=3epoch_", "is not a duration: write '500 steps'",
     f"{BASE} --config.duration='3 epochs'"),
    (f"{BASE} --config.duration=0", "is less than one step", f"{BASE} --config.duration='1 epoch'"),
    (f"{BASE} --config.log.every=0", "config.log.every '0' is less than one step",
     f"{BASE} --config.log.every='1 epoch'"),
    (f"{BASE} --config.seed=-1", "config.seed: expected `int` >= 0", f"{BASE} --config.seed=0"),
    (f"{BASE} --config.seed", "needs a value: --config.seed=...", f"{BASE} --config.seed=0"),
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
    (f"{BASE} --config.model.widths=abc", "widths", f"{BASE} --config.model.widths='[512, 256]'"),
    (f"{BASE} --config.augment='random_crop(padding=2'", "is not a list of parts",
     f"{BASE} --config.augment='random_crop(padding=2)'"),
    (f"{BASE} --config.data.batch_size=0", "data.batch_size: expected `int` >= 1",
     f"{MLP} --config.data.batch_size=128"),
    (f"{BASE} --config.data.batch_size=30", "does not divide over 8 devices",
     BASE),
    (f"{BASE} --config.mesh.fsdp=3", "does not use the 8 devices there are",
     f"{BASE} --config.mesh.fsdp=1"),
    ("--list optimizer", "did you mean 'optimizers'", "--list optimizers"),
    ("--list models nosuch", "no models match 'nosuch'", "--list models"),
    ("report nowhere", "nowhere", "report --help"),
    ("evaluate nowhere", "no run directory 'nowhere'", "evaluate --help"),
    ("predict nowhere x.png", "nowhere", "predict --help"),
    ("summary resnet", "unknown model 'resnet'", "summary resnet56"),
    ("summary ResNet20", "did you mean 'resnet20'?", "summary resnet20"),
    ("compare", "the following arguments are required: RUN", "compare --help"),
    ("find-lr", "--config", "find-lr --help"),
    (f"{BASE} --import nowhere.py", "nowhere", "--help"),
    (f"{BASE} --workdir", "expected one argument", "--help"),
    (f"{BASE} --lr 0.1", "did you mean --config.optimizer.learning_rate=0.1?",
     f"{BASE} --config.optimizer.learning_rate=0.1"),
    (f"{BASE} --config.lr 0.1", "unknown key config.lr",
     f"{BASE} --config.optimizer.learning_rate=0.1"),
    (f"{BASE} --config.duration=3 epochs", "unrecognized arguments: epochs",
     f"{BASE} --config.duration='3 epochs'"),
    (f"{BASE} --config.augment=random_flip, random_crop", "unrecognized arguments: random_crop",
     f"{BASE} --config.augment='random_flip, random_crop'"),
    (f"{MLP} --config.model='mlp(widths=[8,8]'", "is not a list of parts",
     f"{MLP} --config.model='mlp(widths=[8,8])'"),
    (f"{MLP} --config.model='mlp(widths=[8,8]))'", "is not a list of parts",
     f"{MLP} --config.model='mlp(widths=[8,8])'"),
    (f"{BASE} --config.optimizer='AdamW(learning_rate=0.1)'", "did you mean 'adamw'?",
     f"{BASE} --config.optimizer='adamw(learning_rate=0.1)'"),
    (f"{BASE} --config.optimizer='adamw(b1=0.8)'", "needs the argument 'learning_rate'",
     f"{BASE} --config.optimizer='adamw(learning_rate=1e-3,b1=0.8)'"),
    (f"{BASE} --config.optimizer='sgd(learning_rate=-1)'", "expected `float` > 0",
     f"{BASE} --config.optimizer='sgd(learning_rate=1e-3)'"),
]  # fmt: skip


def status_of(arguments):
    try:
        return main(arguments)
    except SystemExit as end:  # argparse's, after --help
        return end.code


@pytest.mark.parametrize(("typed", "says", "proposed"), MISTAKES, ids=lambda x: str(x)[-60:])
def test_a_mistake_is_answered_by_one_line(typed, says, proposed, tmp_path, monkeypatch, capsys):
    # Up to the point where something would compile.
    monkeypatch.setattr(front, "train", lambda config, workdir: assemble(config))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    assert main(shlex.split(typed)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert says in error
    program, *corrected = shlex.split(error.rpartition("try: ")[2])
    assert program == "jaxdl", error
    assert corrected == shlex.split(proposed)
    assert status_of(corrected) == 0, corrected


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


def test_the_line_to_paste_is_quoted_and_names_the_program_as_it_was_called(monkeypatch, capsys):
    typed = ["--config", "cn", "--config.freeze=backbone/.* (a|b)$ 'x'"]
    for program, called in {
        "/usr/bin/jaxdl": ["jaxdl"],
        "/x/jaxdl/main.py": ["python", "-m", "jaxdl.main"],
    }.items():
        monkeypatch.setattr("sys.argv", [program, *typed])
        assert main() == 2
        line = capsys.readouterr().err.rpartition("try: ")[2]
        assert shlex.split(line) == [*called, "--config", "cnn", typed[2]]


@pytest.mark.parametrize(
    ("correction", "typed", "proposed"),
    [
        (word("ab", "x"), "--a.ab=ab_ ab-c abc ab2", "--a.x=ab_ ab-c abc ab2"),
        (word("ab", "x"), "--c=ab --d=ab", None),  # which one is meant is not known
        (word("ab", "x(y=1)"), "--c=ab", "--c=x(y=1)"),
        (word("ab", "x(y=1)"), "--c=ab(z=2)", "--c=x(z=2)"),
        (setting("config.a", 2), "--config.ab=1 --config.a=1 b", "--config.ab=1 --config.a=2 b"),
        (setting("config.a", 2), "--config.a 1 --b", "--config.a=2 --b"),
        (setting("config.a", 2), "--b", "--b --config.a=2"),
        (arguments(["--b", "1"], ["--c=1"]), "--b 2 --b 1 d", "--b 2 --c=1 d"),
        (value("a", "[1]"), "--config.m=cnn(b=2,a=[3,4],c=1)", "--config.m=cnn(b=2,a=[1],c=1)"),
        (value("a", "[1]"), "--config.m.a=[3,(]", "--config.m.a=[1]"),
        (either(word("a", "x"), word("b", "y")), "b", "y"),
    ],
)  # fmt: skip
def test_corrections_change_the_one_argument_that_is_meant(correction, typed, proposed):
    assert correction(typed.split()) == (proposed and proposed.split())


@pytest.mark.parametrize("form", ["--workdir {0}", "--workdir={0}"])
def test_a_workdir_that_cannot_be_written_is_left_out(form, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(shlex.split(f"{MLP} {form.format(tmp_path / 'file' / 'run')}")) == 2
    error = capsys.readouterr().err
    assert "cannot write to workdir" in error and error.endswith(f"; try: jaxdl {MLP}\n")


def test_a_run_directory_of_a_similar_name_is_proposed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "baseline").mkdir(parents=True)
    (tmp_path / "runs" / "baseline" / "config.json").write_text("{}")
    for verb in ("report", "evaluate"):
        assert main([verb, "runs/baselin"]) == 2
        assert capsys.readouterr().err.endswith(f"; try: jaxdl {verb} runs/baseline\n")


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
