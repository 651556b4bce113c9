"""The notebooks run from top to bottom, and the first cell gets a Colab machine ready."""

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import types

import nbclient
import nbformat
import pytest
from conftest import ROOT

FILES = sorted((ROOT / "notebooks").glob("*.ipynb"))


def cell(file, name):
    (found,) = [c for c in nbformat.read(file, as_version=4).cells if c.id == name]
    return found.source


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_a_notebook_is_stored_as_it_should_be(file):
    notebook = nbformat.read(file, as_version=4)
    nbformat.validate(notebook)
    code = [c for c in notebook.cells if c.cell_type == "code"]
    for c in code:
        assert not c.outputs and c.execution_count is None, "outputs are not kept"
        assert not any(line.startswith(("!", "%")) for line in c.source.splitlines())
        compile(c.source, c.id, "exec")
    assert code[0].id == "install" and "import jax\n" not in code[0].source
    assert "assert " in code[-1].source
    text = file.read_text()
    assert text == json.dumps(json.loads(text), indent=1, ensure_ascii=False) + "\n"


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of the kernel's machinery
@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_it_runs_from_top_to_bottom(file, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    notebook = nbformat.read(file, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=180, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    shown = json.dumps([c.get("outputs", []) for c in notebook.cells])
    assert "(cpu)" in shown and "<iframe srcdoc=" in shown and "image/png" in shown
    assert (tmp_path / "runs" / "first" / "report.html").is_file()


class Died(Exception):
    """What a test raises where the session would end."""


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """The install cell on a machine with these device files, loaded and installed versions."""

    def run(devices=(), loaded=None, installed=None, has_jaxdl=False, wanted="auto"):
        commands, loaded, installed = [], loaded or {}, dict(installed or {})
        for device in devices:
            file = tmp_path / "machine" / device
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "tmp"))
        (tmp_path / "tmp").mkdir(exist_ok=True)
        for name in ("numpy", "jax", "jaxlib", "flax", "absl"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        for name, version in loaded.items():
            module = types.ModuleType(name)
            if name != "absl":  # which does not tell its version
                module.__version__ = version
            monkeypatch.setitem(sys.modules, name, module)

        def pip(command, check):
            commands.append(command[4:])
            installed.update(AFTER)

        def die(pid, number):
            raise Died

        monkeypatch.setattr(subprocess, "run", pip)
        monkeypatch.setattr(os, "kill", die)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: has_jaxdl or None)
        monkeypatch.setattr(importlib.metadata, "version", lambda name: installed[name])
        source = cell(ROOT / "notebooks" / "first_run.ipynb", "install")
        scope = {}
        source = source.replace('Path("/dev")', f'Path("{tmp_path}/machine/dev")')
        exec(source.replace('WANTED = "auto"', f'WANTED = "{wanted}"'), scope)
        return scope["wanted"], commands

    with monkeypatch.context() as patch:
        patch.setenv("JAX_PLATFORMS", "cpu")
        yield run


COLAB = {"numpy": "2.1.3", "jax": "0.7.2", "jaxlib": "0.7.2", "flax": "0.11.2", "absl-py": "1.4.0"}
AFTER = {"jax": "0.11.2", "jaxlib": "0.11.2", "flax": "0.12.12", "absl-py": "2.5.1"}


@pytest.mark.parametrize(
    ("devices", "wanted", "packages"),
    [
        (["dev/accel0", "dev/accel1"], "tpu", ["jaxdl", "jax[tpu]"]),
        (["dev/vfio/0", "dev/vfio/vfio"], "tpu", ["jaxdl", "jax[tpu]"]),
        (["dev/vfio/vfio"], "cpu", ["jaxdl"]),
        (["dev/nvidia0"], "gpu", ["jaxdl", "jax[cuda12]"]),
        ([], "cpu", ["jaxdl"]),
    ],
)
def test_what_is_installed_where(machine, devices, wanted, packages):
    # numpy is loaded when a session of Colab begins, and stays as it is
    found, commands = machine(devices, loaded={"numpy": "2.1.3"}, installed=COLAB)
    assert found == wanted and commands == [["-q", *packages]]


def test_a_hardware_that_is_asked_for_is_wanted_whatever_is_there(machine):
    assert machine([], installed=COLAB, wanted="tpu")[0] == "tpu"


@pytest.mark.parametrize("module", ["jax", "absl"])
def test_a_loaded_module_that_was_replaced_restarts_once(machine, tmp_path, module):
    old = {"numpy": "2.1.3", module: COLAB[{"absl": "absl-py"}.get(module, module)]}
    with pytest.raises(Died):
        machine(loaded=old, installed=COLAB)
    # after the restart: installed, and nothing old is loaded
    assert machine(loaded={"numpy": "2.1.3"}, installed=COLAB | AFTER, has_jaxdl=True)[1] == []
    assert not list((tmp_path / "tmp").iterdir())


def test_it_does_not_restart_for_ever(machine):
    with pytest.raises(Died):
        machine(loaded={"jax": "0.7.2"}, installed=COLAB)
    with pytest.raises(RuntimeError, match="still {'jax': '0.7.2'}"):
        machine(loaded={"jax": "0.7.2"}, installed=COLAB | AFTER, has_jaxdl=True)


@pytest.mark.parametrize(("wanted", "fails"), [("cpu", False), ("tpu", True), ("gpu", True)])
def test_another_platform_than_was_asked_for_is_an_error(wanted, fails):
    source = cell(ROOT / "notebooks" / "first_run.ipynb", "platform")
    if fails:
        with pytest.raises(RuntimeError, match=f"wanted is a {wanted.upper()}, and JAX has a CPU"):
            exec(source, {"wanted": wanted})
    else:
        exec(source, {"wanted": wanted})
