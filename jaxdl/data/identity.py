"""Comparison of the data at hand with the data that a run was trained on, as its manifest has it.

what differs                          resume, evaluate
order of class names or columns       told: labels are mapped to the run's order, see `class_order`
the same of masks                     refused
class names or their number           refused: outputs would be compared with other classes
shape or type of an example           refused
tokenizer                             refused
number of examples of a split         told
their labels, images or tokens        told, where the digests of `Split.digests` differ

The table at the end of docs/your-own-data.md has the answers by command.
"""

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from jaxdl.config import Config, held_of
from jaxdl.data.class_order import Names
from jaxdl.data.recorded import record
from jaxdl.data.split import Split
from jaxdl.errors import UserError

_WORDS = {"image": "images", "label": "labels", "all labels": "labels"}


def names_of(data: Mapping[str, Any]) -> Names:
    """The names of each target's classes or columns, as the section `data` of a manifest has them.

    A target without names is left out.
    """
    names = {key: target.get("names") for key, target in (data.get("targets") or {}).items()}
    names["label"] = names.get("label") or data.get("class_names")
    return {key: tuple(own) for key, own in names.items() if own}


def own_source(config: Config) -> list[str]:
    """Evaluation splits that are of the source of training."""
    return [name for name, held in held_of(config).items() if held.source is None]


def prepared(config: Config) -> list[str]:
    """Evaluation splits whose examples may be of other shapes than those of training."""
    return [name for name, held in held_of(config).items() if held.preprocess is not None]


def comparable(data: Mapping[str, Any], config: Config, trained: Config) -> dict[str, Any]:
    """The section `data` of a run's manifest, without what says nothing of the data of a config.

    Of another source these are all but the names and the number of the classes; of a split with
    another subset, its size and its digests. `asked` has the names of the splits in the run.

    Args:
        data: the section.
        config: whose data is compared.
        trained: that of the run.
    """
    if config.data.source != trained.data.source:
        return {k: data[k] for k in ("class_names", "targets", "num_classes") if k in data}
    then, now = _asked(trained), _asked(config)
    other = [role for role in then if then[role][1:] != now.get(role, then[role])[1:]]
    known = {key: value for key, value in data.items() if key not in other}
    digests = {k: d for k, d in (data.get("digests") or {}).items() if k not in other}
    return known | {"digests": digests, "asked": {role: split for role, (split, _) in then.items()}}


def _asked(config: Config) -> dict[str, tuple[str, Any]]:
    """The split of each role, and what draws a subset of it."""
    held = {name: (one.split, one.subset) for name, one in held_of(config).items()}
    asked = {"train": (config.data.train, config.data.subset)} | held
    return {name: (split, sub and (sub, config.seed)) for name, (split, sub) in asked.items()}


def compare(
    then: Mapping[str, Any], splits: Mapping[str, Split], other_shapes: Collection[str] = ()
) -> list[str]:
    """Lines on what has changed and does no harm.

    Args:
        then: the section `data` of a manifest, see `comparable`; what is missing is not compared.
        splits: at hand, by role.
        other_shapes: roles whose examples may be of other shapes than those of training.

    Raises:
        UserError: the classes or the examples are others.
    """
    asked = then.get("asked") or {}
    for role, split in splits.items():
        _check_classes(then, role, split)
        if role not in other_shapes:
            _check_elements(then, role, split)
        _check_tokenizer(then, role, split)
    lines = _mapped(splits)
    for role, split in splits.items():
        size = then.get(role)
        if asked.get(role, split.name) != split.name:
            lines.append(f"split '{role}' is '{split.name}', and was '{asked[role]}' in the run")
        elif isinstance(size, int) and size != len(split):
            lines.append(f"split '{role}' has {len(split):,} examples, {size:,} before")
        elif others := _other_contents((then.get("digests") or {}).get(role) or {}, split):
            use = "trained" if role == "train" else "measured"
            lines.append(f"{others} of split '{role}' are not those that the run was {use} on")
    return lines


def head_rows(there: Sequence[str], here: Sequence[str]) -> str | None:
    """A line on a head that was trained on other classes, or on the same in another order.

    Args:
        there: names of the classes that the head was trained on.
        here: names of those of the run that begins with it.
    """
    if not there or not here or tuple(there) == tuple(here):
        return None
    return (
        f"row i of the head stays row i: its classes are {_few(there)} there, {_few(here)} here"
        + _why(there, here)
    )


def _check_classes(then: Mapping[str, Any], role: str, split: Split) -> None:
    names = names_of(then)
    here = {"label": split.class_names}
    here |= {key: target.names for key, target in split.targets.items() if target.names}
    for key in names.keys() & here.keys():
        if here[key] and here[key] != names[key]:
            of = "" if key == "label" else f" of '{key}'"
            is_mask = key in split.targets and split.targets[key].kind == "mask"
            hint = ": masks are not mapped to another order of classes" if is_mask else ""
            raise UserError(
                f"the classes{of} of split '{role}' are {_few(here[key])}, and the run was "
                f"trained on {_few(names[key])}{_why(names[key], here[key])}{hint}"
            )
    before, now = then.get("num_classes"), split.num_classes
    if before and now and (now > before or (now < before and role == "train")):
        raise UserError(
            f"split '{role}' has labels of {now} classes, and the run was trained on {before}"
        )


def _check_elements(then: Mapping[str, Any], role: str, split: Split) -> None:
    elements, here = then.get("elements") or {}, record(split)
    for key in elements.keys() & here.keys():
        if elements[key] != here[key]:
            raise UserError(
                f"'{key}' of split '{role}' is {_text(here[key])}, and was "
                f"{_text(elements[key])} when the run was trained"
            )


def _check_tokenizer(then: Mapping[str, Any], role: str, split: Split) -> None:
    before, now = then.get("tokenizer"), split.tokenizer
    if not before or not now or before == json.loads(json.dumps(dataclasses.asdict(now.part))):
        return
    raise UserError(
        f"the tokens of split '{role}' are others than in the run: its tokenizer is "
        f"'{now.part.name}' with {now.vocabulary:,} tokens, and was '{before['name']}' with "
        f"{then.get('vocabulary') or 0:,}"
    )


def _mapped(splits: Mapping[str, Split]) -> list[str]:
    """A line for each order of names that labels were mapped from."""
    roles: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for role, split in splits.items():
        for target in split.source.stored_names.items():
            roles.setdefault(target, []).append(role)
    return [
        f"the classes of {', '.join(own)} stand in another order ({_few(stored)}): '{key}' is "
        "mapped to the order of the run"
        for (key, stored), own in roles.items()
    ]


def _other_contents(then: Mapping[str, str], split: Split) -> str:
    """The arrays of a split whose digests are others, in words; nothing where all are the same."""
    others = [key for key in then.keys() & split.digests.keys() if then[key] != split.digests[key]]
    return " and ".join(sorted({_WORDS.get(key, f"'{key}'") for key in others}))


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")


def _why(then: Sequence[str], now: Sequence[str]) -> str:
    if sorted(then) == sorted(now):
        return " (the same in another order)"
    gone = [f"'{name}' is missing" for name in then if name not in now]
    new = [f"'{name}' is new" for name in now if name not in then]
    return f" ({', '.join([*gone[:3], *new[:3]])})"


def _text(element: Mapping[str, Any]) -> str:
    return f"{element['dtype']}{element['shape']}"
