"""Runs side by side: any run directories, one page, the best first, what differs and what not."""

import dataclasses
import html
import json
import re
import statistics

import numpy as np
import pytest
from test_trials import FAST, TINY

from jaxdl.config import Config, Population, part
from jaxdl.config_file import to_json
from jaxdl.errors import UserError
from jaxdl.main import main
from jaxdl.report.comparison import read_runs, write_comparison
from jaxdl.research.run_all import run_all
from jaxdl.research.trials import seeded


def written(place, values, config=TINY, digest="d", status="finished"):
    """A run directory by hand: `values` are the validation accuracies of its evaluations."""
    place.mkdir(parents=True)
    (place / "config.json").write_text(to_json(config))
    outputs = {"test": {"digest": digest, "form": "logits"}}
    (place / "manifest.json").write_text(json.dumps({"status": status, "outputs": outputs}))
    lines = [
        {"step": 10 * (i + 1), "validation/accuracy": v, "train/loss": 1.0 / (i + 1)}
        for i, v in enumerate(values)
    ]
    if values and values[-1] is not None:
        lines.append({"step": 10 * len(values), "test/accuracy": values[-1] - 0.1})
    (place / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    return place


def seeds(config, n):
    return list(seeded({"x": config}, range(n)).values())


@pytest.fixture
def runs(tmp_path):
    slow, fast = seeds(TINY, 2), seeds(FAST, 2)
    return [
        written(tmp_path / "slow" / "0", [0.5, 0.7, 0.6], slow[0]),
        written(tmp_path / "slow" / "1", [0.4, 0.8, 0.5], slow[1]),
        written(tmp_path / "fast" / "0", [0.6, 0.9, 0.9], fast[0]),
        written(tmp_path / "fast" / "1", [0.3, None, 0.85], fast[1]),
    ]


def rows_of(page, label):
    body = re.search(f'aria-label="{label}">.*?<tbody>(.*?)</tbody>', page, re.DOTALL)[1]
    rows = re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL)
    strip = lambda x: html.unescape(re.sub(r"<.*?>", "", x)).strip()
    return [[strip(c) for c in re.findall(r"<t[hd].*?>(.*?)</t[hd]>", r, re.DOTALL)] for r in rows]


def test_the_best_value_of_each_decides_and_what_differs_is_shown(runs, tmp_path):
    file = tmp_path / "out" / "page.html"
    lines = write_comparison(runs, file)
    page = file.read_text()
    found = rows_of(page, "Runs")
    assert [row[:3] for row in found] == [
        ["fast/0", "90.00%", "80.00%"],
        ["fast/1", "85.00%", "75.00%"],
        ["slow/1", "80.00%", "40.00%"],
        ["slow/0", "70.00%", "50.00%"],
    ]
    # last step, learning rate, seed
    assert [row[3:] for row in found] == [
        ["30", "0.5", "0"], ["30", "0.5", "1"], ["30", "0.05", "1"], ["30", "0.05", "0"],
    ]  # fmt: skip
    assert 'href="../fast/0"' in page
    assert [line.split()[0] for line in lines] == ["run", "fast/0", "fast/1", "slow/1", "slow/0"]
    assert "<b>80.00%</b> <span>test accuracy</span>" in page  # of the run that validation chose
    assert "://" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", page) and "<script" not in page


def test_seeds_of_a_variant_are_summed_up(runs, tmp_path):
    write_comparison(runs, tmp_path / "page.html")
    means = rows_of((tmp_path / "page.html").read_text(), "Means over seeds")
    spread = 100 * statistics.stdev([0.9, 0.85])
    assert means[0] == [
        "learning_rate 0.5", "2", f"87.50% ± {spread:.2f}%", f"77.50% ± {spread:.2f}%",
    ]  # fmt: skip
    assert means[1][0] == "learning_rate 0.05" and means[1][2].startswith("75.00% ± ")


def test_without_seeds_there_are_no_means(runs, tmp_path):
    write_comparison([runs[0], runs[2]], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "Means over seeds" not in page and len(rows_of(page, "Runs")) == 2


def test_what_is_the_same_is_told_once(runs, tmp_path):
    write_comparison(runs, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    shared = page[page.index("The same in all runs") :]
    terms = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", shared))
    assert terms["model"] == "mlp" and terms["duration"] == "4 steps"
    assert "optimizer.learning_rate" not in terms and "seed" not in terms


def test_runs_that_do_not_compare_are_told_of(runs, tmp_path):
    runs += [
        written(tmp_path / "other", [0.99], FAST, digest="another"),
        written(tmp_path / "going", [0.2], TINY, status="interrupted by SIGTERM at step 10"),
        written(tmp_path / "blank", [], TINY),
    ]
    write_comparison(runs, tmp_path / "page.html")
    page = html.unescape((tmp_path / "page.html").read_text())
    assert re.search(r"different examples of test.*: other; (fast|slow|going|blank)", page)
    assert "Not finished: going." in page
    assert "Never measured validation/accuracy: blank." in page
    assert rows_of(page, "Runs")[-1][0] == "blank"


def test_a_smaller_value_may_be_the_better(tmp_path):
    evaluation = dataclasses.replace(
        TINY.evaluation, monitor="validation/cross_entropy", mode="min"
    )
    config = dataclasses.replace(TINY, evaluation=evaluation)
    for name, values in (("a", [2.0, 1.0]), ("b", [3.0, 0.5, 4.0])):
        place = written(tmp_path / name, [], config)
        lines = [{"step": i, "validation/cross_entropy": v} for i, v in enumerate(values)]
        (place / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    assert [run.name for run in read_runs([tmp_path / "a", tmp_path / "b"])] == ["b", "a"]


def test_a_population_stands_for_its_members(tmp_path, runs):
    population = Config(population=Population(seeds=2))
    written(tmp_path / "p", [], population)
    for i, config in enumerate(seeds(TINY, 2)):
        written(tmp_path / "p" / "members" / str(i), [0.1 * i], config)
    names = [run.name for run in read_runs([tmp_path / "p", runs[2]])]
    assert names == ["fast/0", "1", "members/0"]


def test_mistakes_are_refused_in_a_line(runs, tmp_path, capsys):
    with pytest.raises(UserError, match="two runs or more"):
        write_comparison(runs[:1] * 2, tmp_path / "page.html")
    (tmp_path / "empty").mkdir()
    assert main(["compare", str(runs[0]), str(tmp_path / "empty")]) == 2
    assert "'" + str(tmp_path / "empty") in capsys.readouterr().err
    assert main(["compare", *map(str, runs[:2]), "--output", "/proc/nosuch/page.html"]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_real_runs_from_the_shell(tmp_path, capsys):
    configs = {"base": TINY, "fast": FAST}
    rows = {row.name: row for row in run_all(configs, tmp_path / "runs", ["test/accuracy"])}
    page = tmp_path / "page.html"
    places = [str(row.workdir) for row in rows.values()]
    assert main(["compare", *places, "--output", str(page)]) == 0
    out = capsys.readouterr().out
    assert str(page) in out and "learning_rate" in out
    for name, *cells in rows_of(page.read_text(), "Runs"):
        assert cells[1] == f"{100 * rows[name].metrics['test/accuracy']:.2f}%"
    assert np.isfinite(rows["base"].metrics["test/cross_entropy"])
    with pytest.raises(UserError, match="run 'p': config.population"):
        list(run_all({"p": Config(population=Population(seeds=2))}, tmp_path / "runs"))
    with pytest.raises(UserError, match="run 'b': unknown model 'mpl'"):
        list(run_all({"a": TINY, "b": Config(model=part("mpl"))}, tmp_path / "runs"))
