"""The table of features says the truth: its config lines are valid, and its tests exist."""

import re
import shlex

import pytest
from conftest import ROOT

from jaxdl import registry
from jaxdl.checks import check
from jaxdl.config import Config, EarlyStopping, part
from jaxdl.override import override

TEXT = (ROOT / "docs" / "features.md").read_text()
SHORT = {
    "M=": "model=", "O=": "optimizer=", "S=": "schedule=", "A=": "augment=", "L=": "objective=",
}  # fmt: skip
SPANS = dict.fromkeys(re.findall(r"`([^`]+)`", TEXT))
LINES = [s for s in SPANS if s[:2] in SHORT or s.startswith("--config.")]


def assignments(line):
    for word in shlex.split(line):
        path, _, value = word.removeprefix("--config.").partition("=")
        yield SHORT.get(f"{path}=", f"{path}=").removesuffix("="), value


@pytest.mark.parametrize("line", [x for x in LINES if x[-1] != "=" and "..." not in x])
def test_a_config_line_is_valid(line):
    base = Config(model=part("efficientnet"), early_stopping=EarlyStopping())
    changes = list(assignments(line))
    if changes[0][0].startswith("model.") and changes[0][0] != "model.phi":
        argument = changes[0][0].split(".")[1]
        models = [e for e in registry.entries("models") if argument in e.arguments()]
        base = Config(model=part(models[0].name))
    if changes[0][0].startswith("objective."):
        base = Config(objective=part("supervised"))
    check(override(base, changes))


def test_lines_were_found():
    assert len(LINES) > 80


def test_every_test_it_names_exists():
    for name in re.findall(r"tests/\w+\.py", TEXT):
        assert (ROOT / name).is_file(), name


@pytest.mark.parametrize(
    "kind",
    [
        "optimizers", "wrappers", "schedules", "gradient_transforms", "averages",
        "gradient_methods", "precisions", "dropouts", "regularizers", "losses",
        "segmentation_losses", "embedding_losses", "metrics", "augmentations", "predictors",
        "subsets", "samplers",
    ],
)  # fmt: skip
def test_everything_registered_is_in_it(kind):
    words = set(re.findall(r"\w+", TEXT))
    hidden = {"plain", "auto", "float32", "range_test", "inverse_sqrt"}
    for entry in registry.entries(kind):
        assert entry.name in words | hidden, f"{kind} '{entry.name}' is not in docs/features.md"
