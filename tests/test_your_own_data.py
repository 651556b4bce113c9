"""The page on one's own data: each command, in its order, on photos that are made here."""

import json
import re
import shlex

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from jaxdl.loaded import load_run
from jaxdl.main import main

PAGE = (ROOT / "docs" / "your-own-data.md").read_text()
BLOCKS = re.findall(r"^```(sh|python)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def commands(block):
    """Each command's words, and the file that its output goes to."""
    for line in block.replace("\\\n", " ").splitlines():
        words, _, file = line.partition(" > ")
        name, *arguments = shlex.split(words)
        assert name == "jaxdl"
        yield arguments, file


def test_every_command_of_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for channel, kind in enumerate(("cat", "dog")):
        (tmp_path / "photos" / kind).mkdir(parents=True)
        for i in range(40):
            pixels = rng.integers(0, 120, (36, 48, 3), np.uint8)
            pixels[..., 2 * channel] += 120  # cats are red, dogs are blue
            Image.fromarray(pixels).save(tmp_path / "photos" / kind / f"IMG_{i:04}.jpg")
    ran = 0
    for language, block in BLOCKS:
        if language == "python":
            exec(compile(block, "the page", "exec"), {})
            continue
        for arguments, file in commands(block):
            capsys.readouterr()
            assert main(arguments) == 0, arguments
            out = capsys.readouterr().out
            if file:
                (tmp_path / file).write_text(out)
            ran += 1
    assert ran == 9
    rows = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    right = [row["classes"][0]["class"] in row["file"] for row in rows]
    assert len(rows) == 80 and np.mean(right) > 0.9
    first = json.loads((tmp_path / "numbers.jsonl").read_text().splitlines()[0])
    answer = load_run(tmp_path / "runs" / "numbers").predict([first["file"]])["logits"]
    assert first["numbers"] == {"number": pytest.approx(float(answer[0, 0]))}
    assert main(["predict", "runs/numbers", "photos/cat", "--top-k", "2"]) == 2
    assert "--top-k changes nothing: this run learns numbers" in capsys.readouterr().err
    assert (tmp_path / "runs" / "photos" / "report.html").is_file()
    manifest = json.loads((tmp_path / "runs" / "arrays" / "manifest.json").read_text())
    assert manifest["data"]["class_names"] == ["red", "green", "blue"]
    targets = [
        json.loads((tmp_path / "runs" / name / "manifest.json").read_text())["data"]["targets"]
        for name in ("table", "numbers")
    ]
    assert [t["label"]["kind"] for t in targets] == ["classes", "numbers"]
