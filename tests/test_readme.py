"""The README's code does what it says."""

import re
import shlex

import numpy as np
import pytest
from conftest import ROOT

from jaxdl import registry
from jaxdl.checks import check
from jaxdl.config import part
from jaxdl.config_file import from_json
from jaxdl.data.pipeline import open_split
from jaxdl.main import main

README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, flags=re.S)
JOINED = re.sub(r"\\\n\s*", "", README)
COMMANDS = re.findall(r"^python -m jaxdl.main .*?(?=\s{2,}#|$)", JOINED, flags=re.M)


@pytest.fixture
def code(request):
    (found,) = [block for block in PYTHON if request.param in block]
    return found


@pytest.mark.parametrize("code", ["stripes"], indirect=True)
def test_the_five_line_data_set(code, own_registry):
    exec(compile(code, "README", "exec"), {"__name__": "jaxdl.data"})
    split = open_split(registry.bind("sources", part("stripes")), "train", memory=2**20)
    assert len(split) == 512 and split.num_classes == 2
    assert split.element_spec["image"].shape == (8, 8, 1)
    other = open_split(registry.bind("sources", part("stripes")), "test", memory=2**20)
    images = [s.examples(np.arange(512))["image"].tobytes() for s in (split, other)]
    assert images[0] != images[1]


def test_the_notebook_cells(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    fit, loop = (next(b for b in PYTHON if word in b) for word in ("jaxdl.fit(", "compile_step"))
    assert re.findall(r"^(?:import|from) .*", fit, flags=re.M) == ["import jaxdl"]
    scope = {}
    exec(compile(fit, "README", "exec"), scope)
    out = capsys.readouterr().out.splitlines()[-1]
    accuracy = re.search(r"'accuracy': ([0-9.]+)", out)[1]
    assert float(accuracy) > 0.2 and out.endswith("resnet18")  # better than a guess
    exec(compile(loop, "README", "exec"), scope)
    out = capsys.readouterr().out.splitlines()[-1]
    loss, by_hand = re.match(r"(\S+) {'test/accuracy': ([0-9.]+)", out).groups()
    assert float(loss) < 2.3 and float(by_hand) == pytest.approx(float(accuracy), abs=1e-6)


def test_every_command_names_files_that_are_there():
    assert len(COMMANDS) >= 5
    for command in COMMANDS:
        for file in re.findall(r"configs/\w+\.py", command):
            assert (ROOT / file).is_file()


@pytest.mark.parametrize("command", [c for c in COMMANDS if " --config " in c and "runs/" not in c])
def test_every_config_it_gives_is_valid(command, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert main([*shlex.split(command)[3:], "--print-config"]) == 0
    check(from_json(capsys.readouterr().out))


def test_every_folder_has_its_line():
    tree = README.split("## The tree")[1]
    rooms = [p for p in (ROOT / "jaxdl").iterdir() if (p / "__init__.py").is_file()]
    for folder in [*rooms, ROOT / "configs", ROOT / "docs", ROOT / "tests"]:
        assert f"{folder.name}/" in tree, folder
