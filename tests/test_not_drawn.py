"""A finished training ends as finished, whatever of it cannot be drawn."""

import dataclasses
import json

import numpy as np
import pytest

from jaxdl import run as single
from jaxdl.config import Config, Data, Log, part
from jaxdl.data.arrays import npz
from jaxdl.registry import register
from jaxdl.run import run

RNG = np.random.default_rng(0)


def of_arrays(tmp_path, model, preprocess=(), **arrays):
    np.savez(tmp_path / "x.npz", label=np.arange(64) % 4, **arrays)
    source = part("npz", path=str(tmp_path / "x.npz"))
    splits = {"train": "all[:32]", "validation": "all[32:48]", "test": "all[48:]"}
    return Config(
        data=Data(source=source, batch_size=16, **splits),
        model=model,
        preprocess=preprocess,
        duration="2 steps",
        log=Log(sinks=()),
    )


def status(workdir):
    return json.loads((workdir / "manifest.json").read_text())["status"]


def test_labelled_tokens_end_with_a_report(tmp_path, own_registry):
    @register("sources")
    def marked(split, /, *, path):
        return dataclasses.replace(npz(split, path=path), vocabulary=9)

    model = part("transformer_encoder", width=8, depth=1, heads=2, hidden=8)
    tokens = RNG.integers(1, 9, (64, 6), np.int32)
    config = of_arrays(tmp_path, model, tokens=tokens)
    source = part("marked", **config.data.source.args)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, source=source))
    found = run(config, tmp_path / "run")
    assert 0 <= found["test/accuracy"] <= 1 and status(tmp_path / "run") == "finished"
    assert "16 test examples are wrong" in (tmp_path / "run" / "report.html").read_text()
    kept = np.load(tmp_path / "run" / "predictions.npz")
    assert "image" not in kept and kept["confusion"].sum() == 16


@pytest.mark.parametrize("channels", [2, 5])
@pytest.mark.parametrize("dtype", [np.uint8, np.float16])
def test_images_of_any_channels_end_with_a_report(tmp_path, channels, dtype):
    image = RNG.integers(0, 2, (64, 8, 8, channels)).astype(dtype)
    config = of_arrays(tmp_path, part("mlp", widths=[4]), (part("normalize"),), image=image)
    run(config, tmp_path / "run")
    assert status(tmp_path / "run") == "finished"
    assert "<img" in (tmp_path / "run" / "report.html").read_text()


def test_a_report_that_fails_is_said_and_the_run_is_finished(tmp_path, monkeypatch, capsys):
    def fails(workdir):
        raise ZeroDivisionError("of a curve")

    monkeypatch.setattr(single, "write_report", fails)
    image = RNG.integers(0, 255, (64, 8, 8, 1), np.uint8)
    config = of_arrays(tmp_path, part("mlp", widths=[4]), (part("normalize"),), image=image)
    assert "test/accuracy" in run(config, tmp_path / "run")
    assert status(tmp_path / "run") == "finished"
    assert capsys.readouterr().err == "warning: no report: ZeroDivisionError: of a curve\n"
