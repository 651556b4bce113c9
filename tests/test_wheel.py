"""The built wheel, outside a clone: everything that a user types there works."""

import json
import os
import subprocess
import sys
import zipfile

import pytest
from conftest import ROOT

from jaxdl.config_file import load, shipped

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with what the wheel holds, and nothing else of this project."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", str(ROOT), "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*build, "--no-index", "-q", "-w", str(folder)], text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("jaxdl-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def jaxdl(installed, cwd, *arguments):
    """What `jaxdl ARGUMENTS` prints, in a folder where no clone is."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "JAX_PLATFORMS": "cpu"}
    code = f"import jaxdl, sys; assert jaxdl.__file__.startswith({str(installed)!r}); "
    code += "from jaxdl.main import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=cwd, env=environment, text=True, capture_output=True,
    )  # fmt: skip


def test_the_wheel_holds_what_a_user_needs(installed):
    files = {str(p.relative_to(installed)) for p in installed.rglob("*") if p.is_file()}
    package = {
        str(p.relative_to(ROOT))
        for p in (ROOT / "jaxdl").rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    }
    configs = {f"jaxdl/configs/{p.name}" for p in (ROOT / "configs").glob("*.py")}
    assert {f for f in files if not f.startswith("jaxdl-")} == package | configs
    (script,) = installed.glob("*.dist-info/entry_points.txt")
    assert "jaxdl = jaxdl.main:main" in script.read_text()


def test_help_and_lists(installed, tmp_path):
    help_ = jaxdl(installed, tmp_path, "--help")
    assert help_.returncode == 0 and "find-lr" in help_.stdout, help_.stderr
    kinds = jaxdl(installed, tmp_path, "--list")
    assert kinds.returncode == 0 and "segmentation_losses" in kinds.stdout, kinds.stderr
    models = jaxdl(installed, tmp_path, "--list", "models")
    assert models.returncode == 0 and "resnet50" in models.stdout, models.stderr


@pytest.mark.parametrize("spec", ["cnn", "efficientnet:cifar10"])
def test_shipped_configs_by_name(installed, tmp_path, spec):
    printed = jaxdl(installed, tmp_path, "--config", spec, "--print-config")
    assert printed.returncode == 0, printed.stderr
    name, _, argument = spec.partition(":")
    expected = load(f"{ROOT}/configs/{name}.py" + (argument and f":{argument}"))
    assert json.loads(printed.stdout)["model"]["name"] == expected.model.name
    assert json.loads(printed.stdout)["duration"] == expected.duration


def test_a_shipped_config_trains(installed, tmp_path):
    tiny = ["--config.model=mlp", "--config.model.widths=[4]", "--config.augment=[]"]
    done = jaxdl(
        installed, tmp_path, "--config", "cnn", *tiny, "--config.duration=3 steps",
        "--config.log.sinks=[]",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name.startswith("cnn-") and (run / "report.html").is_file()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("configs/efficientnet.py", "no config file 'configs/efficientnet.py': did you mean 'effi"),
        ("efficinet", "did you mean 'efficientnet'"),
        ("cnn:nothing", "unknown config argument 'nothing'"),
    ],
)
def test_mistakes(installed, tmp_path, spec, message):
    done = jaxdl(installed, tmp_path, "--config", spec)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1


def test_in_a_clone_names_and_files_are_the_same(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert set(shipped()) == {p.stem for p in (ROOT / "configs").glob("*.py")}
    assert load("cnn") == load("configs/cnn.py")
    assert load("efficientnet:cifar10") == load("configs/efficientnet.py:cifar10")
