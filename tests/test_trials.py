"""Variants with seeds: each run once, what it measured summed up rightly, mistakes found first."""

import dataclasses
import json
import math
import signal
import statistics

import pytest

from jaxdl.cluster.signals import Interrupted
from jaxdl.config import Config, Data, Evaluation, Log, part
from jaxdl.errors import UserError
from jaxdl.research import run_all as runs_module
from jaxdl.research.trials import summarize, table, trials

TINY = Config(
    data=Data(source=part("fake", size=[8, 8, 3], examples=64), batch_size=8),
    model=part("mlp", widths=[4]),
    optimizer=part("sgd", learning_rate=0.05),
    duration="4 steps",
    log=Log(sinks=()),
)
FAST = dataclasses.replace(TINY, optimizer=part("sgd", learning_rate=0.5))
VARIANTS = {"base": TINY, "fast-0.5": FAST}


def gathered(runs):
    results = {}
    for name, _, metrics in runs:
        results.setdefault(name, []).append(metrics)
    return results


def written(workdir, metric):
    lines = [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line[metric] for line in lines if metric in line][-1]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trials")
    return workdir, list(trials(VARIANTS, (0, 1), workdir, ["test/accuracy"]))


def test_every_variant_runs_with_every_seed(done):
    workdir, runs = done
    names = [(name, seed) for name, seed, _ in runs]
    assert names == [("base", 0), ("fast-0.5", 0), ("base", 1), ("fast-0.5", 1)]
    for name, seed in names:
        place = workdir / f"{name}-{seed}"
        config = json.loads((place / "config.json").read_text())
        assert config["seed"] == seed
        assert config["optimizer"]["args"]["learning_rate"] == (0.05 if name == "base" else 0.5)
        assert "final  test/accuracy" in (place / "log.txt").read_text()


def test_what_a_run_prints_stays_in_its_directory(done, tmp_path, capsys):
    list(trials({"base": TINY}, [0], tmp_path))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("metric", ["test/accuracy", "test/cross_entropy", "validation/accuracy"])
def test_means_and_spreads_are_those_of_the_run_directories(done, metric):
    workdir, runs = done
    for name, found in summarize(gathered(runs), metric).items():
        values = [written(workdir / f"{name}-{seed}", metric) for seed in (0, 1)]
        assert found.values == tuple(values)
        assert found.mean == pytest.approx(statistics.mean(values))
        assert found.spread == pytest.approx(statistics.stdev(values))
    losses = summarize(gathered(runs), "test/cross_entropy")["base"].values
    assert losses[0] != losses[1]  # another seed is another run


def test_what_has_ended_is_not_run_again(done, monkeypatch):
    workdir, runs = done
    monkeypatch.setattr(runs_module, "run", lambda *_: pytest.fail("run again"))
    logs = {p: p.read_text() for p in workdir.glob("*/log.txt")}
    assert list(trials(VARIANTS, (0, 1), workdir)) == runs
    assert {p: p.read_text() for p in workdir.glob("*/log.txt")} == logs


def test_what_was_stopped_or_is_to_be_longer_goes_on(tmp_path):
    ((_, _, metrics),) = trials({"a": TINY}, [0], tmp_path)
    manifest = tmp_path / "a-0" / "manifest.json"
    stopped = json.loads(manifest.read_text()) | {"status": "interrupted by SIGINT at step 4"}
    manifest.write_text(json.dumps(stopped))
    ((_, _, again),) = trials({"a": TINY}, [0], tmp_path)
    assert again == metrics and json.loads(manifest.read_text())["status"] == "finished"
    longer = dataclasses.replace(TINY, duration="6 steps")
    ((_, _, more),) = trials({"a": longer}, [0], tmp_path)
    assert written(tmp_path / "a-0", "step") == 6
    assert more["test/cross_entropy"] != metrics["test/cross_entropy"]
    log = (tmp_path / "a-0" / "log.txt").read_text()
    assert log.count("final  test/accuracy") == 2 and "4 of them done" in log


def test_a_signal_stops_all_trials_and_the_same_call_goes_on(tmp_path, monkeypatch):
    run = runs_module.run

    def interrupted(config, place):
        if config.seed == 1:
            raise Interrupted(signal.SIGTERM, 2)
        return run(config, place)

    monkeypatch.setattr(runs_module, "run", interrupted)
    seen = []
    with pytest.raises(Interrupted):
        seen.extend(trials({"a": TINY}, (0, 1), tmp_path))
    monkeypatch.setattr(runs_module, "run", run)
    assert [seed for _, seed, _ in trials({"a": TINY}, (0, 1), tmp_path)] == [0, 1]


@pytest.mark.parametrize(
    ("changes", "metrics", "said"),
    [
        ({"model": part("mpl")}, [], "run 'b-0': unknown model 'mpl'"),
        ({"optimizer": part("sgd", rho=1)}, [], "run 'b-0': optimizer 'sgd' takes no argument"),
        ({"data": Data(source=part("fake"), batch_size=12)}, [], "'b-0'.* does not divide over 8"),
        ({}, ["test/acuracy"], "'test/acuracy' is not measured: did you mean 'test/accuracy'"),
        ({}, ["accuracy"], "'accuracy' is not measured: did you mean"),
        (
            {"data": dataclasses.replace(TINY.data, test=None)},
            ["test/accuracy"],
            "run 'b-0': 'test/accuracy' is not measured",
        ),
        (
            {"evaluation": Evaluation(metrics=(part("top_k", k=3),), monitor="validation/top_k_3")},
            ["test/accuracy"],
            "run 'b-0': .*choices: test/top_k_3, validation/top_k_3",
        ),
    ],
)
def test_a_mistake_in_the_last_variant_is_found_before_the_first_runs(
    tmp_path, changes, metrics, said
):
    variants = {"a": TINY, "b": dataclasses.replace(TINY, **changes)}
    with pytest.raises(UserError, match=said):
        list(trials(variants, [0], tmp_path, metrics))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["", "a b", "../a", "a/b", "a'"])
def test_a_name_that_is_no_directory_s_is_refused(tmp_path, name):
    with pytest.raises(UserError, match="a name has letters, digits"):
        list(trials({"a": TINY, name: TINY}, [0], tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_mistake_inside_a_run_names_variant_and_seed(tmp_path, monkeypatch):
    def fails(config, place):
        raise UserError("the loss is not finite")

    monkeypatch.setattr(runs_module, "run", fails)
    with pytest.raises(UserError, match="^run 'a-7': the loss is not finite$"):
        list(trials({"a": TINY}, [7], tmp_path))


def test_a_directory_of_another_run_is_named(done):
    workdir, _ = done
    with pytest.raises(UserError, match="run 'base-0': .*base-0 holds a run of another"):
        list(trials({"base": FAST}, [0], workdir))


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="run 'a-0': cannot write to workdir"):
        list(trials({"a": TINY}, [0], tmp_path / "file"))


def test_data_that_variants_share_is_opened_once(tmp_path, monkeypatch):
    opened = []
    assemble = runs_module.assemble

    def noted(config, splits=None):
        opened.append(splits is None)
        return assemble(config, splits)

    monkeypatch.setattr(runs_module, "assemble", noted)
    monkeypatch.setattr(runs_module, "run", lambda *_: {})
    smaller = dataclasses.replace(TINY, data=dataclasses.replace(TINY.data, batch_size=16))
    list(trials({"a": TINY, "b": FAST, "c": smaller}, [0, 1], tmp_path))
    assert opened == [True, False, True]


HAND = {"a": [{"m": 1.0}, {"m": 2.0}, {"m": 6.0}], "b": [{"m": 0.5}, {"m": 0.5}, {"m": 0.5}]}


def test_a_table_by_hand():
    # squares of -2, -1 and 3 over n - 1: 14 / 2
    found = summarize(HAND, "m")["a"]
    assert found == (3.0, pytest.approx(math.sqrt(7)), (1.0, 2.0, 6.0))
    assert table(HAND, ["m"]).splitlines() == [
        "| variant | m |",
        "|---|---|",
        "| a | 3.0000 ± 2.6458 (1.0000, 2.0000, 6.0000) |",
        "| b | 0.5000 ± 0.0000 (0.5000, 0.5000, 0.5000) |",
    ]


def test_one_run_has_no_spread_and_an_absent_metric_is_named():
    found = summarize({"a": [{"m": 1.0}]}, "m")["a"]
    assert found.mean == 1.0 and math.isnan(found.spread)
    with pytest.raises(UserError, match="variant 'b' has no 'accuracy': choices: loss"):
        summarize({"a": [{"accuracy": 1.0}], "b": [{"loss": 1.0}]}, "accuracy")


def test_what_was_not_finite_is_not_a_number(tmp_path, monkeypatch):
    monkeypatch.setattr(runs_module, "run", lambda *_: {"test/accuracy": None})
    ((_, _, metrics),) = trials({"a": TINY}, [0], tmp_path)
    assert math.isnan(metrics["test/accuracy"])
    assert "nan" in table({"a": [metrics]}, ["test/accuracy"])
