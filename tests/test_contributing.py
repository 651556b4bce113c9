"""CONTRIBUTING.md works as written: its model, optimizer, metric and verb are run."""

import json
import re
import sys

import pytest
from conftest import ROOT

from jaxdl import verbs
from jaxdl.main import main

PAGE = (ROOT / "CONTRIBUTING.md").read_text()
CODE = dict(
    zip(
        re.findall(r"^`jaxdl/(\w+/\w+)\.py`", PAGE, flags=re.M),
        re.findall(r"```python\n(.*?)```", PAGE, flags=re.S),
        strict=True,
    )
)


@pytest.fixture
def files(tmp_path, own_registry, monkeypatch):
    """The page's files, as a user's own; the verb where verbs are looked for."""
    monkeypatch.chdir(ROOT)
    verbs.every_verb()  # fills the table that is copied below
    monkeypatch.setattr(verbs, "__path__", [*verbs.__path__, str(tmp_path / "verbs")])
    monkeypatch.setattr(verbs, "_verbs", dict(verbs._verbs))
    for name, code in CODE.items():
        file = tmp_path / f"{name}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(code)
    yield tmp_path
    for name in CODE:
        sys.modules.pop(name.rpartition("/")[2], None)
    sys.modules.pop("jaxdl.verbs.count_parameters", None)


def test_the_page_has_one_file_of_each():
    assert [name.partition("/")[0] for name in CODE] == ["models", "optim", "metrics", "verbs"]


def test_the_files_work_together(files, capsys):
    parts = [f"--import={files / name}.py" for name in CODE if not name.startswith("verbs/")]
    lines = re.findall(r"`(--config\.\w+(?:\.\w+)?=.*?)`", PAGE)
    settings = [line.replace("'", "") for line in lines]
    assert len(settings) == 3
    quick = ["--config.duration=4 steps", "--config.augment=[]", "--config.log.sinks=[]"]
    config = ["--config", "configs/cnn.py", *parts, *settings, *quick]
    assert main(["count-parameters", *config]) == 0
    assert capsys.readouterr().out == f"{64 * 32 + 32 + 32 * 10 + 10:,}\n"
    assert main(["count-parameters", *config, "--millions"]) == 0
    assert capsys.readouterr().out == "0.00 million\n"
    assert main([*config, "--workdir", str(files / "run")]) == 0
    assert "two_layers, 2,410 parameters" in capsys.readouterr().out
    measured = [json.loads(x) for x in (files / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any("test/margin" in line for line in measured)


def test_it_states_the_commands_and_limits_that_hold():
    gate = (ROOT / ".ci" / "run").read_text()
    (command,) = re.findall(r"```sh\n(.*?)\n```", PAGE)
    assert command in gate and command in (ROOT / "README.md").read_text()
    for tool in ("ruff check", "ruff format", "mypy"):
        assert tool in gate and tool in PAGE
    assert "25 minutes" in PAGE and "8 minutes" in PAGE
