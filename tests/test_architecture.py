"""The house keeps its shape: who imports whom, how long a file is, what is documented."""

import ast
import re
from pathlib import Path

import pytest
from conftest import ROOT

# A room may import rooms of earlier rows and itself; rooms of one row are blind to each other.
ROWS = [
    [
        "errors",
        "corrections",
        "types",
        "untrusted",
        "tree",
        "config",
        "config_file",
        "datasets",
        "durations",
        "judging",
        "aliases",
        "override",
        "registry",
        "room",
        "listing",
    ],
    ["cluster"],
    ["nn", "losses", "metrics", "augment", "data"],
    ["models", "optim"],
    ["objectives", "train", "hub"],
    ["rundir"],
    ["check_targets"],
    ["report", "checks", "data_defaults"],
    ["held", "networks"],
    ["assemble_streams"],
    ["assemble"],
    ["init_from", "evaluation", "notices", "metadata", "frozen", "check_data"],
    ["session"],
    ["loaded"],
    ["perf"],
    ["run"],
    ["population", "explain"],
    ["research"],
    ["verbs"],
    ["front"],
    ["main"],
]
TOGETHER = {0}  # the row of single files that work together
FILES = sorted((ROOT / "jaxdl").rglob("*.py"))
IDS = [str(f.relative_to(ROOT)) for f in FILES]


def room_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "jaxdl" and len(parts) > 1 else None


def imports_of(file: Path):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            if node.module == "jaxdl":
                yield from (f"jaxdl.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("file", FILES, ids=IDS)
def test_import_direction(file):
    row_of = {room: i for i, row in enumerate(ROWS) for room in row}
    relative = file.relative_to(ROOT / "jaxdl")
    here = relative.parts[0].removesuffix(".py")
    if here == "__init__":
        return
    assert here in row_of, f"{here} has no place in the house"
    for module in imports_of(file):
        there = room_of(module)
        if there is None or there == here:
            continue
        allowed = row_of[there] < row_of[here] or (
            row_of[there] == row_of[here] and row_of[here] in TOGETHER
        )
        assert allowed, f"{relative} imports {module}"


@pytest.mark.parametrize("file", FILES, ids=IDS)
def test_a_file_is_short_and_says_what_it_is(file):
    text = file.read_text()
    assert len(text.splitlines()) <= 400
    assert ast.get_docstring(ast.parse(text))


@pytest.mark.parametrize("file", FILES, ids=IDS)
def test_public_functions_are_documented_and_annotated(file):
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), node.name
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            for argument in arguments:
                assert argument.annotation or argument.arg == "self", (node.name, argument.arg)


def test_few_lines_escape_the_type_checker_each_for_a_reason():
    ignores = [line for f in FILES for line in f.read_text().splitlines() if "type: ignore" in line]
    assert len(ignores) <= 10
    for line in ignores:
        assert re.search(r"# type: ignore\[[\w-]+\]  # \w+", line), line


def test_one_place_applies_updates():
    users = [f.name for f in FILES if "apply_updates(" in f.read_text()]
    assert users == ["step.py"]


def test_no_tensorflow():
    for file in FILES:
        assert not any(m.split(".")[0] == "tensorflow" for m in imports_of(file) if m)
