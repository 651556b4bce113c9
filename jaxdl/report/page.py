"""A run directory as one HTML page that needs nothing else: no network, no scripts, no fonts."""

import functools
import importlib.resources
import shlex
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from jaxdl import config_file
from jaxdl.config import Config
from jaxdl.errors import UserError
from jaxdl.report import facts, population, samples, settings, text
from jaxdl.report.plots import COLORS, Curve, curves_svg, is_wide
from jaxdl.report.together import markup
from jaxdl.rundir import read
from jaxdl.rundir.arrays import read_npy
from jaxdl.rundir.matrices import matrix_files

T = TypeVar("T")

VOID = 255  # of `types.py`, which would import JAX

LOSSES = ("loss", "cross_entropy")  # the first that a split logs stands in the panel of losses
GAUGES = ("learning_rate", "gradient_norm")
MOST_PANELS = 6


def write_report(workdir: Path) -> Path:
    """Write `report.html` into a run directory, or a population's, and return its path.

    Only the run directory is read. A run that was interrupted, or that saved no predictions, has a
    shorter page. So has one whose predictions or matrices are damaged: the page and a warning name
    the files. The page of a population leaves out members with damaged files.

    Raises:
        UserError: this is not a run directory, or its config, manifest or metrics are damaged.
    """
    workdir = Path(workdir)
    read.check_run(workdir)
    content = describe(workdir)
    for line in content["damage"]:
        warnings.warn(line, stacklevel=2)
    page = render(content)
    path = workdir / "report.html"
    path.write_text(page, encoding="utf-8", errors="replace")
    return path


def render(content: dict[str, Any], template: str = "report.html.jinja") -> str:
    """A page of a template of this folder, in the style of all pages.

    Args:
        content: what the template shows, by the names that it uses.
        template: its file.
    """
    import jinja2

    folder = importlib.resources.files("jaxdl.report")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style = markup(folder.joinpath("page.css").read_text("utf-8").rstrip("\n"))
    source = folder.joinpath(template).read_text("utf-8")
    return environment.from_string(source).render(content, style=style)


def describe(workdir: Path) -> dict[str, Any]:
    """Everything the template shows, by the names it uses."""
    # Without its config, a population's members mean nothing.
    needed = (workdir / "members").is_dir() or (workdir / "config.json").is_file()
    config = read.read_config(workdir) if needed else None
    manifest = read.read_manifest(workdir)
    if config and config.population:
        content = population.describe(workdir, config, manifest)
    else:
        content = _single(workdir, config, manifest)
    return (
        {"matrices": [], "comparison": None, "damage": []}
        | content
        | {
            "name": workdir.resolve().name,
            "status": manifest.get("status"),
            "started": text.moment(manifest["started"]) if manifest.get("started") else None,
            "config": config_file.to_json(config) if config else None,
            "environment": settings.environment(manifest),
            "command": manifest.get("command"),
            "repeat": f"python -m jaxdl.main --config {shlex.quote(str(workdir / 'config.json'))}",
        }
    )


def _single(workdir: Path, config: Config | None, manifest: dict[str, Any]) -> dict[str, Any]:
    damage: list[str] = []
    lines = read.read_metrics(workdir)
    if number := read.incomplete_line(workdir):
        file = workdir / "metrics.jsonl"
        damage.append(f"{file}, line {number}: the last line is incomplete and is left out")
    predictions = _intact(lambda: read.read_predictions(workdir), damage)
    files = matrix_files(workdir).items()
    matrices = {key: _intact(functools.partial(read_npy, file), damage) for key, file in files}
    absent = [] if config else [f"{workdir / 'config.json'} is missing: no settings are shown."]
    return {
        "title": facts.title(config, manifest, workdir.resolve().name),
        "headline": facts.headline(lines, config, manifest),
        "remarks": facts.remarks(lines, manifest) + absent + [f"{line}." for line in damage],
        "damage": damage,
        "heading": "Result",
        "results": facts.results(lines, config),
        "summary": facts.summary(lines, config, manifest),
        "members": None,
        "combinations": None,
        "panels": panels(lines, config),
        "gauges": gauges(lines),
        "predictions": _predicted(predictions, manifest) if predictions else None,
        "matrices": _matrices(matrices, manifest),
        "changed": settings.settings(config) if config else [],
    }


def panels(lines: facts.Lines, config: Config | None) -> list[dict[str, Any]]:
    """One figure for the losses, then one for each other metric, the monitored one first.

    The numbers of one metric share a figure: a curve for each, on the first split evaluated.
    """
    best, splits = facts.best(lines, config), facts.splits(lines)
    evaluated = [split for split in splits if split != "train"][:1]
    groups = {"loss": [_loss_key(lines, split) for split in splits]}
    for metric in facts.metrics(lines, config):
        name, _, entry = metric.partition("/")
        if name not in LOSSES:
            keys = [f"{split}/{metric}" for split in (evaluated if entry else splits)]
            groups.setdefault(name, []).extend(keys)
    found = [_panel(lines, title, keys[:COLORS], best) for title, keys in groups.items()]
    return [panel for panel in found if panel][:MOST_PANELS]


def gauges(lines: facts.Lines) -> list[dict[str, Any]]:
    """Small figures of the step's own workings."""
    found = [_panel(lines, name, [f"train/{name}"], None, height=1.9) for name in GAUGES]
    return [panel for panel in found if panel]


def _loss_key(lines: facts.Lines, split: str) -> str:
    logged = set(facts.keys(lines))
    return next((f"{split}/{n}" for n in LOSSES if f"{split}/{n}" in logged), f"{split}/loss")


def _panel(
    lines: facts.Lines, title: str, keys: list[str], best: facts.Best | None, height: float = 2.7
) -> dict[str, Any] | None:
    curves = []
    for color, key in enumerate(keys):
        steps, values = read.series(lines, key)
        split = key.partition("/")[0]
        # One value is not a curve, except the first evaluation of a run that has just begun.
        if np.isfinite(values).any() and (len(values) > 1 or split != "test"):
            curves.append(Curve(text.words(key), steps, values, color % COLORS, split != "train"))
    if not curves:
        return None
    ring = (best.step, best.value) if best and best.key in keys else None
    fraction = text.is_fraction(title)
    log = not fraction and is_wide(curves)
    svg = curves_svg(curves, title, height=height, log=log, percent=fraction, ring=ring)
    return {
        "title": text.words(title).capitalize(),
        "log": log,
        "curves": curves,
        "legend": len(curves) > 1 or curves[0].label != f"train {text.words(title)}",
        "alt": _spoken(title, curves),
        "best": f"best {text.measure(title, best.value)} at {best.when}" if ring else None,
        "ended": False,
        "svg": markup(svg),
    }


def _spoken(title: str, curves: list[Curve]) -> str:
    said = []
    for curve in curves:
        values = curve.values[np.isfinite(curve.values)]
        first, last = text.measure(title, float(values[0])), text.measure(title, float(values[-1]))
        said.append(f"{curve.label} goes from {first} to {last}")
    return (
        f"{text.words(title)} over {text.number(int(curves[0].steps[-1]))} steps: {'; '.join(said)}"
    )


def _intact(read_file: Callable[[], T], damage: list[str]) -> T | None:
    """The content of an optional file; None if it is damaged, with a line added to `damage`."""
    try:
        return read_file()
    except UserError as error:
        damage.append(f"{error}; the report is written without it")
        return None


def _matrices(
    matrices: dict[str, np.ndarray | None], manifest: dict[str, Any]
) -> list[dict[str, Any]]:
    class_names = facts.class_names(manifest)
    shown = []
    for key, matrix in matrices.items():
        if matrix is None:
            continue
        names = samples.class_names(class_names, max(matrix.shape, default=0))
        shown.append({"title": text.words(key)} | samples.matrix(matrix, names))
    return shown


def _predicted(found: read.Predictions | read.Maps, manifest: dict[str, Any]) -> dict[str, Any]:
    if isinstance(found, read.Maps):
        numbers = [found.label[found.label != VOID], found.prediction.ravel()]
        count = 1 + int(np.concatenate(numbers).max(initial=-1))
        names = samples.class_names(facts.class_names(manifest), count)
        return {"split": found.split, "maps": samples.segmented(found, names)}
    labels = np.concatenate([found.label, found.prediction]).astype(int)
    classes = len(found.confusion) if found.confusion is not None else 0
    count = max(classes, 1 + int(labels.max(initial=-1)))
    names = samples.class_names(facts.class_names(manifest), count)
    return {
        "split": found.split,
        "maps": None,
        "examples": text.number(len(found.label)),
        "wrong": text.number(int(np.sum(found.label != found.prediction))),
        "confusion": samples.confusion(found.confusion, names[:classes]) if classes else None,
        "shown": samples.examples(found, names),
    }
