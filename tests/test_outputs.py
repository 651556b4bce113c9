"""What a run answered for each example: kept whole, of the weights and predictor that judge it."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from hosts import finish, start_all

from jaxdl.config import Config, Data, Evaluation, Held, Log, part
from jaxdl.config_file import to_json
from jaxdl.data import Source, evaluation_batches, open_split
from jaxdl.data.fake import fake
from jaxdl.data.fingerprint import Fingerprint
from jaxdl.errors import UserError
from jaxdl.run import run
from jaxdl.rundir.outputs import joined_outputs, read_outputs
from jaxdl.train.outputs import form_of
from jaxdl.train.sharding import batch_sharding, make_mesh

EXAMPLES = 100
CONFIG = Config(
    data=Data(
        source=part("fake", size=[8, 8, 3], examples=EXAMPLES),
        batch_size=16,
        evaluation_batch_size=24,  # the last of them has 4 examples
    ),
    model=part("mlp", widths=[8]),
    optimizer=part("sgd", learning_rate=0.05),
    average=part("ema", decay=0.7),
    evaluation=Evaluation(
        predictors=(
            part("test_time_augmentation", augment=[part("random_crop", padding=2)], samples=2),
        )
    ),
    duration="12 steps",
    log=Log(sinks=()),
)


def in_numpy(logits, label):
    """(accuracy, cross-entropy in nats)."""
    logits = logits.astype(np.float64)
    log_p = logits - logits.max(-1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(-1, keepdims=True))
    chosen = np.take_along_axis(log_p, label[:, None], axis=1)
    return float(np.mean(logits.argmax(-1) == label)), -float(np.mean(chosen))


def last(workdir, key):
    lines = [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line[key] for line in lines if key in line][-1]


def check_metrics(workdir, tolerance=1e-6):
    found = read_outputs(workdir)
    accuracy, cross_entropy = in_numpy(found.logits, found.label)
    assert accuracy == pytest.approx(last(workdir, "test/accuracy"), abs=tolerance)
    assert cross_entropy == pytest.approx(last(workdir, "test/cross_entropy"), abs=tolerance)
    assert sorted(found.index.tolist()) == list(range(EXAMPLES))
    return found


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("outputs") / "run"
    run(CONFIG, workdir)
    return workdir


def test_metrics_recomputed_from_the_outputs_are_those_of_the_run(one):
    found = check_metrics(one)
    manifest = json.loads((one / "manifest.json").read_text())
    assert manifest["outputs"] == {"test": {"form": "logits", "digest": found.digest}}
    assert found.logits.dtype == np.float32
    stored = fake("test", size=(8, 8, 3), examples=EXAMPLES)
    np.testing.assert_array_equal(found.label, [stored[i]["label"] for i in found.index])


def test_two_processes_of_four_devices_leave_the_same(one, tmp_path):
    (tmp_path / "config.json").write_text(to_json(CONFIG))
    arguments = ["--config", tmp_path / "config.json", "--workdir", tmp_path / "run"]
    # Read as it is needed, and not from memory: each process reads its own part.
    arguments += ["--config.data.evaluation_batch_size=40", "--config.data.memory=1e-9"]
    ended = finish(start_all(arguments, 2, devices=4))
    assert [status for status, *_ in ended] == [0, 0], ended
    found = check_metrics(tmp_path / "run")
    assert found.digest == read_outputs(one).digest
    assert joined_outputs([one, tmp_path / "run"])[1].digest == found.digest


@pytest.mark.parametrize("limit", [1e-3, 1e-4])
def test_what_is_too_large_is_kept_halved_or_not_and_that_is_said(limit, tmp_path, capsys):
    # 100 x 10 logits are 4,000 bytes; the limits are 1,049 and 105 bytes.
    evaluation = Evaluation(outputs_limit=limit)
    run(dataclasses.replace(CONFIG, evaluation=evaluation, average=None), tmp_path)
    said = [line for line in capsys.readouterr().out.splitlines() if "outputs of test" in line]
    form = json.loads((tmp_path / "manifest.json").read_text())["outputs"]["test"]["form"]
    if limit == 1e-3:
        assert form == "log_probabilities" and "float16 log-probabilities" in said[0]
        check_metrics(tmp_path, tolerance=2e-3)
        with np.load(tmp_path / "outputs" / "test.npz") as stored:
            assert stored["log_probabilities"].dtype == np.float16
    else:
        assert form == "none" and "not kept" in said[0]
        with pytest.raises(UserError, match="no outputs of 'test'"):
            read_outputs(tmp_path)
    assert len(said) == 1
    assert (tmp_path / "predictions.npz").is_file()


def test_the_limit_is_of_bytes():
    assert form_of(16, (2**20,), 64) == "logits"  # 64 MiB
    assert form_of(17, (2**20,), 64) == "log_probabilities"
    assert form_of(128, (2**20,), 64) == "log_probabilities"  # 256 MiB of float16
    assert form_of(129, (2**20,), 64) is None


@pytest.mark.parametrize(
    ("objective", "model", "source", "shape"),
    [
        (
            "segmentation",
            part("unet", width=4, depth=1),
            part("shapes", size=8, examples=80),
            (8, 8),
        ),
        (
            "language",
            part("transformer_decoder", depth=1, width=8, heads=2, hidden=8),
            part("reversal", length=4, examples=80),
            (6,),
        ),
    ],
)
def test_maps_and_sequences_are_kept_alike(objective, model, source, shape, tmp_path):
    metric = "mean_iou" if objective == "segmentation" else "next_token_accuracy"
    config = Config(
        data=Data(source=source, batch_size=8),
        model=model,
        objective=part(objective),
        preprocess=() if objective == "language" else (part("normalize"),),
        evaluation=Evaluation(metrics=(part(metric),), monitor=f"validation/{metric}"),
        duration="1 steps",
        log=Log(sinks=()),
    )
    run(config, tmp_path)
    found = read_outputs(tmp_path)
    assert found.label.shape[1:] == shape
    assert found.logits.shape[:-1] == found.label.shape


def test_every_split_that_is_measured_at_the_end_is_kept(tmp_path, capsys):
    splits = {
        "ood": Held(source=part("fake", size=[8, 8, 3], examples=30, seed=7), when="end"),
        "drawn": Held(sampler=part("balanced"), when="end"),
    }
    evaluation = Evaluation(splits=splits)
    run(dataclasses.replace(CONFIG, evaluation=evaluation), tmp_path)
    found = read_outputs(tmp_path, "ood")
    accuracy, cross_entropy = in_numpy(found.logits, found.label)
    assert accuracy == pytest.approx(last(tmp_path, "ood/accuracy"), abs=1e-6)
    assert cross_entropy == pytest.approx(last(tmp_path, "ood/cross_entropy"), abs=1e-6)
    outputs = json.loads((tmp_path / "manifest.json").read_text())["outputs"]
    assert {name: one["digest"] for name, one in outputs.items()} == {
        "test": read_outputs(tmp_path).digest, "ood": found.digest,
    }  # fmt: skip
    # Examples that were drawn, some twice and others not at all, cannot be joined by number.
    assert "outputs of drawn: not kept" in capsys.readouterr().out
    assert 0 <= last(tmp_path, "drawn/accuracy") <= 1


# The digest


def digest(arrays, batch_size=8, memory=2**30):
    class Records:
        def __len__(self):
            return len(arrays["image"])

        def __getitem__(self, i):
            return {name: array[i] for name, array in arrays.items()}

    split = open_split(lambda name: Source(Records(), num_classes=4), "test", memory=memory)
    assert split.in_memory == (memory > 0)
    found = Fingerprint()
    sharding = batch_sharding(make_mesh())
    batches = evaluation_batches(split, batch_size=batch_size, sharding=sharding, fingerprint=found)
    index = [np.asarray(b["index"])[np.asarray(b["mask"]) > 0] for b in batches]
    np.testing.assert_array_equal(np.concatenate(index), np.arange(len(split)))
    return found.text


@pytest.fixture(scope="module")
def arrays():
    random = np.random.default_rng(0)
    label = random.integers(0, 4, 21).astype(np.int32)
    return {"image": random.integers(0, 256, (21, 4, 4, 3)).astype(np.uint8), "label": label}


def test_the_digest_is_of_the_examples_alone(arrays):
    assert jax.device_count() == 8
    whole = digest(arrays)
    assert whole == digest(arrays, batch_size=16)
    assert whole == digest(arrays, batch_size=24, memory=0)

    pixel = {**arrays, "image": arrays["image"].copy()}
    pixel["image"][20, 3, 3, 2] ^= 1
    label = {**arrays, "label": arrays["label"].copy()}
    label["label"][0] = (label["label"][0] + 1) % 4
    turned = {name: array[::-1] for name, array in arrays.items()}
    fewer = {name: array[:20] for name, array in arrays.items()}
    others = [digest(x) for x in (pixel, label, turned, fewer)]
    assert len({whole, *others}) == 5


def test_runs_on_other_examples_are_not_joined(one, tmp_path):
    source = part("fake", size=[8, 8, 3], examples=EXAMPLES, seed=1)
    config = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, source=source))
    run(dataclasses.replace(config, duration="1 steps"), tmp_path / "other")
    with pytest.raises(UserError, match="other.*different examples of 'test'"):
        joined_outputs([one, tmp_path / "other"])
