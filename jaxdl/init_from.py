"""Weights to begin a run with: those of files, of hubs and addresses, and of other runs.

`init_from` is one source for everything, or names a source for the path of a module: 'backbone',
which means its parameters and its statistics, 'head', 'backbone/conv0'. Of two paths the longer one
holds. A folder on this machine wins over a hub; RUN alone gives the weights that the run is judged
by, RUN@latest, RUN@raw and RUN@300 give others: see `rundir.run_weights`. FILE#model_ema gives the
weights that a checkpoint of PyTorch has under 'model_ema'.

Nothing is compiled here: sources are read, and what they hold is laid beside the shapes of the run.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdl import tree
from jaxdl.assemble import Plan
from jaxdl.config import Config, Part
from jaxdl.data.identity import head_rows, names_of
from jaxdl.errors import UserError, choices
from jaxdl.hub.adapt import adapted, of_other_classes
from jaxdl.hub.fetch import split_key
from jaxdl.hub.load import published
from jaxdl.rundir.read import read_manifest
from jaxdl.rundir.weights import kept_steps, run_weights
from jaxdl.train.state import TrainState, init_state, with_weights
from jaxdl.types import PyTree

Leaves = dict[str, Any]
"""Name of a leaf, 'params/backbone/...' or 'variables/batch_stats/backbone/...', to an array or to
anything with a shape and a type"""
STATISTICS = "variables/batch_stats/"
CONSTANT = "variables/constant/"
"""Before the name of a network that is kept beside the one that is trained, and never moves."""


class Beginning(NamedTuple):
    """Values that a run begins with in place of fresh ones."""

    values: dict[str, np.ndarray]
    """name of a leaf to its value"""
    lines: list[str]
    """one a source: what it gave, and what not"""


def filled(values: Leaves, params: PyTree, variables: PyTree) -> tuple[PyTree, PyTree]:
    """(params, variables) with values by name in the place of their own."""
    whole = {"params": params, "variables": variables}
    whole = jax.tree.map(lambda x, name: values.get(name, x), whole, tree.names(whole))
    return whole["params"], whole["variables"]


def read_beginning(config: Config, plan: Plan, workdir: Path | None = None) -> Beginning | None:
    """The weights that `init_from` and the parts of a config name; None where none are.

    None too where a run has gone on from them.

    Args:
        config: of the run.
        plan: of the run.
        workdir: of the run, which may hold checkpoints.
    """
    sources = config.init_from or {}
    sources = sources if isinstance(sources, dict) else {"": sources}
    of_parts = {f"constant/{name}": network.source for name, network in plan.networks.items()}
    sources = of_parts | sources
    if not sources or (workdir and kept_steps(workdir / "checkpoints")):
        return None
    names = plan.target.names if plan.target else ()
    models = {"": config.model} | {name: network.model for name, network in plan.networks.items()}
    state = plan.abstract_state(config.seed)
    return beginning(models, sources, state.params, state.all_variables, names)


def first_state(config: Config, plan: Plan, begin: Beginning | None = None) -> TrainState:
    """The state before the first step: fresh, or with the weights that `init_from` names.

    Args:
        config: of the run.
        plan: of the run.
        begin: these weights, where they have been read; else they are read, and what they gave is
            said on standard error.
    """
    read = read_beginning(config, plan) if begin is None else None
    begin = begin or read
    if read is not None:
        print(*read.lines, sep="\n", file=sys.stderr)
    state = init_state(*plan.first(config.seed))
    if begin is None:
        return state
    weights = filled(begin.values, state.params, state.all_variables)
    return with_weights(state, plan.tx, *weights)


def beginning(
    models: Mapping[str, Part],
    sources: Mapping[str, str],
    params: PyTree,
    variables: PyTree,
    class_names: Sequence[str] = (),
) -> Beginning:
    """Read sources, each of which is for what lies below a path.

    Args:
        models: of the run that begins, at '', and of networks that never move, by name.
        sources: path to source; all that is trained is below the empty path.
        params: its parameters; shapes and types are enough.
        variables: likewise, its other collections.
        class_names: of the run that begins.

    Raises:
        UserError: a source cannot be read, a path leads nowhere, or most of what lies below it
            has no value in the source.
    """
    places = tree.flatten({"params": params, "variables": variables})
    values: dict[str, np.ndarray] = {}
    lines = []
    for path, portion in _portions(sources, places).items():
        root, inner = _root(path)
        model = models.get(root.removeprefix(CONSTANT).rstrip("/"), models[""])
        whole = _of_network(places, root)
        theirs, about = _read(model, sources[path], whole)
        theirs = {name: x for name, x in theirs.items() if _is_below(name, inner)}
        fitted, notes = _laid(theirs, {name.removeprefix(root): x for name, x in portion.items()})
        if any(_path(name)[0] == "head" for name in fitted):
            notes += _head_rows(sources[path], class_names)
        line = f"{about}: {len(fitted):,} of {len(portion):,} arrays" + "".join(notes)
        names = [n.removeprefix(root) for n in portion]
        _check_fit(model, path, fitted, names, line)
        if root and any("logits" not in _path(n) for n in names if n not in fitted):
            raise UserError(f"config.init_from: '{path}' never moves and has fresh values: {line}")
        values |= {root + name: array for name, array in fitted.items()}
        lines.append(f"{path} from {line}" if path else line)
    return Beginning(values, lines)


def _root(path: str) -> tuple[str, str]:
    """Prefix of the network that a path is in, and the path within it."""
    if not path.startswith("constant/"):
        return "", path
    _, name, *inner = path.split("/")
    return f"{CONSTANT}{name}/", "/".join(inner)


def _of_network(places: Leaves, root: str) -> Leaves:
    """The leaves of the network behind a root, by their names in it."""
    own = {n: x for n, x in places.items() if n.startswith(root or ("params/", "variables/"))}
    return {n.removeprefix(root): x for n, x in own.items() if root or not n.startswith(CONSTANT)}


def _portions(paths: Iterable[str], places: Leaves) -> dict[str, Leaves]:
    """Leaves that each path speaks of: those below it that are not below a longer one."""
    left, portions = dict(places), {}
    for path in sorted(paths, key=len, reverse=True):
        root, inner = _root(path)
        below = [n for n in _of_network(left, root) if _is_below(n, inner)]
        portions[path] = {root + name: left.pop(root + name) for name in below}
        if not below:
            names = [_path(n) for n in places if not n.startswith(CONSTANT)]
            known = {"/".join(n[:i]) for n in names for i in range(1, min(3, len(n)))}
            known |= {"/".join(n.split("/")[1:3]) for n in places if n.startswith(CONSTANT)}
            raise UserError(f"config.init_from: no module '{path}': {choices(path, known)}")
    return portions


def _path(name: str) -> list[str]:
    """The path of a leaf by modules: 'backbone', 'conv0', 'kernel'."""
    collection, *path = name.split("/")
    return path if collection == "params" else path[1:]


def _is_below(name: str, path: str) -> bool:
    return not path or _path(name)[: path.count("/") + 1] == path.split("/")


def _check_fit(
    model: Part, path: str, fitted: Iterable[str], places: Iterable[str], line: str
) -> None:
    """Refuse a source that leaves most of a network's parameters fresh: it is of another family."""
    counted = {n for n in places if n.startswith("params/") and _path(n)[0] != "head"}
    counted = counted or set(places)
    if 2 * len(counted.intersection(fitted)) < len(counted):
        what = f"'{path}' of model '{model.name}'" if path else f"model '{model.name}'"
        raise UserError(f"config.init_from: these weights do not fit {what}: {line}")


def _read(model: Part, source: str, places: Leaves) -> tuple[Leaves, str]:
    """Values that a source holds, by the names of a network's leaves, and what the source is."""
    run = _run_of(source)
    if run is None:
        try:
            return _published(model, source, places)
        except UserError as error:
            place, _ = split_key(source)
            if "://" in place or Path(place).exists():
                raise
            raise UserError(f"'{place}' is not a file or directory here, and {error}") from None
    weights = run_weights(*run)
    kind = ", averaged" if weights.averaged else ""
    flat = tree.flatten({"params": weights.params, "variables": weights.variables})
    return flat, f"{source} ({weights.config.model.name}, step {weights.step}{kind})"


def _head_rows(source: str, class_names: Sequence[str]) -> list[str]:
    """A note on the rows of a run's head, where the run that begins has other classes."""
    run = _run_of(source) if class_names else None
    if run is None:
        return []
    data = read_manifest(run[0]).get("data") or {}
    line = head_rows(names_of(data).get(data.get("target", "label"), ()), class_names)
    return [f"; {line}"] if line else []


def _run_of(source: str) -> tuple[Path, *tuple[str, ...]] | None:
    """The folder that a source names and which of its weights; None where it is not a folder."""
    words = source.split("@")
    for i in range(len(words), 0, -1):
        folder = Path("@".join(words[:i]))
        if words[0] and folder.is_dir():
            return folder, *words[i:]
    return None


def _published(model: Part, source: str, places: Leaves) -> tuple[Leaves, str]:
    """`_read` of a file; it is of a backbone with its head."""
    prefixes = ("params/backbone/", "params/head/", STATISTICS)
    own = {name: x for name, x in places.items() if name.startswith(prefixes)}
    short = {name.removeprefix("params/").removeprefix(STATISTICS): name for name in own}
    shapes = {brief: own[name] for brief, name in short.items()}
    arrays, key, others = published(source, model.name, shapes, args=model.args)
    about = source
    if others:
        also = ", ".join(f"#{other}" for other in others)
        about = f"{split_key(source)[0]}#{key} (also there: {also})"
    return {short[brief]: array for brief, array in arrays.items()}, about


def _laid(theirs: Leaves, places: Leaves) -> tuple[dict[str, np.ndarray], list[str]]:
    """Values that fit their places; notes on those adapted, missing and left over."""
    fitted, changed, fresh = {}, [], []
    for name in (n for n in places if n in theirs):
        array, shape = theirs[name], tuple(places[name].shape)
        if array.shape != shape:
            note = f"{name} {list(array.shape)} there, {list(shape)} here"
            other_classes = of_other_classes(name, shape, array.shape)
            array = None if other_classes else adapted(name.partition("/")[2], array, shape)
            (fresh if array is None else changed).append(note)
        if array is not None:
            fitted[name] = np.asarray(array, places[name].dtype)
    notes = {
        "adapted": changed,
        "of another shape, fresh": fresh,
        "not there, fresh": _collapsed(places.keys() - theirs.keys(), places),
        "left over there": _collapsed(theirs.keys() - places.keys(), theirs),
    }
    return fitted, [f"; {what}: {', '.join(names)}" for what, names in notes.items() if names]


def _collapsed(names: Iterable[str], whole: Iterable[str]) -> list[str]:
    """Names, those of all that lies below one node as 'node/*'."""
    names, nodes = set(names), {}
    for name in whole:
        parts = name.split("/")
        for i in range(1, len(parts)):
            nodes.setdefault("/".join(parts[:i]), []).append(name)
    full = {node for node, below in nodes.items() if names.issuperset(below)}
    shown = set()
    for name in names:
        parts = name.split("/")
        parents = ("/".join(parts[:i]) for i in range(1, len(parts)))
        top = next((node for node in parents if node in full), None)
        shown.add(f"{top}/*" if top and len(nodes[top]) > 1 else name)
    return sorted(shown)
