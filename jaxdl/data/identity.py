"""Comparison of the data at hand with the data that a run was trained on, as its manifest has it.

what differs                          resume, evaluate
class names, their number or order    refused: outputs would be compared with other classes
shape or type of an example           refused
number of examples of a split         told
"""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxdl.config import Config, held_of
from jaxdl.data.recorded import record
from jaxdl.data.split import Split
from jaxdl.errors import UserError


def compare(then: Mapping[str, Any], splits: Mapping[str, Split]) -> list[str]:
    """Lines on what has changed and does no harm.

    Args:
        then: `class_names`, `elements` as `record` gives them, and sizes of splits by role; what is
            missing is not compared.
        splits: at hand, by role.

    Raises:
        UserError: the classes or the examples are others.
    """
    lines = []
    for role, split in splits.items():
        names = tuple(then.get("class_names") or ())
        if names and split.class_names and split.class_names != names:
            raise UserError(
                f"the classes of split '{role}' are {_few(split.class_names)}, and the run was "
                f"trained on {_few(names)}{_why(names, split.class_names)}"
            )
        elements, here = then.get("elements") or {}, record(split)
        for key in elements.keys() & here.keys():
            if elements[key] != here[key]:
                raise UserError(
                    f"'{key}' of split '{role}' is {_text(here[key])}, and was "
                    f"{_text(elements[key])} when the run was trained"
                )
        size = then.get(role)
        if isinstance(size, int) and size != len(split):
            lines.append(f"split '{role}' has {len(split):,} examples, {size:,} before")
    return lines


def own_source(config: Config) -> list[str]:
    """Evaluation splits whose examples are as those of training: of one source, prepared alike."""
    held = held_of(config).items()
    return [name for name, one in held if one.source is None and one.preprocess is None]


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
