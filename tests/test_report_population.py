"""The page of a population: every number on it worked by hand, or told by the population itself."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_report import EVIL, Page

from jaxdl import config_file
from jaxdl.config import Checkpoint, Config, Data, Evaluation, Log, Population, part
from jaxdl.errors import UserError
from jaxdl.main import main
from jaxdl.population import run as populations
from jaxdl.population.members import members_of
from jaxdl.report import members, plots, population, write_report
from jaxdl.rundir import read

PATH = "optimizer.learning_rate"
CONFIG = Config(
    model=part("cnn", width=8),
    optimizer=part("adamw", learning_rate=1e-3),
    population=Population(seeds=2, grid={PATH: (0.1, 0.01, 1.0)}),
)

# (accuracy, loss) on the validation split at steps 10 and 20, then on the test split. Members 4
# and 5 have diverged; 2 and 3 were pruned.
MEASURED = [
    [(0.50, 2.0), (0.80, 1.0), (0.75, 1.5)],
    [(0.60, 1.0), (0.90, 0.5), (0.85, 0.5)],
    [(0.30, 3.0)],
    [(0.40, 2.5)],
    [(0.10, None), (0.10, None), (0.10, None)],
    [(0.10, 9.0), (0.20, 8.0), (0.30, 7.0)],
]


def make_population(root: Path, config: Config = CONFIG, measured=None, status="finished") -> Path:
    workdir = root / "population"
    workdir.mkdir()
    (workdir / "config.json").write_text(config_file.to_json(config))
    (workdir / "manifest.json").write_text(json.dumps({"status": status, "command": "jaxdl x"}))
    for member, rows in zip(members_of(config), measured or MEASURED, strict=True):
        make_member(workdir / "members" / member.name, member.config, rows, status)
    return workdir


def make_member(place: Path, config: Config, rows, status: str) -> None:
    place.mkdir(parents=True)
    lines = []
    for step, (accuracy, loss) in zip((10, 20), rows, strict=False):
        lines.append({"step": step, "train/loss": 1.0, "train/skipped": 0.0})
        lines.append({"step": step, "validation/accuracy": accuracy, "validation/loss": loss})
    if len(rows) == 3:
        lines.append({"step": 20, "test/accuracy": rows[2][0], "test/loss": rows[2][1]})
    ended = status if len(rows) == 3 else "pruned at step 10"
    manifest = {"status": ended, "parameters": 1234, "data": {"source": "digits", "test": 360}}
    (place / "config.json").write_text(config_file.to_json(config))
    (place / "manifest.json").write_text(json.dumps(manifest))
    write_lines(place, lines)


def write_lines(place: Path, lines: list[dict]) -> None:
    (place / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def content(workdir: Path) -> dict:
    manifest = read.read_manifest(workdir)
    return population.describe(workdir, read.read_config(workdir), manifest)


def test_numbers_on_the_page(tmp_path):
    workdir = make_population(tmp_path)
    seen = Page(write_report(workdir))
    assert seen.open == []
    for expected in (
        "cnn on digits, 6 members",
        # 0.75 and 0.85: mean 0.8, deviation sqrt(2 * 0.05^2 / 1) = 0.0707
        "80.00% test accuracy mean of 2 seeds ± 7.07%: learning_rate 0.1; the best combination of",
        f"{PATH} 0.1, 0.01, 1 seed 0 to 1",
        "1,234 a member",
        "Not finite at some step or all: validation/loss of member 4.",
        "cnn(width=8)",
        f"python -m jaxdl.main --config {workdir}/config.json",
        "jaxdl x",
    ):
        assert expected in seen.text, expected
    assert [a.attrs["href"] for a in seen.named("a")] == [
        f"members/{name}/" for name in ("1", "0", "5", "4", "3", "2")
    ]
    assert all((workdir / a.attrs["href"]).is_dir() for a in seen.named("a"))
    assert "had not finished" not in seen.text
    for tag in seen.tags:
        assert tag.name not in ("script", "link", "img", "iframe")


def test_tables_by_hand(tmp_path):
    found = content(make_population(tmp_path))
    table = found["members"]
    assert table["columns"] == [
        "seed", "learning_rate", "last step",
        "validation accuracy", "test accuracy", "validation loss", "test loss",
    ]  # fmt: skip
    assert [(r["name"], r["state"], *r["cells"]) for r in table["rows"]] == [
        ("1", "finished", "1", "0.1", "20", "90.00%", "85.00%", "0.5", "0.5"),
        ("0", "finished", "0", "0.1", "20", "80.00%", "75.00%", "1", "1.5"),
        ("5", "finished", "1", "1", "20", "20.00%", "30.00%", "8", "7"),
        ("4", "finished", "0", "1", "20", "10.00%", "10.00%", "NaN", "NaN"),
        ("3", "pruned", "1", "0.01", "10", "40.00%", "", "2.5", ""),
        ("2", "pruned", "0", "0.01", "10", "30.00%", "", "3", ""),
    ]
    table = found["combinations"]
    assert table["columns"][:3] == ["seeds", "at step", "validation accuracy"]
    assert [(r["name"], *r["cells"]) for r in table["rows"]] == [
        ("learning_rate 0.1", "2", "20", "85.00% ± 7.07%", "80.00% ± 7.07%",
         "0.75 ± 0.3536", "1 ± 0.7071"),
        ("learning_rate 1", "2", "20", "15.00% ± 7.07%", "20.00% ± 14.14%",
         "8 (1 of 2)", "7 (1 of 2)"),
        ("learning_rate 0.01", "2", "10", "35.00% ± 7.07%", "", "2.75 ± 0.3536", ""),
    ]  # fmt: skip


def test_means_are_of_a_step_that_all_seeds_have(tmp_path):
    # One seed of the best combination was pruned: at step 10 both were there.
    measured = [MEASURED[0][:1], *MEASURED[1:]]
    found = content(make_population(tmp_path, measured=measured))
    rows = {r["name"]: r["cells"][:4] for r in found["combinations"]["rows"]}
    assert rows["learning_rate 0.1"] == ["2", "10", "55.00% ± 7.07%", "85.00% (1 of 2)"]


def test_curves_end_where_members_end(tmp_path):
    workdir = make_population(tmp_path)
    (panel,) = content(workdir)["panels"]
    assert panel["title"] == "Validation accuracy, all members"
    assert [c.label for c in panel["curves"]] == [
        "learning_rate 0.1", "learning_rate 1", "learning_rate 0.01",
    ]  # fmt: skip
    assert panel["ended"]
    # A dot and a cross for each of the two that were pruned at their first evaluation.
    marks = [len(re.findall(rf"<use [^>]*--curve-{n}\)", str(panel["svg"]))) for n in (2, 3, 4)]
    assert marks == [0, 0, 4]
    assert "between 10.00% and 90.00%" in panel["alt"]
    assert Page(write_report(workdir)).text.count("× pruned") == 1


def test_many_members_are_told_apart_as_far_as_colors_go(tmp_path):
    grid = {PATH: tuple(np.linspace(0.01, 0.4, 40).round(4).tolist())}
    config = dataclasses.replace(CONFIG, population=Population(grid=grid))
    measured = [[(0.5, 1.0), (0.5 + i / 100, 1.0), (0.5, 1.0)] for i in range(40)]
    found = content(make_population(tmp_path, config, measured))
    (panel,) = found["panels"]
    assert panel["title"] == "Validation accuracy, 32 of 40 members"
    assert len(panel["curves"]) == plots.COLORS
    assert panel["curves"][0].label == "learning_rate 0.4"
    assert panel["curves"][-1].label == "the other combinations"
    assert found["combinations"] is None  # one seed: nothing to take a mean of
    assert found["headline"]["note"] == (
        "member 39: learning_rate 0.4; the best member of 40 by validation accuracy"
    )


def test_seeds_alone(tmp_path):
    config = dataclasses.replace(CONFIG, population=Population(seeds=3), seed=7)
    measured = [[(0.5, 1.0), (a, 1.0), (a, 1.0)] for a in (0.7, 0.8, 0.9)]
    found = content(make_population(tmp_path, config, measured))
    assert found["headline"] == {
        "name": "test accuracy", "value": "80.00%", "note": "mean of 3 seeds ± 10.00%",
    }  # fmt: skip
    assert ("seed", "7 to 9") in found["summary"]
    assert [r["name"] for r in found["combinations"]["rows"]] == ["all seeds"]


def test_a_population_that_is_going_on_has_a_shorter_page(tmp_path):
    status = "interrupted by SIGTERM at step 10"
    measured = [rows[:1] for rows in MEASURED]
    workdir = make_population(tmp_path, measured=measured, status=status)
    for place in (workdir / "members").iterdir():
        (place / "manifest.json").write_text('{"status": "running"}')
    found = content(workdir)
    assert found["remarks"][0].startswith("The population had not finished")
    assert {r["state"] for r in found["members"]["rows"]} == {status}
    assert found["headline"]["note"].endswith("by validation accuracy; at step 10")
    assert found["headline"]["name"] == "validation accuracy"
    assert "pruned" not in Page(write_report(workdir)).text.replace("were pruned", "")


def test_before_anything_was_measured(tmp_path):
    workdir = make_population(tmp_path, status="running")
    for place in (workdir / "members").iterdir():
        write_lines(place, [{"step": s, "train/loss": 2.0 / s} for s in (1, 2)])
    found = content(workdir)
    assert found["headline"] is None
    assert found["panels"][0]["title"] == "Train loss, all members"
    for place in (workdir / "members").iterdir():
        (place / "metrics.jsonl").unlink()
    seen = Page(write_report(workdir))
    assert "Logged nothing: members 0, 1, 2, 3, 4 and 5." in seen.text
    assert seen.named("svg") == []
    assert {r["cells"][2] for r in content(workdir)["members"]["rows"]} == {"unknown"}
    shutil.rmtree(workdir / "members")
    seen = Page(write_report(workdir))
    assert "6 of 6 members left no directory. There are no members to show." in seen.text
    assert seen.named("table") == []


@pytest.mark.parametrize(
    ("file", "damage", "said"),
    [
        ("config.json", b"{", "config.json"),
        ("config.json", None, "has no config.json"),
        ("metrics.jsonl", b"?\n{}\n", "metrics.jsonl, line 1"),
        ("manifest.json", b"[]", "manifest.json: expected an object"),
    ],
)
def test_a_damaged_member_is_left_out_and_said(tmp_path, file, damage, said):
    workdir = make_population(tmp_path)
    broken = workdir / "members" / "1" / file
    broken.unlink()
    if damage:
        broken.write_bytes(damage)
    found = content(workdir)
    assert [r["name"] for r in found["members"]["rows"]] == ["0", "5", "4", "3", "2"]
    (remark,) = [r for r in found["remarks"] if r.startswith("Member 1 is left out")]
    assert said in remark
    # Its combination is the other seed alone, and no spread is told.
    assert found["combinations"]["rows"][0]["cells"][:3] == ["1", "20", "80.00%"]


def test_no_jax(tmp_path):
    program = (
        "import sys, pathlib; from jaxdl.report import write_report\n"
        "write_report(pathlib.Path(sys.argv[1]))\n"
        "assert not {'matplotlib.pyplot', 'jax'} & set(sys.modules)\n"
    )
    run = [sys.executable, "-W", "error", "-c", program, str(make_population(tmp_path))]
    subprocess.run(run, check=True, timeout=60)


def test_a_missing_member_is_said_and_strangers_are_none(tmp_path):
    workdir = make_population(tmp_path)
    shutil.rmtree(workdir / "members" / "3")
    (workdir / "members" / "notes").mkdir()
    (workdir / "members" / "12").write_text("a file")
    found = content(workdir)
    assert len(found["members"]["rows"]) == 5
    assert "1 of 6 members left no directory." in found["remarks"]


def test_the_populations_own_files(tmp_path):
    workdir = make_population(tmp_path)
    (workdir / "manifest.json").unlink()
    seen = Page(write_report(workdir))
    assert "Nothing tells whether the population finished" in seen.text
    assert "had not finished" not in seen.text
    (workdir / "manifest.json").write_text("{}")
    (workdir / "config.json").unlink()
    with pytest.raises(UserError, match=r"has no config\.json"):
        write_report(workdir)


def test_a_member_that_ended_early_for_no_known_reason(tmp_path):
    workdir = make_population(tmp_path)
    lost = workdir / "members" / "2"
    (lost / "manifest.json").write_text('{"status": "running"}')
    state = lambda: {r["name"]: r["state"] for r in content(workdir)["members"]["rows"]}["2"]
    assert state() == "ended, unknown why"
    (lost / "checkpoints" / "10").mkdir(parents=True)  # only who ends leaves one of its own
    assert state() == "pruned"


def test_names_are_as_short_as_they_can_be():
    paths = ["optimizer.learning_rate", "objective.a.rate", "objective.b.rate"]
    assert members.short_names(paths) == ["learning_rate", "a.rate", "b.rate"]
    assert members.label((0.1, None, 5.0), paths) == "learning_rate 0.1, a.rate unknown, b.rate 5"
    assert members.label((), []) == "all seeds"


def test_hostile_strings_are_escaped(tmp_path):
    workdir = make_population(tmp_path)
    for place in (workdir, *(workdir / "members").iterdir()):
        (place / "manifest.json").write_text(json.dumps({"status": EVIL, "command": EVIL}))
    lines = [{"step": s, EVIL + "/accuracy": 0.5, "validation/$\\frac{" + EVIL: 1} for s in (1, 2)]
    write_lines(workdir / "members" / "0", lines)
    seen = Page(write_report(workdir))
    assert seen.named("script") == []
    assert seen.open == []
    assert seen.text.count(EVIL) > 5


def test_of_a_real_population(tmp_path, capsys):
    config = Config(
        data=Data(source=part("fake", size=(8, 8, 3), examples=96), batch_size=16),
        model=part("mlp", widths=[16]),
        optimizer=part("adamw", learning_rate=1e-3),
        schedule=part("constant"),
        evaluation=Evaluation(every=4),
        checkpoint=Checkpoint(every=3),
        log=Log(every=2, sinks=()),
        population=Population(grid={PATH: (1e-5, 1e-3, 1e-2, 1e38)}, successive_halving=4),
    )
    # Stopped at 5, after the worse half was pruned, and gone on with.
    for duration in (5, 12):
        config = dataclasses.replace(config, duration=duration)
        rows = populations.run(config, tmp_path)
    found = content(tmp_path)["members"]
    assert [r["name"] for r in found["rows"]] == [row["member"] for row in rows]
    assert [r["cells"][2] for r in found["rows"]] == [str(row["step"]) for row in rows]
    assert [r["state"] for r in found["rows"]] == ["finished", *["pruned"] * 3]
    best = f"{100 * rows[0]['validation/accuracy']:.2f}%"
    assert found["rows"][0]["cells"][found["columns"].index("validation accuracy")] == best
    page = (tmp_path / "report.html").read_bytes()
    assert f"report           {tmp_path / 'report.html'}" in capsys.readouterr().out
    assert main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "report.html")
    assert (tmp_path / "report.html").read_bytes() == page
