"""Configs: files, JSON, overrides, durations, and what is said about a mistake."""

import dataclasses
import subprocess
import sys

import pytest
from conftest import ROOT

from jaxdl import config_file, datasets
from jaxdl.config import Config, EarlyStopping, Part, part
from jaxdl.config_file import from_json, load, to_json
from jaxdl.durations import to_steps
from jaxdl.errors import UserError
from jaxdl.override import override


def test_json_round_trip_keeps_nested_parts():
    config = Config(
        objective=part("supervised", loss=part("cross_entropy", label_smoothing=0.1)),
        wrappers=(part("sam", rho=0.1),),
        early_stopping=EarlyStopping(patience=3),
    )
    again = from_json(to_json(config))
    assert again == config
    assert isinstance(again.objective.args["loss"], Part)


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("seed", "7", 7),
        ("duration", "3 epochs", "3 epochs"),
        ("duration", "300", 300),
        ("average", "ema", part("ema")),
        ("average", "ema(decay=0.9)", part("ema", decay=0.9)),
        (
            "augment",
            "random_crop(padding=2, mode=reflect), random_flip",
            (part("random_crop", padding=2, mode="reflect"), part("random_flip")),
        ),
        (
            "objective",
            "supervised(loss=focal(gamma=2))",
            part("supervised", loss=part("focal", gamma=2)),
        ),
        ("wrappers", "sam(rho=0.1)", (part("sam", rho=0.1),)),
        ("average", "swa(start=50%, every=2 epochs)", part("swa", start="50%", every="2 epochs")),
        (
            "augment",
            "one_of(augmentations=[a, b(x='1')], weights=[1, 2.5])",
            (part("one_of", augmentations=["a", part("b", x="1")], weights=[1, 2.5]),),
        ),
        ("objective.loss", "focal(gamma=2)", part("focal", gamma=2)),
        ("optimizer.decay", "backbone(/.*)", "backbone(/.*)"),
        ("wrappers", "sam(0.1)", UserError),
        ("wrappers", "sam(rho=1) asam", UserError),
        ("wrappers", "sam)", UserError),
        ("wrappers", "sam(rho=", UserError),
        ("augment", "[]", ()),
        ("layer_decay", "2", UserError),
        ("average", "null", None),
        ("optimizer.learning_rate", "3e-4", 3e-4),
        ("optimizer.name", "lion", "lion"),
        ("data.source.dataset", "123", 123),
        ("data.test", "train[:80%]", "train[:80%]"),
        ("data.validation", "None", None),
        ("augment.0.padding", "2", 2),
        ("augment.1.padding", "2", UserError),
        ("early_stopping.patience", "4", 4),
        ("early_stopping.patience", "0", UserError),
        ("precision", "bfloat16", part("bfloat16")),
        ("data.batch_size", "12.5", UserError),
        ("data.batch_size", "-1", UserError),
        ("optimiser.learning_rate", "1", UserError),
        ("optimizer.learning_rate.deep", "1", UserError),
        ("seed", "seven", UserError),
        ("wrappers", "[1]", UserError),
        ("dropout.size", "1", UserError),
    ],
)
def test_override(path, text, value):
    base = Config(augment=(part("random_crop", padding=4),))
    if value is UserError:
        with pytest.raises(UserError) as caught:
            override(base, [(path, text)])
        assert "\n" not in str(caught.value)
        return
    node = override(base, [(path, text)])
    for key in path.split("."):
        if isinstance(node, tuple):
            node = node[int(key)]
        elif isinstance(node, Part):
            node = node.name if key == "name" else node.args[key]
        else:
            node = getattr(node, key)
    assert node == value


def test_a_name_replaces_a_part_and_forgets_its_arguments():
    config = override(Config(), [("optimizer", "sgd"), ("optimizer.learning_rate", "0.5")])
    assert config.optimizer == part("sgd", learning_rate=0.5)


def test_names_replace_a_tuple_of_parts():
    config = override(
        Config(), [("augment", "random_crop,random_flip"), ("augment.0.padding", "1")]
    )
    assert config.augment == (part("random_crop", padding=1), part("random_flip"))


def test_a_part_inside_a_part_is_named_and_then_set():
    path = "objective.loss"
    config = override(Config(), [(path, "cross_entropy"), (f"{path}.label_smoothing", "0.1")])
    assert config.objective == part("supervised", loss=part("cross_entropy", label_smoothing=0.1))
    with pytest.raises(UserError, match="config.objective.loss is not set: name it first"):
        override(Config(), [(f"{path}.label_smoothing", "0.1")])


def test_unknown_key_names_the_nearest():
    with pytest.raises(UserError, match="config.data.batchsize: did you mean 'batch_size'"):
        override(Config(), [("data.batchsize", "1")])


@pytest.mark.parametrize(
    ("duration", "steps"),
    [
        (500, 500),
        ("500 steps", 500),
        ("1 epoch", 16),  # 1000 / 64 = 15.6
        ("2.5 epochs", 40),  # 39.06
        ("640 examples", 10),
        ("641 examples", 11),
        ("6.4e2 examples", 10),
        ("5%", 50),
        ("7%", 70),
        ("5.5%", 55),
        ("0.064 epochs", 1),
        ("0 steps", 0),
    ],
)
def test_durations(duration, steps):
    assert to_steps(duration, examples=1000, batch_size=64, total=1000) == steps


@pytest.mark.parametrize("duration", ["", "ten epochs", "5 apples", "-3", "1.2.3"])
def test_durations_that_are_none(duration):
    with pytest.raises(UserError, match="duration"):
        to_steps(duration, examples=10, batch_size=1)


def test_a_percentage_needs_a_whole():
    with pytest.raises(UserError, match="percentage"):
        to_steps("5%", examples=10, batch_size=1)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def get_config(:\n", "line 1"),
        ("x = 1\n", "no get_config"),
        ("def get_config():\n    return 3\n", "not a Config"),
        ("def get_config():\n    return 1 / 0\n", "line 2: ZeroDivisionError"),
        (
            "from jaxdl.config import Config\ndef get_config():\n    return Config(modle=1)\n",
            "unexpected keyword argument 'modle'",
        ),
        (
            "from jaxdl.config import Config\ndef get_config():\n    return Config(seed='a')\n",
            "config.seed: expected `int`",
        ),
        ("import no_such_module\n", "No module named"),
    ],
)
def test_a_bad_config_file_is_named(tmp_path, source, said):
    file = tmp_path / "bad.py"
    file.write_text(source)
    with pytest.raises(UserError) as caught:
        load(str(file))
    assert said in str(caught.value) and "bad.py" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]", '{"modle": 1}', '{"data": {"source": {"nam": "x"}}}'])
def test_bad_json_is_named(text):
    with pytest.raises(UserError):
        from_json(text)


def test_an_argument_where_none_is_taken(tmp_path):
    file = tmp_path / "plain.py"
    file.write_text("from jaxdl.config import Config\ndef get_config():\n    return Config()\n")
    assert load(str(file)) == Config()
    with pytest.raises(UserError, match="takes no argument"):
        load(f"{file}:big")


def test_reading_a_config_does_not_import_jax():
    code = "import sys; from jaxdl.config_file import load; load('configs/efficientnet.py'); "
    code += "import jaxdl.override; assert not {'jax', 'flax', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize("data", ["mnist", "cifar10", "imagenet"])
def test_shipped_configs_agree_about_their_data(data):
    """One cut into training, validation and test examples, and one normalization."""
    files = {"mnist": ["cnn", "lenet", "resnet"], "cifar10": ["cnn", "resnet", "efficientnet"]}
    names = files.get(data, ["resnet", "efficientnet"])
    configs = [load(f"{ROOT}/configs/{name}.py:{data}") for name in names]
    cut = lambda d: (d.source, d.train, d.validation, d.test)
    assert all(cut(c.data) == cut(configs[0].data) for c in configs)
    assert all(c.preprocess == (datasets.normalize(data),) for c in configs)
    train, validation = configs[0].data.train, configs[0].data.validation
    at = {"mnist": "55000", "cifar10": "45000", "imagenet": "10000"}[data]
    assert {train, validation} == {f"train[{at}:]", f"train[:{at}]"}
    # What a config says of its own stands in place of what is usual.
    assert getattr(datasets, data)(batch_size=7, threads=3).batch_size == 7


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (part("cnn"), "cnn"),
        (part("mlp", widths=[4, 8], norm=None), "mlp(widths=[4, 8], norm=none)"),
        (part("sgd", loss=part("focal", gamma=2.0)), "sgd(loss=focal(gamma=2.0))"),
        ((part("flip"), part("mixup", alpha=0.2)), "[flip, mixup(alpha=0.2)]"),
        ({"iris": part("iou")}, "{iris: iou}"),
        (EarlyStopping(patience=3), "patience=3  min_delta=0.0  restore_best=True"),
        ("5 epochs", "5 epochs"),
    ],
)
def test_values_in_words(value, text):
    assert config_file.in_words(value) == text


def test_a_part_in_words_is_what_the_shell_takes():
    optimizer = part("adamw", learning_rate=0.001, betas=[0.9, 0.99])
    wrapped = part("lookahead", inner=optimizer, steps=5)
    for value in (optimizer, wrapped):
        said = config_file.in_words(value)
        assert override(Config(), [("optimizer", said)]).optimizer == value


def test_summary_mentions_every_field_that_is_set():
    shown = {line.split()[0] for line in config_file.summary(Config()).splitlines()}
    unset = {"initializer", "dropout", "freeze_norms", "init_from", "regularizers", "wrappers"}
    unset |= {"optimizers", "refresh"}
    unset |= {
        "freeze",
        "lr_multipliers",
        "layer_decay",
        "augment",
        "average",
        "early_stopping",
        "imports",
    }
    unset |= {"population"}
    assert shown == {field.name for field in dataclasses.fields(Config)} - unset
