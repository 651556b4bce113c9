"""Names that changed before 0.1, so that what an older version wrote is still read.

One table for everything that stands on disk: fields of a config, names and arguments of parts, keys
of `metrics.jsonl`, files of a run directory, paths in a checkpointed state. Files are read through
it and written in the new names; no path under `params` ever changed. To rename a thing is to add a
line here, and an old name stands nowhere else in the package.
"""

from typing import Any

FIELDS = {
    "hang_after": "watchdog_seconds",
    "dispatch": "steps_per_execution",
    "rates": "lr_multipliers",
    "gradient.taker": "gradient.method",
    "evaluation.gap": "evaluation.generalization_gap",
    "population.halve": "population.successive_halving",
}
"""Path of a config's field to its path of today; both in the same dataclass."""

PARTS = {"gradient.method": {"plain": "full_batch"}}
"""Field of today to its parts' names, old to new."""

ARGUMENTS = {
    ("objective", "segmentation"): {
        "map_loss": "segmentation_loss",
        "map_weight": "segmentation_weight",
    },
}
"""Field and name of a part to its arguments, old to new."""

GATES = ("squeeze_excite", "eca", "channel", "spatial", "cbam")
"""Values of the argument `attention` of a convolutional network when it was what is now `gate`."""

ATTENTIONS = {"plain": "full", "flash": "flash"}
"""Values of the former argument `attend` of a network, to the `attention` of today."""

TRANSFORMERS = ("transformer_encoder", "transformer_decoder", "transformer")
"""Models whose arguments `positions` and `max_length` are now one `position`."""

MAX_LENGTH = 512
"""Places with a learned position in a Transformer whose config did not say."""

METRICS = {
    "fitted/": "train_eval/",
    "gap/": "generalization_gap/",
    "train/map_loss": "train/segmentation_loss",
}
"""Beginning of a metric's name to what it is today."""

STATUSES = {"left behind": "pruned"}
"""Beginning of a member's status in its manifest to what it is today."""

INTEGRITY = "seal.json"
"""A checkpoint's `integrity.json`."""

STATE = {
    "average/variables/centers": "variables/extra/centers",
    "variables/centers": "variables/extra/centers",
}
"""Path of a leaf in a checkpointed state to what it is today; of two for one, the last is taken."""


def current_status(status: str) -> str:
    """A manifest's status in the words of today."""
    for old, new in STATUSES.items():
        if status.startswith(old):
            return new + status.removeprefix(old)
    return status


def current_config(tree: dict[str, Any]) -> dict[str, Any]:
    """A config's JSON in the names of today."""
    tree = _with_gates(tree)
    if tree.get("freeze") and "freeze_norms" in tree:  # a whole config
        tree.setdefault("freeze_statistics", False)  # those of frozen norms once moved
    for old, new in FIELDS.items():
        path, _, name = old.rpartition(".")
        holder = _at(tree, path)
        if isinstance(holder, dict) and name in holder:
            holder[new.rpartition(".")[2]] = holder.pop(name)
    for path, names in PARTS.items():
        part = _at(tree, path)
        if isinstance(part, dict) and str(part.get("name")) in names:
            part["name"] = names[part["name"]]
    for (path, name), arguments in ARGUMENTS.items():
        part = _at(tree, path)
        if (
            isinstance(part, dict)
            and part.get("name") == name
            and isinstance(part.get("args"), dict)
        ):
            part["args"] = {arguments.get(key, key): value for key, value in part["args"].items()}
    source = _at(tree, "data.source")
    if isinstance(source, dict) and source.get("name") == "translation":
        arguments = dict(source.get("args") or {})
        if isinstance(arguments.get("vocabulary"), int):
            words = {"name": "words", "args": {"size": arguments.pop("vocabulary")}}
            source["args"] = {**arguments, "tokenizer": words}
    return _with_attention(tree)


def _at(tree: dict[str, Any], path: str) -> Any:
    """The value at a path such as 'gradient.method', None where there is none."""
    value: Any = tree
    for key in filter(None, path.split(".")):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _with_attention(tree: dict[str, Any]) -> dict[str, Any]:
    model = tree.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("args"), dict):
        return tree
    args, is_text = dict(model["args"]), model.get("name") in TRANSFORMERS
    takes_attention = is_text or str(model.get("name")).startswith("vit_")
    if takes_attention and str(args.get("attend")) in ATTENTIONS:
        args["attention"] = ATTENTIONS[args.pop("attend")]
    if is_text:
        if model["name"] == "transformer_encoder":
            args.pop("vocabulary", None)  # it is the source's
        length = args.pop("max_length", MAX_LENGTH)
        if "positions" in args:
            name = args.pop("positions")
            inside = {"length": length} if name == "learned" else {}
            args["position"] = {"name": name, "args": inside}
    return {**tree, "model": {**model, "args": args}}


def _with_gates(tree: Any) -> Any:
    """A copy in which the gates of convolutional networks are called so."""
    if isinstance(tree, list):
        return [_with_gates(value) for value in tree]
    if not isinstance(tree, dict):
        return tree
    tree = {key: _with_gates(value) for key, value in tree.items()}
    old = tree.get("attention")
    if (old.get("name") if isinstance(old, dict) else old) in GATES:
        tree["gate"] = tree.pop("attention")
    return tree


def current_metric(name: str) -> str:
    """A key of `metrics.jsonl` as it is called today."""
    old = next((prefix for prefix in METRICS if name.startswith(prefix)), None)
    return name if old is None else METRICS[old] + name.removeprefix(old)
