"""What a run measures besides its splits: the gap to its training examples, the best weights."""

import json

import numpy as np
import pytest
from test_run import small

from jaxdl.assemble import assemble
from jaxdl.config import EarlyStopping, Evaluation, part
from jaxdl.loaded import load_run
from jaxdl.main import main
from jaxdl.run import run
from jaxdl.session import final_state, gaps, weights_of, whole_split


def lines_of(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_gaps_are_what_is_lost_between_training_and_validation():
    values = {
        "train_eval/accuracy": 1.0,
        "validation/accuracy": 0.75,
        "train_eval/cross_entropy": 0.1,
    }
    values |= {"validation/cross_entropy": 0.9, "validation/other": 3.0}
    found = gaps(values)
    assert found == {
        "generalization_gap/accuracy": 0.25,
        "generalization_gap/cross_entropy": pytest.approx(-0.8),
    }


def test_the_gap_is_of_as_many_training_examples_as_they_are(tmp_path):
    config = small(
        average=None, duration="40 steps", evaluation=Evaluation(every=40, generalization_gap=True)
    )
    run(config, tmp_path)
    (line,) = [x for x in lines_of(tmp_path) if "generalization_gap/accuracy" in x]
    plan = assemble(config)
    params, variables = weights_of(config, plan, final_state(config, plan, tmp_path))
    split = plan.splits["train"]
    n = len(plan.splits["validation"])
    chosen = split.examples(np.arange(n) * len(split) // n)
    logits = plan.objective.predict(params, variables, chosen)["logits"]
    accuracy = np.mean(np.argmax(np.asarray(logits), -1) == chosen["label"])
    assert line["train_eval/accuracy"] == pytest.approx(accuracy, abs=1e-6)
    assert line["generalization_gap/accuracy"] == pytest.approx(
        accuracy - line["validation/accuracy"]
    )


def test_some_examples_are_spread_over_the_whole_split():
    config = small()
    plan = assemble(config)
    batches = list(whole_split(config, plan, "train", 100))
    labels = np.concatenate([b["label"][b["mask"] > 0] for b in batches])
    assert len(labels) == 100
    everything = plan.splits["train"].examples(np.arange(len(plan.splits["train"])))["label"]
    np.testing.assert_array_equal(labels, everything[np.arange(100) * len(everything) // 100])


def test_a_finished_run_is_measured_by_the_weights_it_was_judged_by(tmp_path, capsys):
    config = small(
        average=None,
        optimizer=part("sgd", learning_rate=0.5),
        schedule=part("constant"),
        duration="400 steps",
        early_stopping=EarlyStopping(patience=2),
        evaluation=Evaluation(every=10),
    )
    run(config, tmp_path)
    series = [x["validation/accuracy"] for x in lines_of(tmp_path) if "validation/accuracy" in x]
    assert max(series) > series[-1]  # the newest are worse than the best
    assert load_run(tmp_path).evaluate("validation")["accuracy"] == pytest.approx(max(series))
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path), "--split", "validation", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == pytest.approx(max(series))
