"""Fields of a config that follow from the training data where they are at their defaults.

The loss, the metrics and the monitor follow from the kind of target, the weights of the loss
`balanced` from the number of examples of each class. What follows is written into the config of
the run, so that everything that reads it later sees what was used.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdl import registry
from jaxdl.check_targets import target_name
from jaxdl.config import Config, Evaluation, Part, part
from jaxdl.data.split import Split
from jaxdl.errors import UserError
from jaxdl.types import VOID


class OfKind(NamedTuple):
    """The loss and the metrics of a kind of target; the first metric is monitored."""

    loss: str
    metrics: tuple[str, ...]
    mode: str


OF_KIND = {
    "multilabel": OfKind(
        "binary_cross_entropy",
        ("mean_multilabel_auroc", "mean_multilabel_f1", "multilabel_auroc", "multilabel_f1"),
        "max",
    ),
    "soft": OfKind("cross_entropy", ("soft_cross_entropy",), "min"),
    "numbers": OfKind(
        "squared_error", ("mean_absolute_error", "root_mean_squared_error", "r2"), "min"
    ),
}
"""Kind of target to what a run on it uses by default; classes have the defaults of `Config`."""


def with_data_defaults(config: Config, train: Split) -> Config:
    """The config of a run on a training split, complete.

    A default is replaced only where it cannot be meant: metrics of classes, where the target is of
    another kind. What a user has set to something else stays.

    Raises:
        UserError: the weights of a loss are to be found, and a class has no example.
    """
    target = train.targets.get(target_name(config))
    if target is None or not train.readable:  # the config of a run that is loaded is complete
        return config
    objective = config.objective
    if target.kind in OF_KIND and objective.name == "supervised":
        config = _with_evaluation(config, OF_KIND[target.kind])
        if "loss" not in objective.args:
            arguments = {**objective.args, "loss": part(OF_KIND[target.kind].loss)}
            objective = Part(objective.name, arguments)
    objective = _weighted(objective, "objectives", target_name(config), train)
    return (
        config
        if objective == config.objective
        else dataclasses.replace(config, objective=objective)
    )


def _with_evaluation(config: Config, of_kind: OfKind) -> Config:
    evaluation, default = config.evaluation, Evaluation()
    if evaluation.metrics != default.metrics:
        return config
    fields: dict[str, Any] = {"metrics": tuple(map(part, of_kind.metrics))}
    if (evaluation.monitor, evaluation.mode) == (default.monitor, default.mode):
        split = default.monitor.partition("/")[0]
        fields |= {"monitor": f"{split}/{of_kind.metrics[0]}", "mode": of_kind.mode}
    return dataclasses.replace(config, evaluation=dataclasses.replace(evaluation, **fields))


def _weighted(given: Part, kind: str, target: str, train: Split) -> Part:
    """A part in which each loss `balanced` has weights."""
    entry, arguments = registry.find(kind, given.name), dict(given.args)
    if kind == "losses" and given.name == "balanced" and not arguments.get("weights"):
        arguments["weights"] = list(balanced_weights(train, target))
    for name, value in given.args.items():
        if registry.inner_kind(entry, name) == "losses":
            many = isinstance(value, list | tuple)
            losses = [Part(v) if isinstance(v, str) else v for v in (value if many else [value])]
            losses = [_weighted(v, "losses", target, train) for v in losses]
            arguments[name] = losses if many else losses[0]
    return Part(given.name, arguments)


def balanced_weights(train: Split, target: str = "label") -> Sequence[float]:
    """n / (k n_j) for each class j of k, n_j of the n training examples being of it.

    Of soft labels n_j is the sum of the class's probabilities, of masks the number of its pixels.

    Raises:
        UserError: the target is of another kind, or a class has no example.
    """
    kind, size, names = train.targets[target]
    if kind == "classes" and target == "label":
        counts = np.bincount(train.labels("loss 'balanced'"), minlength=size or 0)
    elif kind == "soft" and train.arrays is not None:
        counts = train.arrays[target].sum(axis=0, dtype=np.float64)
    elif kind in ("classes", "mask") and train.arrays is not None:
        values = train.arrays[target].ravel()
        counts = np.bincount(values[values != VOID] if kind == "mask" else values, minlength=size)
    else:
        raise UserError(
            f"loss 'balanced' is of classes unless it has weights, and target '{target}' holds "
            f"{train.targets[target]}"
        )
    counts = counts.astype(np.float64)
    if not counts.all():
        missing = int(np.argmin(counts))
        name = names[missing] if names else missing
        raise UserError(
            f"class {name} has no training label, so loss 'balanced' finds no weight for it: "
            "give it weights, one for each class"
        )
    return (counts.sum() / (len(counts) * counts)).tolist()
