"""docs/add-a-model.md works as written."""

import re
import shlex
import sys

import pytest
from conftest import ROOT

from jaxdl.main import main

PAGE = (ROOT / "docs" / "add-a-model.md").read_text()
(CODE,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)
TRAIN, SUMMARY, EXPORT = re.findall(r"^(?:python -m jaxdl\.main|jaxdl) (.*)$", PAGE, flags=re.M)


@pytest.fixture
def at_home(tmp_path, monkeypatch, own_registry):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_net.py").write_text(CODE)
    yield
    sys.modules.pop("my_net", None)


def test_the_page(at_home, capsys):
    train = TRAIN.replace("configs/", f"{ROOT}/configs/")
    quick = "--workdir runs/mine --config.duration='2 steps' --config.log.sinks=[]"
    assert main(shlex.split(f"{train} {quick}")) == 0
    assert "my_net, " in capsys.readouterr().out

    assert main(shlex.split(SUMMARY)) == 0
    said = capsys.readouterr().out
    # 9*1*16 + 2*16 + 9*16*32 + 2*32 + 32*1000 + 1000
    assert f"{9 * 16 + 32 + 9 * 16 * 32 + 64 + 33_000:,}" in said

    assert main(shlex.split(EXPORT)) == 0
    assert "names of me" in capsys.readouterr().out
