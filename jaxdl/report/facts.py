"""Contents of a report in words and tables: title, headline, results, cost, remarks."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdl import judging
from jaxdl.config import Config, Evaluation, held_of
from jaxdl.report import text
from jaxdl.report.settings import section
from jaxdl.rundir.read import series

Lines = Sequence[Mapping[str, Any]]


MOST_ROWS = 60  # metrics in the table of results; metrics.jsonl has all


class Best(NamedTuple):
    """The evaluation by which the run is judged."""

    key: str
    step: int
    epoch: float | None
    value: float

    @property
    def when(self) -> str:
        """'epoch 12, step 120'."""
        epoch = "" if self.epoch is None else f"epoch {text.number(self.epoch)}, "
        return f"{epoch}step {text.number(self.step)}"


def keys(lines: Lines) -> list[str]:
    """Every `split/metric` in the order of first appearance."""
    return list(dict.fromkeys(k for line in lines for k in line if "/" in k))


def splits(lines: Lines) -> list[str]:
    """train, validation, test, then others as they appear."""
    found = list(dict.fromkeys(key.partition("/")[0] for key in keys(lines)))
    usual = [s for s in ("train", "validation", "test") if s in found]
    return usual + [s for s in found if s not in usual]


def metrics(lines: Lines, config: Config | None) -> list[str]:
    """Names of what was measured, the monitored one first; the step's own gauges are left out."""
    monitored = judging.metric_of(_evaluation(config).monitor)
    found = [key.partition("/") for key in keys(lines)]
    asked = _evaluation(config).metrics
    wanted = {"loss", *(asked if isinstance(asked, Mapping) else (p.name for p in asked))}
    wanted |= {metric for split, _, metric in found if split != "train"}
    named = list(dict.fromkeys(metric for _, _, metric in found if metric in wanted))
    return sorted(named, key=lambda metric: metric != monitored)


def best(lines: Lines, config: Config | None) -> Best | None:
    """The first best finite value of the monitored metric, None where it was never measured."""
    key, mode = _evaluation(config).monitor, _evaluation(config).mode
    steps, values = series(lines, key)
    at = judging.best(np.where(np.isfinite(values), values, np.nan).tolist(), mode)
    if at is None:
        return None
    step = int(steps[at])
    return Best(key, step, epoch_at(lines, step), float(values[at]))


def epoch_at(lines: Lines, step: int) -> float | None:
    """The epoch that a step belongs to, to one decimal; None where no line tells.

    An epoch is a fixed number of steps, so any later line that has both gives the measure.
    """
    steps, epochs = series(lines, "epoch")
    known = np.isfinite(epochs) & (steps > 0)
    if not known.any():
        return None
    nearest = int(np.argmin(np.where(known, abs(steps - step), np.inf)))
    # epoch(step) = step * epoch' / step'
    return round(step * float(epochs[nearest]) / int(steps[nearest]), 1)


def _evaluation(config: Config | None) -> Evaluation:
    return config.evaluation if config else Evaluation()


def title(config: Config | None, manifest: Mapping[str, Any], name: str) -> str:
    """'model on data', or the directory's name where neither is known."""
    source = section(manifest, "data").get("source") or (config and config.data.source.name)
    if config:
        return f"{config.model.name} on {source}"
    return f"{name} on {source}" if source else name


def headline(
    lines: Lines, config: Config | None, manifest: Mapping[str, Any]
) -> dict[str, str] | None:
    """The one figure of the run: the monitored metric on the test split, else at its best."""
    found = best(lines, config)
    monitor = _evaluation(config).monitor
    metric, keys = judging.metric_of(monitor), judging.score(monitor).keys
    tested = series(lines, f"test/{metric}")[1]
    if len(tested):
        split, value, note = "test", float(tested[-1]), []
    elif found:
        split = "" if len(keys) > 1 else found.key.partition("/")[0]
        value, note = found.value, [f"best, at {found.when}"]
    else:
        return None
    examples = section(manifest, "data").get(split)
    if isinstance(examples, int) and examples > 0:
        # Only for a split that chose nothing: at the best of many, the interval would flatter.
        if metric == "accuracy" and split == "test" and 0 <= value <= 1:
            low, high = accuracy_interval(value, examples)
            note.append(f"95% interval {100 * low:.2f} to {100 * high:.2f}%")
        note.append(f"{text.number(examples)} examples")
    name = f"{split} {text.words(metric)}" if split else text.words(monitor)
    return {"name": name, "value": text.measure(metric, value), "note": "; ".join(note)}


def accuracy_interval(accuracy: float, examples: int) -> tuple[float, float]:
    """Wilson's 95% interval for a fraction, as if the examples were drawn independently.

    Args:
        accuracy: in [0, 1].
        examples: how many it was measured on, at least 1.

    Returns:
        (low, high), both in [0, 1].
    """
    from scipy.stats import binomtest

    interval = binomtest(round(accuracy * examples), examples).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def results(lines: Lines, config: Config | None) -> dict[str, list] | None:
    """The final table: a row for each metric, a column for each split and one for the best."""
    found = best(lines, config)
    columns, cells = [], []
    names = metrics(lines, config)
    for split in splits(lines):
        keys = judging.score(found.key).keys if found else ()
        judged = any(key.startswith(f"{split}/") for key in keys)
        columns.append(f"{split}, last" if judged else split)
        cells.append([_last(series(lines, f"{split}/{name}")) for name in names])
        if judged:
            columns.append(f"{split}, best")
            cells.append([_at(series(lines, f"{split}/{name}"), found.step) for name in names])
    if len(names) > MOST_ROWS:
        names, cells = names[:MOST_ROWS], [column[:MOST_ROWS] for column in cells]
    rows = [
        (text.words(name), ["" if v is None else text.measure(name, v) for v in row])
        for name, row in zip(names, zip(*cells, strict=True), strict=True)
    ]
    return {"columns": columns, "rows": rows} if rows else None


def _last(curve: tuple[np.ndarray, np.ndarray]) -> float | None:
    return float(curve[1][-1]) if len(curve[1]) else None


def _at(curve: tuple[np.ndarray, np.ndarray], step: int) -> float | None:
    values = curve[1][curve[0] == step]
    return float(values[0]) if len(values) else None


def summary(
    lines: Lines, config: Config | None, manifest: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """(term, figure) of what the run cost; what is unknown is left out."""
    found, data = best(lines, config), section(manifest, "data")
    speed = series(lines, "train/images_per_second")[1]
    speed = speed[np.isfinite(speed)]
    names = ["train", *(held_of(config) if config else ("validation", "test"))]
    sizes = [f"{text.number(data[s])} {s}" for s in names if data.get(s)]
    streams = section(data, "streams")
    sizes += [f"{text.number(section(streams, s).get('examples', 0))} {s}" for s in streams]
    compiled = manifest.get("compile_seconds")
    time = text.seconds(manifest["seconds"]) if manifest.get("seconds") is not None else None
    if time and compiled is not None:
        time += f" (of it {text.seconds(compiled)} compiling)"
    terms = {
        "Best": found and _best(found),
        "Steps": text.number(max(line["step"] for line in lines)) if lines else None,
        "Parameters": _known(manifest.get("parameters")),
        "Time": time,
        "Images a second": f"{text.number(round(float(np.median(speed))))} (median)"
        if len(speed)
        else None,
        "Examples": ", ".join(sizes),
        "Subset": data.get("subset"),
        "Classes": _known(data.get("num_classes")),
        "Vocabulary": _known(data.get("vocabulary")),
        "Targets": _targets(data),
    }
    return [(term, figure) for term, figure in terms.items() if figure]


def class_names(manifest: Mapping[str, Any]) -> Any:
    """Names of the classes that the run learned, as far as its manifest knows them."""
    data = section(manifest, "data")
    target = section(section(data, "targets"), str(data.get("target")))
    return target.get("names") or data.get("class_names")


def _targets(data: Mapping[str, Any]) -> str | None:
    """Every target of the examples, the learned one marked; None where there is only the usual."""
    targets, learned = section(data, "targets"), data.get("target")
    if not targets or list(targets) == ["label"] and targets["label"]["kind"] == "classes":
        return None
    said = [
        f"{name} ({t['size']} {t['kind']}{', learned' if name == learned else ''})"
        for name, t in targets.items()
    ]
    return ", ".join(said)


def _best(found: Best) -> str:
    if len(judging.score(found.key).keys) == 1:
        return found.when
    return f"{text.words(found.key)} {text.measure(found.key, found.value)}, {found.when}"


def _known(value: Any) -> str | None:
    return None if value is None else text.number(value)


def remarks(lines: Lines, manifest: Mapping[str, Any]) -> list[str]:
    """Remarks that a reader needs before trusting the figures."""
    said = []
    if manifest.get("status") == "running":
        said.append("The run had not finished when this page was written.")
    if not lines:
        said.append("The run logged no metrics.")
    for key in keys(lines):
        steps, values = series(lines, key)
        bad = steps[~np.isfinite(values)]
        if len(bad):
            said.append(
                f"Not finite: {text.number(len(bad))} of the {text.number(len(steps))} values of "
                f"{key}, first at step {text.number(int(bad[0]))}. A curve has a gap there."
            )
    return said + _skipped(lines) + _gaps(lines)


def _skipped(lines: Lines) -> list[str]:
    steps, fractions = series(lines, "train/skipped")
    windows = steps[fractions > 0]
    if not len(windows):
        return []
    return [
        f"Some steps changed nothing, since their gradient was not finite: in "
        f"{text.number(len(windows))} of {text.number(len(steps))} log windows, first in the one "
        f"that ends at step {text.number(int(windows[0]))}."
    ]


def _gaps(lines: Lines) -> list[str]:
    said = []
    for key in keys(lines):
        split, _, metric = key.partition("/")
        if split != "generalization_gap":
            continue
        last = [line for line in lines if line.get(key) is not None][-1:]
        for line in last:
            fitted, held = line[f"train_eval/{metric}"], line[f"validation/{metric}"]
            said.append(
                f"Measured alike, {metric} is {text.number(fitted)} on as many training examples "
                f"and {text.number(held)} on the validation split, at step "
                f"{text.number(line['step'])}: a gap of {text.number(line[key])}."
            )
    return said
