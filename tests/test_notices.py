"""Options that change nothing are answered in one line; the same options at work say nothing."""

import dataclasses

import jax
import numpy as np
import pytest
from conftest import ROOT

from jaxdl.assemble import assemble
from jaxdl.config import Config, Data, Evaluation, part
from jaxdl.config_file import load
from jaxdl.errors import UserError
from jaxdl.main import main
from jaxdl.notices import notices
from jaxdl.override import override

BASE = Config(data=Data(batch_size=16), model=part("mlp", widths=[8]), duration="4 steps")
DROPS = [("model.drop_rate", "0.5")]
CNN = [("model", "cnn"), ("model.widths", "[4]")]
AVERAGE = [("average", "ema")]
TENSOR = [("mesh.tensor", "2")]

# The option as it does nothing, what the line says, and the option at work.
CASES = {
    "evaluation.norm_batches": ([], "keeps no averaged weights", [*CNN, *AVERAGE]),
    "norm_batches of raw weights": (
        [*CNN, *AVERAGE, ("evaluation.average", "false")], "evaluation.average is false",
        [*CNN, *AVERAGE],
    ),
    "norm_batches without norms": (AVERAGE, "no batch norms", [*CNN, *AVERAGE]),
    "average": ([*AVERAGE, ("evaluation.average", "false")], "only saved", AVERAGE),
    "gradient.rollback": ([("gradient.skip_nonfinite", "false")], "skip_nonfinite", []),
    "layer_decay": ([("layer_decay", "1")], "1 is the factor", [("layer_decay", "0.9")]),
    "lr_multipliers": (
        [("lr_multipliers", '{"head/.*": 1}')], "its factor is 1",
        [("lr_multipliers", '{"head/.*": 2}')],
    ),
    "lr_multipliers of what is frozen": (
        [("freeze", "head/.*"), ("lr_multipliers", '{"head/.*": 2}')], "config.freeze holds all",
        [("freeze", "head/.*"), ("lr_multipliers", '{"backbone/.*": 2}')],
    ),
    "freeze_norms": ([], "no batch norms", CNN),
    "sync_norms": ([("sync_norms", "false")], "no batch norms", [*CNN, ("sync_norms", "false")]),
    "dropout": ([], "nothing drops in model 'mlp'", DROPS),
    "mc_dropout": ([], "nothing drops in model 'mlp'", DROPS),
    "mesh.tensor": ([*CNN, *TENSOR], "splits no layer of the backbone of model 'cnn'", [
        ("model", "vit_tiny_patch16_224"), ("model.patch_size", "2"), *TENSOR,
    ]),
}  # fmt: skip
ALWAYS = {
    "evaluation.norm_batches": [("evaluation.norm_batches", "2")],
    "norm_batches of raw weights": [("evaluation.norm_batches", "2")],
    "norm_batches without norms": [("evaluation.norm_batches", "2")],
    "gradient.rollback": [("gradient.rollback", "1")],
    "freeze_norms": [("freeze_norms", "true")],
    "dropout": [("dropout", "gaussian")],
    "mc_dropout": [("evaluation.predictors", "mc_dropout")],
}


def lines(config):
    plan = assemble(config)
    return notices(config, plan, plan.abstract_state(0))


@pytest.mark.parametrize("name", CASES)
def test_an_option_without_an_effect_has_its_line(name):
    idle, says, at_work = CASES[name]
    always = ALWAYS.get(name, [])
    said = lines(override(BASE, [*idle, *always]))
    assert any(says in line for line in said), said
    assert not any(says in line for line in lines(override(BASE, [*at_work, *always])))


@pytest.mark.parametrize("name", [p.stem for p in sorted((ROOT / "configs").glob("*.py"))])
def test_shipped_configs_have_none(name):
    config = load(name)
    plan = assemble(config, mesh=jax.make_mesh((1, 1, 1, 1), ("data", "fsdp", "tensor", "stage")))
    assert notices(config, plan, plan.abstract_state(0)) == []


def test_a_run_prints_it(tmp_path, capsys):
    run = ["--config", "cnn", "--config.model=mlp", "--config.data.batch_size=16"]
    run += ["--config.duration=1", "--config.log.sinks=", "--config.layer_decay=1"]
    assert main([*run, "--workdir", str(tmp_path)]) == 0
    assert "  config.layer_decay changes nothing: 1 is" in capsys.readouterr().out


def test_what_would_leave_nothing_to_do_is_refused():
    with pytest.raises(UserError, match="config.freeze='.*' matches every parameter"):
        lines(override(BASE, [("freeze", ".*")]))
    with pytest.raises(UserError, match="config.log.every '0 steps' is less than one step"):
        lines(override(BASE, [("log.every", "0 steps")]))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            [("evaluation.mode", "maxx")],
            "evaluation.mode: 'maxx' is not a choice: did you mean 'max'",
        ),
        (
            [("evaluation.splits.a.when", "now")],
            "splits.a.when: 'now' is not a choice: choices: end",
        ),
        ([("data.validation", "no")], "config.data.validation: unknown split 'no': choices: test"),
        ([("evaluation.splits.a.split", "no")], "config.evaluation.splits.a.split: unknown split"),
        ([("data.streams.b.labels", "true"), ("data.streams.u.labels", "3")], "streams.u.labels: "),
        ([("data.streams.u.split", "no")], "config.data.streams.u: unknown split 'no'"),
    ],
)
def test_what_is_refused_is_named_by_its_field(changes, says):
    with pytest.raises(UserError, match=says.replace("(", r"\(")):
        lines(override(BASE, changes))


def test_a_batch_larger_than_the_training_split_is_told():
    data = Data(source=part("fake", examples=1258), batch_size=100_000)
    said = "config.data.batch_size 100,000 is more than the 1,258 training examples: "
    assert lines(dataclasses.replace(BASE, data=data)) == [f"{said}a batch repeats them"]


def of_labels(tmp_path, label, **names):
    image = np.zeros((*np.shape(label)[:1], 8, 8, 1), np.uint8)
    np.savez(tmp_path / "x.npz", image=image, label=label, **names)
    source = Data(source=part("npz", path=str(tmp_path / "x.npz")), train="all", batch_size=8)
    data = dataclasses.replace(source, validation=None, test=None)
    extra = {}
    if np.ndim(label) > 1:
        extra = {
            "model": part("unet", width=4, depth=1),
            "objective": part("segmentation"),
            "evaluation": Evaluation(metrics=(part("mean_iou"),)),
        }
    return lines(dataclasses.replace(BASE, data=data, **extra))


def test_classes_without_an_example_are_told(tmp_path):
    label = np.arange(16) % 4
    assert of_labels(tmp_path, label) == []
    assert of_labels(tmp_path, label + 1) == [
        "1 of 5 classes have no training examples: 0; labels count from 0"
    ]
    assert of_labels(tmp_path, 0 * label, class_names=["a", "b"]) == [
        "all training examples are of class a: nothing is to be learned"
    ]
    mask = np.zeros((16, 8, 8), np.int64)
    mask[:, 4:] = 128
    (said,) = of_labels(tmp_path, mask)
    assert said.startswith("127 of 129 classes have no training pixels: 1, 2, 3, 4, 5, ...")


def test_images_that_are_not_finite_are_told(tmp_path):
    image = np.zeros((16, 8, 8, 1), np.float32)
    image[3, 0, 0], image[9, 1, 1] = np.nan, np.inf
    np.savez(tmp_path / "x.npz", image=image, label=np.arange(16) % 2)
    source = part("npz", path=str(tmp_path / "x.npz"))
    data = Data(source=source, train="all[2:]", batch_size=8, validation=None, test=None)
    (told,) = lines(dataclasses.replace(BASE, data=data))
    assert told.startswith("2 of 14 images of split 'train' hold NaN or infinity, the first is")
    assert "record 1:" in told


def test_masks_of_0_and_255_are_refused(tmp_path):
    mask = np.zeros((16, 8, 8), np.int64)
    mask[:, 4:] = 255
    with pytest.raises(UserError, match="the masks hold 0 and 255 alone, and 255 is void"):
        of_labels(tmp_path, mask)
    mask[:, 0] = 1
    assert of_labels(tmp_path, mask) == []
