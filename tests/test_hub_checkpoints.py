"""Checkpoints of trainings elsewhere, as `init_from` reads them: prefixes, options, averages."""

import argparse
import pickle

import numpy as np
import pytest
from hostile import dict_of, legacy, storage, tensor, watched, zipped

from jaxdl.assemble import assemble
from jaxdl.config import Config, Data, part
from jaxdl.config_file import to_json
from jaxdl.hub import read
from jaxdl.hub.load import save, split_key
from jaxdl.hub.read import write_safetensors
from jaxdl.init_from import read_beginning
from jaxdl.main import main
from jaxdl.override import override

CONFIG = Config(data=Data(source=part("digits"), batch_size=64), model=part("resnet20", width=4))


@pytest.fixture(scope="module")
def plan():
    return assemble(CONFIG)


@pytest.fixture(scope="module")
def published(plan, tmp_path_factory):
    """The tensors of a published file, by the publisher's names, each with values of its own."""
    file = tmp_path_factory.mktemp("published") / "w.safetensors"
    state = plan.abstract_state(0)
    zeros = {"params": state.params, **state.variables}
    zeros = {kind: _zeros(collection) for kind, collection in zeros.items()}
    save(file, "resnet20", zeros.pop("params"), zeros)
    rng = np.random.default_rng(0)
    return {k: rng.random(x.shape, np.float32) for k, x in read(file).items()}


def _zeros(node):
    if isinstance(node, dict):
        return {name: _zeros(child) for name, child in node.items()}
    return np.zeros(node.shape, node.dtype)


def checkpoint(parts, container=zipped, beside=b""):
    """A PyTorch file of {key: {name: array}}; all arrays are views of one storage."""
    flat = np.concatenate([x.ravel() for tensors in parts.values() for x in tensors.values()])
    whole, items, at = storage(numel=flat.size), {}, 0
    for key, tensors in parts.items():
        views = {}
        for name, x in tensors.items():
            strides = [stride // x.itemsize for stride in x.strides]
            views[name] = tensor(x.shape, strides, at, whole)
            at += x.size
        items[key] = dict_of(**views)
    value = dict_of(**items, **({"beside": beside} if beside else {}))
    value = items[""] if list(items) == [""] else value
    if container is zipped:
        return zipped(value, **{"data/0": flat.tobytes()})
    return legacy(value, data=flat.size.to_bytes(8, "little") + flat.tobytes())


def begun(source, plan):
    """(first convolution, the line that is printed) of a run that begins from a source."""
    begin = read_beginning(override(CONFIG, [("init_from", str(source))]), plan)
    whole = sum(name.startswith(("params/", "variables/batch_stats/")) for name in begin.values)
    assert f"{whole} of {whole} arrays" in begin.lines[0] and "fresh" not in begin.lines[0]
    (kernel,) = [x for x in begin.values.values() if x.ndim == 4 and x.shape[2] == 1]
    return kernel, begin.lines[0]


def first(tensors):
    """The first convolution, which alone sees one channel, as Flax lays it out."""
    (kernel,) = [x for x in tensors.values() if x.ndim == 4 and x.shape[1] == 1]
    return kernel.transpose(2, 3, 1, 0)


@pytest.mark.parametrize(
    "prefix",
    [
        *("_orig_mod.", "model.", "module."),
        *("_orig_mod.module.", "model._orig_mod.module.", "module.model._orig_mod."),
    ],
)
def test_prefixes_of_all_names(prefix, published, plan, tmp_path):
    named = {f"{prefix}{name}": x for name, x in published.items()}
    write_safetensors(tmp_path / "w.safetensors", named)
    (tmp_path / "w.pth").write_bytes(checkpoint({"": named}))
    for file in ("w.safetensors", "w.pth"):
        kernel, _ = begun(tmp_path / file, plan)
        np.testing.assert_array_equal(kernel, first(published))


@pytest.mark.parametrize("container", [zipped, legacy])
def test_options_and_scores_beside_the_weights(container, published, plan, tmp_path):
    beside = {
        "args": argparse.Namespace(lr=0.1, betas=(0.9, 0.999), name=None, nested={"a": [1]}),
        "best": np.float32(0.5), "epoch": np.int64(3), "history": np.arange(3.0),
    }  # fmt: skip
    body = pickle.dumps(beside, 2)[2:-1]
    (tmp_path / "w.pth").write_bytes(checkpoint({"state_dict": published}, container, body))
    with watched() as seen:
        kernel, _ = begun(tmp_path / "w.pth", plan)
    assert not [event for event in seen if event.startswith(("pickle.", "exec", "os.system"))]
    np.testing.assert_array_equal(kernel, first(published))


@pytest.mark.parametrize("container", [zipped, legacy])
@pytest.mark.parametrize(
    ("raw", "averaged"),
    [("state_dict", "state_dict_ema"), ("model", "model_ema"), ("model", "ema")],
)
def test_averaged_weights_are_named_and_chosen(raw, averaged, container, published, plan, tmp_path):
    other = {name: -x for name, x in published.items()}
    if averaged == "model_ema":  # as torch.optim.swa_utils.AveragedModel and torchvision write it
        count = {"n_averaged": np.full((), 9, np.float32)}
        other = count | {f"module.{name}": x for name, x in other.items()}
    file = tmp_path / "w.pth"
    file.write_bytes(checkpoint({averaged: other, raw: published}, container))
    kernel, line = begun(file, plan)
    np.testing.assert_array_equal(kernel, first(published))
    assert line.startswith(f"{file}#{raw} (also there: #{averaged}): ")
    kernel, line = begun(f"{file}#{averaged}", plan)
    np.testing.assert_array_equal(kernel, -first(published))
    assert line.startswith(f"{file}#{averaged} (also there: #{raw}): ")


def test_a_key_that_a_file_does_not_have(published, tmp_path, capsys):
    (tmp_path / "w.pth").write_bytes(checkpoint({"model": published, "model_ema": published}))
    write_safetensors(tmp_path / "w.safetensors", published)
    (tmp_path / "c.json").write_text(to_json(CONFIG))
    for source, message in {
        "w.pth#modelema": "'modelema': did you mean 'model_ema' or 'model'?",
        "w.safetensors#ema": "no weights under 'ema': only PyTorch's checkpoints have keys",
        "v.pth#ema": "v.pth' is not a file or directory here",
    }.items():
        command = ["evaluate", "--config", str(tmp_path / "c.json")]
        assert main([*command, f"--config.init_from={tmp_path}/{source}"]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, error


def test_a_key_is_split_from_its_source(tmp_path):
    (tmp_path / "a#b.pth").write_bytes(b"")
    assert split_key(tmp_path / "a#b.pth") == (str(tmp_path / "a#b.pth"), "")
    for source, wanted in {
        "w.pth": ("w.pth", ""),
        "x#y/w.pth": ("x#y/w.pth", ""),
        "timm/x@main:w.bin#ema": ("timm/x@main:w.bin", "ema"),
        "https://host/w.pth#ema": ("https://host/w.pth", "ema"),
    }.items():
        assert split_key(source) == wanted
