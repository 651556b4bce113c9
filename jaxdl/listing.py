"""Arguments of registered builders in words, as `jaxdl --list KIND NAME` prints them."""

import functools
import inspect
import re
import typing
from typing import Annotated, Any

import msgspec

from jaxdl.config import Network, Of, Steps
from jaxdl.registry import Entry, unwrapped


def describe(entry: Entry) -> list[str]:
    """Describe the arguments of an entry: name, type, range, default, and below it its meaning."""
    lines, meanings = [], _meanings(inspect.getdoc(unwrapped(entry.build)) or "")
    for name, parameter in entry.arguments().items():
        default = "" if parameter.default is parameter.empty else f" = {_shown(parameter.default)}"
        meaning = f"\n    {meanings[name]}" if name in meanings else ""
        lines.append(f"{name}: {_type_name(parameter.annotation)}{default}{meaning}")
    return lines


def _meanings(docstring: str) -> dict[str, str]:
    """Arguments and their meanings, from the section `Args:` of a docstring in the margin."""
    section = re.search(r"^Args:\n(.*?)(?=\n\n|\Z)", docstring, re.DOTALL | re.MULTILINE)
    if not section:
        return {}
    arguments = re.findall(r"^ {4}(\w+): (.*?)(?=^ {4}\w|\Z)", section[1], re.DOTALL | re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in arguments}


def _shown(value: Any) -> str:
    if isinstance(value, functools.partial):
        args = ", ".join(f"{k}={_shown(v)}" for k, v in value.keywords.items())
        return f"{value.func.__name__}({args})"
    return value.__name__ if callable(value) else msgspec.json.encode(value).decode()


def _type_name(annotation: Any) -> str:
    """A type in a reader's words: 'float >= 0 < 1', 'duration', 'one of the losses'."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        for mark in inner[1:]:
            if isinstance(mark, Of):
                return f"one of the {mark.kind}"
            if isinstance(mark, Steps):
                return "duration"
            if isinstance(mark, Network):
                return "run directory or one of the models"
        marks = [m for m in inner[1:] if isinstance(m, msgspec.Meta)]
        signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
        limits = [
            f"{sign} {getattr(m, k)}"
            for m in marks
            for k, sign in signs.items()
            # what is as large as that is not a limit that anyone would meet
            if getattr(m, k) is not None and getattr(m, k) < 2**31
        ]
        return " ".join([_type_name(inner[0]), *limits])
    if origin is typing.Literal:
        return " | ".join(map(repr, inner))
    if origin is tuple:
        return f"list of {_type_name(inner[0])}"
    if inner and origin is not None and type(None) in inner:
        return " | ".join(["null" if a is type(None) else _type_name(a) for a in inner])
    return getattr(annotation, "__name__", str(annotation))
