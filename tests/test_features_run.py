"""Every config line of the table of features trains two steps, on what is smallest for it."""

import contextlib
import csv
import json
import math
import sys
import types

import numpy as np
import pytest
from PIL import Image
from test_features import LINES, assignments
from zoo import BUILT, QUICK

from jaxdl.assemble import assemble
from jaxdl.config import Config
from jaxdl.errors import UserError
from jaxdl.init_from import first_state
from jaxdl.override import override
from jaxdl.population.run import run as run_population
from jaxdl.run import run
from jaxdl.session import training_batches
from jaxdl.train.step import compile_step

NOT_RUN = {
    "--config.model.convolutional=true": "test_dense.py; not trained, as the next test shows",
    "M=composed --config.model.stages='[...]'": "test_composed.py has the stages",
    "--config.regularizers='center_loss, soft_labels(teacher=runs/a, ...)'": "test_frozen_model.py",
    "--config.refresh='measured_scale(every=3, ...)'": "test_refresh.py",
    "--config.init_from=timm/resnet50.a1_in1k": "test_hub.py, from a stand-in of the hub",
    "--config.init_from=w.pth#model_ema": "test_hub_checkpoints.py writes the file",
}
"""Lines that stand for more than they say, or that need a network; where they are tested."""

RUN = [line for line in LINES if line[-1] != "=" and line not in NOT_RUN]

SMALL = {
    "data.source": "fake(size=[16,16,3],num_classes=4,examples=32)",
    "data.batch_size": "16", "data.evaluation_batch_size": "16", "model": "cnn(widths=[4])",
    "duration": "2", "evaluation.every": "2 steps", "checkpoint.every": "2 steps",
    "log.every": "1", "log.sinks": "[]",
}  # fmt: skip
"""A run on a small network, whose arguments a line may change"""

MEMBERS = {
    "vgg16": "vgg11", "vgg16_bn": "vgg11_bn", "resnet56": "resnet20", "seresnet50": "resnet50",
    "resnext50_32x4d": "seresnext50_32x4d", "densenet121": "densenet_cifar",
    "mobilenet_v3_large": "mobilenet_v3_small", "vit_small_patch16_224": "vit_tiny_patch16_224",
    "mixer_b16_224": "mixer_s32_224",
}  # fmt: skip
"""Model of a line to the smallest member of its family, which trains in its place"""

MASKS = {
    "data.source": "shapes(size=16,examples=80)", "model": "unet(width=4,depth=2)",
    "objective": "segmentation", "evaluation.metrics": "mean_iou",
    "evaluation.monitor": "validation/mean_iou",
}  # fmt: skip
TOKENS = {
    "data.source": "characters(length=8)", "objective": "language", "augment": "", "preprocess": "",
    "model": "transformer_decoder(width=16,depth=1,heads=2,hidden=16)",
    "evaluation.metrics": "perplexity", "evaluation.monitor": "validation/perplexity",
    "evaluation.mode": "min",
}  # fmt: skip
TEXTS = {
    "data.source": "csv(path=reviews.csv,text=review,tokenizer=words)", "preprocess": "",
    "model.width": "16", "model.depth": "1", "model.heads": "2", "model.hidden": "16",
}  # fmt: skip
VIT = {"model": "vit_tiny_patch16_224(patch_size=4,width=16,depth=4,heads=2)"}
DROPS = {"model": "cnn(widths=[4],drop_rate=0.2)"}
RESNET = {"model": "resnet18(width=4,depths=[1,1])"}
VGG = {"model": "vgg11(width=4,hidden=8,pool_size=1)"} | {
    "data.source": "fake(size=[32,32,3],num_classes=4,examples=32)"
}
ALL = {"data.train": "all[:60%]", "data.validation": "all[60%:80%]", "data.test": "all[80%:]"}

NEEDS = {
    "M=fcn8s": MASKS, "M=unet": MASKS, "M=segnet": MASKS, "L='segmentation": MASKS,
    "characters(": TOKENS, "transformer_encoder": TEXTS, "folder(": ALL,
    "method=pcgrad": MASKS | {"objective": "segmentation(segmentation_loss=dice)"},
    "model.shortcut": {"model": "resnet20"}, "model.gate": RESNET, "model.drop_path": RESNET,
    "fc6/kernel": VGG, "mesh.stage": VIT | {"data.batch_size": "32"},
    "accumulate=": {"data.batch_size": "32"}, "noam": {"duration": "8000"},
    "target=box": {"data.source": "npz(path=boxes.npz)", **ALL},
    "ood/accuracy": {"evaluation.splits.ood.source": SMALL["data.source"]},
    "dropout=": DROPS, "mc_dropout": DROPS, "norm_batches": {"average": "ema"},
    "dataset=cifar10": {"data.validation": "None"},
    "splits.ood": {"data.source": "fake(size=[16,16,1],num_classes=10,examples=32)"},
    "freeze_statistics": {"freeze": "backbone/.*"}, "runs/a": {"model": "cnn(widths=[4])"},
}  # fmt: skip
"""A part of a line to what it needs besides: the model, the data, the options that it is about"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with what lines name: photos, tables, arrays, a run."""
    root = tmp_path_factory.mktemp("files")
    random, rows = np.random.default_rng(0), []
    for i in range(48):
        kind = ("cat", "dog")[i % 2]
        (root / "photos" / kind).mkdir(parents=True, exist_ok=True)
        file = root / "photos" / kind / f"{i}.png"
        Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)).save(file)
        split = "train" if i < 32 else "validation" if i < 40 else "test"
        hat = int(random.random() < 0.5)
        rows.append([file, hat, 1 - i % 2, f"good {kind} {i}", i / 10, kind, split])
    for name in ("photos", "ages", "reviews"):
        with (root / f"{name}.csv").open("w", newline="") as table:
            names = ["image", "hat", "dog", "review", "age", "label", "split"]
            csv.writer(table).writerows([names, *rows])
    box = random.random((48, 4)).astype(np.float32)
    image = random.integers(0, 256, (48, 16, 16, 3), np.uint8)
    np.savez(root / "boxes.npz", image=image, label=np.arange(48) % 2, box=box)
    run(override(Config(), [*SMALL.items()]), root / "runs" / "a")
    return root


def config_of(line):
    changes = dict(SMALL)
    for words, needs in NEEDS.items():
        if words in line:
            changes |= needs
    given = dict(assignments(line))
    if (model := given.get("model", "").partition("(")[0]) and model not in ("mlp", "composed"):
        given["model"] = MEMBERS.get(model, model)
        size, arguments = BUILT.get(given["model"], (16, {}))
        channels = 1 if model.startswith("lenet") else 3
        if "model" not in changes or changes["data.source"] == SMALL["data.source"]:
            source = f"fake(size=[{size},{size},{channels}],num_classes=4,examples=16)"
            changes |= {"data.source": source, "data.batch_size": "8"}
        changes = {"model": given["model"]} | {k: v for k, v in changes.items() if k != "model"}
        changes |= {f"model.{k}": json.dumps(v) for k, v in arguments.items()}
    return override(Config(), [*(changes | given).items()])


def two_steps(config):
    """Two steps of a model, compiled in a hurry, without the evaluation that comes after them."""
    plan = assemble(config)
    state = first_state(config, plan)
    with contextlib.closing(training_batches(config, plan, 0, 2)) as batches:
        first, second = batches
    step = compile_step(plan.step, state).lower(state, first).compile(QUICK)
    for batch in (first, second):
        state, metrics = step(state, batch)
        assert float(metrics["skipped"][0]) == 0 and np.isfinite(metrics["loss"][0])
    assert int(state.step) == 2


def marks(line):
    return [pytest.mark.data] if "tfds(" in line else []


@pytest.mark.parametrize("line", [pytest.param(line, marks=marks(line)) for line in RUN])
def test_a_config_line_trains_two_steps(line, files, tmp_path, monkeypatch):
    monkeypatch.chdir(files)
    if "wandb" in line:
        fake = types.ModuleType("wandb")
        client = types.SimpleNamespace(log=lambda values, step: None, finish=lambda: None)
        fake.init = lambda **options: client
        monkeypatch.setitem(sys.modules, "wandb", fake)
    config = config_of(line)
    if line.startswith("M=") or config.duration != 2:
        two_steps(config)
        return
    if config.population:
        run_population(config, tmp_path)
        return
    found = run(config, tmp_path)
    lines = [json.loads(text) for text in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [entry["train/loss"] for entry in lines if "train/loss" in entry]
    assert losses and all(map(math.isfinite, losses))
    assert found["train/loss"] == losses[-1]


def test_a_map_of_logits_is_not_trained_on_one_label_an_example(tmp_path):
    source = "fake(size=[48,48,3],num_classes=4,examples=16)"
    model = "vgg11(width=4,hidden=8,pool_size=1,convolutional=true)"
    changes = SMALL | {"model": model, "data.source": source}
    with pytest.raises(UserError, match=r"a map of logits, \(16, 1, 1, 4\), for one label"):
        run(override(Config(), [*changes.items()]), tmp_path)
