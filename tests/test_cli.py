"""The command a user types: what it prints, how it fails, how it survives."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from jaxdl import registry
from jaxdl.main import main

TINY = [
    "--config", "configs/cnn.py", "--config.model.widths=[8]", "--config.model.drop_rate=0.1",
    "--config.average=ema(decay=0.9)", "--config.gradient.accumulate=2",
    "--config.duration=100 steps",
    "--config.log.every=1", "--config.checkpoint.every=7", "--config.log.sinks=[]",
    "--config.evaluation.every=30",
]  # fmt: skip


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def command(*arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "jaxdl.main", *map(str, arguments)],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, **environment},
    )  # fmt: skip


def refused(capsys, *arguments):
    """Run `main` on a mistake: status 2, one line of error, nothing else."""
    assert main([str(a) for a in arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and "\n" not in error and "Traceback" not in error
    return error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config.modle.width=3"], "unknown key config.modle: did you mean 'model'?"),
        (["--config.data.batch_size=many"], "config.data.batch_size: expected `int`"),
        (["--config.model=resnet19"], "unknown model 'resnet19': did you mean"),
        (
            ["--config.model.widht=3"],
            "model 'cnn' takes no argument 'widht': did you mean 'widths'",
        ),
        (["--config.optimizer.learning_rate=-1"], "'learning_rate': expected `float` > 0.0"),
        (["--config.schedule.warmup=soon"], "'soon' is not a duration"),
        (["--config.duration=0 epochs"], "less than one step"),
        (["--config.data.test=tset"], "'tset'"),
        (["--config.data.train=train[:0]"], "train[:0]"),
        (["--config.mesh.data=3"], "does not use the 8 devices"),
        (["--config.data.batch_size=12"], "does not divide over 8 devices"),
        (["--config.evaluation.monitor=validation/acuracy"], "did you mean 'validation/accuracy'"),
        (["--config.evaluation.monitor=test/accuracy"], "is not measured while training"),
        (["--config.data.validation=null", "--config.early_stopping.patience=2"], "needs a split"),
        (["--workdir", "/proc/nothing"], "cannot write to workdir"),
        (["--import", "no_such_module"], "cannot import 'no_such_module'"),
        (["--no-such-option"], "--no-such-option"),
        (["--config.seed"], "needs a value"),
    ],
)
def test_a_mistake_is_said_in_one_line(capsys, tmp_path, arguments, said):
    workdir = [] if "--workdir" in arguments else ["--workdir", tmp_path / "run"]
    assert said in refused(capsys, "--config", "configs/cnn.py", *workdir, *arguments)


def test_mistakes_before_there_is_a_config(capsys, tmp_path):
    assert "did you mean 'configs/cnn.py'" in refused(capsys, "--config", "configs/cn.py")
    assert "unknown verb 'tran'" in refused(capsys, "tran")
    assert "name a config" in refused(capsys)
    assert "choices: cifar10, digits, mnist" in refused(capsys, "--config", "configs/cnn.py:foo")
    assert "unknown kind 'modles'" in refused(capsys, "--list", "modles")
    assert "no models match 'zz*'" in refused(capsys, "--list", "models", "zz*")
    assert "no run directory" in refused(capsys, "report", tmp_path / "none")
    broken = tmp_path / "broken.py"
    broken.write_text("def get_config(:\n")
    assert "broken.py, line 1" in refused(capsys, "--config", broken)


def test_a_missing_data_set_says_how_to_prepare_it(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    error = refused(capsys, "--config", "configs/lenet.py:mnist", "--workdir", tmp_path / "run")
    assert "tfds.builder('mnist').download_and_prepare(file_format='array_record')" in error


def test_a_corrupt_image_is_named(capsys, tmp_path):
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for i in range(4):
                pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    bad = tmp_path / "data" / "train" / "dog" / "2.png"
    bad.write_bytes(bad.read_bytes()[:60])
    source = json.dumps({"name": "folder", "args": {"path": str(tmp_path / "data")}})
    error = refused(
        capsys, "--config", "configs/cnn.py", f"--config.data.source={source}",
        "--config.data.validation=null", "--workdir", tmp_path / "run",
    )  # fmt: skip
    assert str(bad) in error


def test_a_truncated_checkpoint_is_named(capsys, tmp_path):
    arguments = [*TINY, "--workdir", str(tmp_path), "--config.duration=2 steps"]
    arguments += ["--config.data.batch_size=16"]
    assert main(arguments) == 0
    for file in (tmp_path / "checkpoints").rglob("*"):
        if file.is_file() and file.stat().st_size > 200:
            file.write_bytes(file.read_bytes()[:100])
    capsys.readouterr()
    assert str(tmp_path / "checkpoints" / "2") in refused(capsys, *arguments)


def test_list_alone_counts_what_there_is_of_each_kind(capsys):
    assert main(["--list"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [kind for kind, _ in rows] == list(registry.ROOMS)
    assert all(int(n) == len(registry.entries(kind)) for kind, n in rows)


def test_list_and_print_config(capsys):
    assert main(["--list", "models", "resnet1*"]) == 0
    assert [x.split()[0] for x in capsys.readouterr().out.splitlines()] == [
        "resnet18", "resnet101", "resnet110", "resnet152",
    ]  # fmt: skip
    assert main(["--config", "configs/cnn.py", "--config.seed=3", "--print-config"]) == 0
    assert json.loads(capsys.readouterr().out)["seed"] == 3


def test_a_users_own_source_and_model(tmp_path):
    own = tmp_path / "own.py"
    own.write_text(
        """
import flax.linen as nn
import numpy as np

from jaxdl.nn.head import Classifier, Head
from jaxdl.registry import register


@register("sources")
def stripes(split, /, *, examples: int = 64):
    label = np.arange(examples) % 2
    image = np.zeros((examples, 8, 8, 1), np.uint8)
    image[label == 1, ::2] = 255
    return {"image": image, "label": label}


class Flat(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        return x.reshape(x.shape[0], -1)


@register("models")
def linear(num_classes, /):
    return Classifier(Flat(), Head(num_classes))
"""
    )
    run = command(
        "--import", own, "--config", "configs/cnn.py", "--config.model=linear",
        "--config.data.source=stripes", "--config.augment=[]", "--config.data.batch_size=16",
        "--config.duration=40 steps", "--workdir", tmp_path / "run",
    )  # fmt: skip
    out, error = run.communicate(timeout=300)
    assert run.returncode == 0, error
    assert "test/accuracy 1.0000" in out
    assert json.loads((tmp_path / "run" / "config.json").read_text())["imports"] == [str(own)]


def digests(workdir):
    newest = max(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())
    return newest, json.loads((workdir / f"checkpoints/{newest}/integrity.json").read_text())[
        "digests"
    ]


def metrics(workdir):
    lines = [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]
    timing = ("train/images_per_second", "train/data_wait")
    return [{k: v for k, v in line.items() if k not in timing} for line in lines]


def wait_for_step(workdir, step, process, timeout=300):
    journal, deadline = workdir / "metrics.jsonl", time.monotonic() + timeout
    while time.monotonic() < deadline and process.poll() is None:
        if journal.exists():
            steps = [int(x.split(",")[0].split(":")[1]) for x in journal.read_text().splitlines()
                     if x.startswith('{"step": ') and "," in x]  # fmt: skip
            if steps and steps[-1] >= step:
                return
        time.sleep(0.02)
    raise AssertionError(process.communicate())


def test_killed_at_any_step_ends_in_the_same_bits(tmp_path):
    whole = command(*TINY, "--workdir", tmp_path / "whole")
    out, error = whole.communicate(timeout=600)
    assert whole.returncode == 0 and "\nfinal  test/accuracy" in out, error
    for step in (5, 24, 43, 70):  # before the first checkpoint, inside epochs
        killed = command(*TINY, "--workdir", tmp_path / "killed")
        wait_for_step(tmp_path / "killed", step, killed)
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
    last = command(*TINY, "--workdir", tmp_path / "killed")
    out, error = last.communicate(timeout=600)
    assert last.returncode == 0 and "of them done" in out and "Traceback" not in error
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "whole")


def test_sigterm_saves_and_says_how_to_go_on(tmp_path):
    run = command(*TINY, "--config.duration=5000 steps", "--workdir", tmp_path)
    wait_for_step(tmp_path, 20, run)
    run.send_signal(signal.SIGTERM)
    out, error = run.communicate(timeout=60)
    assert run.returncode == 75, error
    assert "interrupted by SIGTERM at step" in out and "goes on from there" in out
    step, _ = digests(tmp_path)
    assert f"at step {step}" in out and step >= 20
    assert json.loads((tmp_path / "manifest.json").read_text())["status"].startswith("interrupted")


# Libraries may ask whether TensorFlow is installed; importing it is what must not happen.
def test_a_second_start_compiles_nothing_anew(tmp_path):
    cache = tmp_path / "cache"

    def start(name):
        arguments = [*TINY, "--config.duration=2 steps", "--workdir", tmp_path / name]
        run = command(*arguments, XDG_CACHE_HOME=str(cache), JAX_COMPILATION_CACHE_DIR="")
        _, error = run.communicate(timeout=300)
        assert run.returncode == 0, error
        # What compiles in a moment is kept or not, as the machine is busy or not.
        return {p.name for p in (cache / "jaxdl" / "xla").glob("jit_step*-cache")}

    first = start("first")
    assert len(first) == 1
    assert start("second") == first


BLOCKED = """
import builtins, sys
real, asked = builtins.__import__, []
def guarded(name, *args, **kwargs):
    if name.split(".")[0] == "tensorflow":
        asked.append(name)
        raise ModuleNotFoundError("tensorflow is not to be imported", name=name)
    return real(name, *args, **kwargs)
builtins.__import__ = guarded
from jaxdl.main import main
status = main(sys.argv[1:])
assert not asked and "tensorflow" not in sys.modules, asked
sys.exit(status)
"""


def test_the_main_job_runs_without_tensorflow(tmp_path):
    arguments = [*TINY, "--config.duration=3 steps", "--workdir", str(tmp_path)]
    run = subprocess.run(
        [sys.executable, "-c", BLOCKED, *arguments], cwd=ROOT, text=True, capture_output=True
    )
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "report.html").is_file()


def test_a_mistake_in_a_real_process_has_status_2_and_no_traceback():
    run = command("--config", "configs/cnn.py", "--config.model=none")
    out, error = run.communicate(timeout=120)
    assert run.returncode == 2 and out == ""
    assert error.startswith("error: unknown model 'none'") and error.count("\n") == 1
