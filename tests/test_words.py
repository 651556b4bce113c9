"""The field's words: names that an older version used stand in the table of aliases alone."""

import ast
import dataclasses
import itertools
import re
import typing

import pytest
from conftest import ROOT

from jaxdl import aliases, config, registry
from jaxdl.rundir.read import read_manifest

FILES = sorted((ROOT / "jaxdl").rglob("*.py"))
IDS = [str(f.relative_to(ROOT)) for f in FILES]

# Looked for anywhere: names of modules, functions, classes, arguments, attributes, keys.
EVERYWHERE = {
    "taker", "takers", "Taker", "Taken", "cut_up", "each_term", "Keeps", "harmed", "Desk",
    "in_turn", "way_back", "ways_back", "culprit", "hang_after", "map_losses", "map_loss",
    "_towards", "penalized", "Journal", "keep_desk", "seal", "sealed", "Seal", "opening",
}  # fmt: skip
# Plain English words, looked for only where they were names.
AT = {
    "jaxdl/train/gradients.py": {"whole", "accumulate", "taken"},
    "jaxdl/train/state.py": {"keeps", "places", "drawn"},
    "jaxdl/train/materialize.py": {"drawn", "places"},
    "jaxdl/train/step.py": {"several", "_choose", "places", "share"},
    "jaxdl/train/loop.py": {"turns"},
    "jaxdl/types.py": {"Run"},
    "jaxdl/session.py": {"cause", "turns", "several"},
    "jaxdl/run.py": {"_persist", "cause", "turn", "facts"},
    "jaxdl/cluster/client.py": {"Line", "desk"},
    "jaxdl/cluster/signals.py": {"passing"},
    "jaxdl/registry.py": {"facts"},
    "jaxdl/nn/attention.py": {"attend"},
    "jaxdl/nn/head.py": {"each", "reads"},
    "jaxdl/nn/ghost_batch_norm.py": {"apart"},
    "jaxdl/objectives/features.py": {"pure", "pooled"},
    "jaxdl/optim/groups.py": {"rates"},
    "jaxdl/augment/mixing.py": {"share"},
}
MODULES = {
    "plain", "allocator", "memory", "members", "desk", "line", "seal", "draw", "opening", "splits",
    "order", "runs", "attend", "window", "hooks", "views", "ghost",
}  # fmt: skip
AT_HOME = {
    "cluster/allocator", "perf/memory", "verbs/memory", "population/members", "report/members",
}  # fmt: skip
KINDS = {"takers", "map_losses", "gradients"}


def names_in(tree):
    """Every name that code defines or uses, and every string that is one word."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.keyword) and node.arg:
            yield node.arg
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from re.findall(r"^\w+$", node.value)


@pytest.mark.parametrize("file", FILES, ids=IDS)
def test_no_old_name_is_left(file):
    relative = str(file.relative_to(ROOT))
    if file.name == "aliases.py":
        return
    old = EVERYWHERE | AT.get(relative, set())
    assert not old & set(names_in(ast.parse(file.read_text())))
    home = relative.removeprefix("jaxdl/").removesuffix(".py")
    assert file.stem not in MODULES or home in AT_HOME


def test_no_old_kind_is_left():
    assert not KINDS & set(registry.ROOMS)


def fields(cls, path=""):
    for field in dataclasses.fields(cls):
        yield path + field.name
        inner = config.dataclass_of(typing.get_type_hints(cls, include_extras=True)[field.name])
        if inner and inner is not config.Part:
            yield from fields(inner, f"{path}{field.name}.")


def test_old_fields_lead_to_fields_of_today():
    today = set(fields(config.Config))
    assert not today & set(aliases.FIELDS)
    assert set(aliases.FIELDS.values()) <= today


@pytest.mark.parametrize("prefix", aliases.METRICS)
def test_no_old_metric_is_written(prefix):
    quoted = re.compile(rf"""["']{prefix}""")
    users = [str(f) for f in FILES if f.name != "aliases.py" and quoted.search(f.read_text())]
    assert not users


def test_an_old_config_is_read_in_the_names_of_today():
    tree = {
        "hang_after": 5.0, "dispatch": 4, "rates": {"head/.*": 2.0},
        "gradient": {"taker": {"name": "plain", "args": {}}}, "evaluation": {"gap": True},
        "population": {"halve": 3},
        "model": {"name": "resnet18", "args": {"attention": {"name": "eca", "args": {"b": 2}}}},
        "objective": {"name": "segmentation", "args": {"map_loss": "dice", "ignore": 3}},
    }  # fmt: skip
    assert aliases.current_config(tree) == {
        "watchdog_seconds": 5.0, "steps_per_execution": 4, "lr_multipliers": {"head/.*": 2.0},
        "gradient": {"method": {"name": "full_batch", "args": {}}},
        "evaluation": {"generalization_gap": True}, "population": {"successive_halving": 3},
        "model": {"name": "resnet18", "args": {"gate": {"name": "eca", "args": {"b": 2}}}},
        "objective": {"name": "segmentation", "args": {"segmentation_loss": "dice", "ignore": 3}},
    }  # fmt: skip
    assert tree["gradient"] == {"taker": {"name": "plain", "args": {}}}, "the argument was changed"


def docstrings_of_names(node):
    """The strings that stand below an assignment or a field."""
    body = getattr(node, "body", None)
    for above, below in itertools.pairwise(body if isinstance(body, list) else []):
        is_named = isinstance(above, ast.Assign | ast.AnnAssign) and isinstance(below, ast.Expr)
        if is_named and isinstance(below.value, ast.Constant):
            yield str(below.value.value).strip()


VAGUE = {"What", "Who", "Whose", "Whom", "Whether", "Where", "When", "How", "Which", "That", "Why"}


@pytest.mark.parametrize("file", FILES, ids=IDS)
def test_a_docstring_begins_with_the_thing_or_the_verb(file):
    tree = ast.parse(file.read_text())
    kinds = ast.Module | ast.FunctionDef | ast.ClassDef
    for node in ast.walk(tree):
        texts = [ast.get_docstring(node)] if isinstance(node, kinds) else []
        for text in filter(None, [*texts, *docstrings_of_names(node)]):
            first = re.match(r"\w+", text)
            assert not first or first[0] not in VAGUE, f"{getattr(node, 'name', '')}: {text[:70]}"
    assert not re.search(r"\bis no (?!longer|more\b)", file.read_text())


def test_an_old_status_is_read_in_the_words_of_today():
    member = ROOT / "tests" / "old_runs" / "population" / "run" / "members" / "0"
    assert '"left behind at step 12"' in (member / "manifest.json").read_text()
    assert read_manifest(member)["status"] == "pruned at step 12"
