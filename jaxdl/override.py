"""Overrides from the shell: `--config.optimizer.learning_rate=3e-4` on a loaded config."""

import dataclasses
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Union

from jaxdl.config import Config, Part, dataclass_of
from jaxdl.config_file import from_dict, to_dict
from jaxdl.corrections import Correction, arguments, either, help_of_verb, offering, word
from jaxdl.errors import SYNONYMS, UserError, choices, nearest
from jaxdl.untrusted import parse


def override(config: Config, assignments: Iterable[tuple[str, str]]) -> Config:
    """Apply ('optimizer.learning_rate', '3e-4') and the like, in order.

    A path goes through fields, through arguments of parts by their own names, and through
    positions of tuples. A bare name given to a part replaces it and forgets its arguments;
    a list of names (or one) given to a tuple of parts replaces the tuple. A name may bring its
    arguments: 'random_crop(padding=2), random_flip'. In a dict a path goes on by its keys, and adds
    those that are not there.
    """
    tree = to_dict(config)
    for path, text in assignments:
        with offering(either(_instead_of(path, text), help_of_verb)):
            _assign(tree, path, text)
    return from_dict(tree, where="command line")


_PLACES = {"learning_rate": "optimizer", "weight_decay": "optimizer", "batch_size": "data"}
"""Place of the fields and arguments that are often typed without it."""


def meant(name: str, value: str) -> tuple[str, str] | None:
    """The field that `--name=value` or `--config.name=value` may stand for, and its value.

    Args:
        name: a path, such as 'lr', 'epochs' or 'optimizer.lr'.
        value: as it was typed.
    """
    fields = {f.name for f in dataclasses.fields(Config)}
    first, _, rest = name.replace("-", "_").partition(".")
    if first in fields:
        return ".".join([first, *(SYNONYMS.get(key, key) for key in rest.split(".") if key)]), value
    ours = SYNONYMS.get(first, first)
    if rest or not (ours in fields or ours in _PLACES):
        return None
    value = f"{value} {first}" if first in ("epochs", "steps") else value
    return (f"{_PLACES[ours]}.{ours}" if ours in _PLACES else ours), value


def _instead_of(path: str, text: str) -> Correction:
    """Set the field that is meant by a path that leads nowhere."""
    path_meant, value = meant(path, text) or (path, text)
    right = [f"--config.{path_meant}={value}"] if path_meant != path else []
    typed = ([f"--config.{path}={text}"], [f"--config.{path}", text])
    return either(*(arguments(wrong, right) for wrong in typed if right))


def _assign(tree: dict[str, Any], path: str, text: str) -> None:
    keys, node, annotation = keys_of(tree, path), tree, Config
    for depth, key in enumerate(keys[:-1]):
        node, annotation = _descend(node, annotation, key, ".".join(["config", *keys[:depth]]))
    where, last = ".".join(["config", *keys[:-1]]), keys[-1]
    if isinstance(node, list):
        node[_position(node, last, where)] = _literal(text, Any)
    elif annotation is Part:
        if last in ("name", "args"):
            node[last] = text if last == "name" else _literal(text, dict)
        else:
            node["args"][last] = _literal(text, Any)
    elif annotation is Any or _dict_in(annotation):
        node[last] = _literal(text, _element(annotation))
    else:
        node[last] = _literal(text, _field(annotation, last, where))


def keys_of(tree: Any, path: str) -> list[str]:
    """The keys that a path is made of. Those that a dict has may hold dots, as expressions do."""
    if isinstance(tree, dict):
        inside = tree["args"] if _is_part(tree) else tree
        whole = [k for k in inside if path.startswith(f"{k}.")]
        key = max(whole, key=len, default=path.partition(".")[0])
        tree = inside.get(key)
    else:
        key, tree = path.partition(".")[0], None if not isinstance(tree, list) else tree
        if isinstance(tree, list):
            tree = tree[int(key)] if key.isdigit() and int(key) < len(tree) else None
    rest = path[len(key) + 1 :]
    return [key, *keys_of(tree, rest)] if rest else [key]


def _descend(node: Any, annotation: Any, key: str, where: str) -> tuple[Any, Any]:
    if isinstance(node, list):
        child = node[_position(node, key, where)]
    elif annotation is Part:
        child = _named(node["args"], key) if key in node["args"] else node.get(key)
        if child is None:
            raise _unset(f"{where}.{key}")
    elif annotation is Any:
        child = _named(node, key)
    else:
        field = _element(annotation) or _field(annotation, key, where)
        inner, child = dataclass_of(field), node.get(key)
        if child is None and inner is Part:
            raise _unset(f"{where}.{key}")
        if child is None and (inner or _dict_in(field)):
            child = node[key] = to_dict(inner()) if inner else {}
        if inner:
            return child, inner
        if isinstance(child, dict) and _dict_in(field):
            return child, field
    if _is_part(child):
        return child, Part
    if not isinstance(child, dict | list):
        raise UserError(f"{where}.{key} is {child!r}: nothing can be set inside it")
    return child, Any


def _field(cls: type, key: str, where: str) -> Any:
    """The annotation of a dataclass's field."""
    known = {f.name: f.type for f in dataclasses.fields(cls)}
    if key not in known:
        near = [] if meant(f"{where}.{key}".removeprefix("config."), "") else nearest(key, known)
        correction = word(key, near[0]) if near else None
        raise UserError(f"unknown key {where}.{key}: {choices(key, known)}", correction)
    return known[key]


def _dict_in(annotation: Any) -> Any:
    """The `dict[str, X]` inside `dict[str, X] | Y | None`, or None."""
    return next((a for a in _members(annotation) if typing.get_origin(a) is dict), None)


def _members(annotation: Any) -> tuple[Any, ...]:
    """X and Y of `X | Y`; of what is not a union, itself."""
    is_union = typing.get_origin(annotation) in (types.UnionType, Union)
    return typing.get_args(annotation) if is_union else (annotation,)


def _element(annotation: Any) -> Any:
    """X of the `dict[str, X]` inside an annotation; Any of Any, None of a dataclass."""
    inside = _dict_in(annotation)
    return typing.get_args(inside)[1] if inside else (Any if annotation is Any else None)


def _named(values: dict[str, Any], key: str) -> Any:
    """Value at a key; a part given by its bare name, such as loss=cross_entropy, is expanded."""
    if isinstance(values.get(key), str):
        values[key] = {"name": values[key], "args": {}}
    return values.get(key)


def _unset(path: str) -> UserError:
    return UserError(f"{path} is not set: name it first, --{path}=NAME")


def _position(node: list, key: str, where: str) -> int:
    if not key.isdigit() or int(key) >= len(node):
        raise UserError(f"{where} has positions 0 to {len(node) - 1}, not '{key}'")
    return int(key)


def _is_part(value: Any) -> bool:
    return isinstance(value, dict) and set(value) == {"name", "args"}


def _literal(text: str, annotation: Any) -> Any:
    """Read a value from the shell: JSON where it is JSON, else a part, or the text itself."""
    try:
        value = parse({"None": "null", "True": "true", "False": "false"}.get(text, text))
    except ValueError:
        value = _number(text) if _NUMBER.fullmatch(text) else text
    value = _whole(value)
    if isinstance(value, str) and _is_tuple_of_parts(annotation):
        return _parts(value)
    if isinstance(value, str) and dataclass_of(annotation) is Part:
        return _parts(value)[0] if "(" in value else {"name": value, "args": {}}
    if isinstance(value, str) and annotation is Any and _CALL.fullmatch(value):
        return _parts(value)[0]
    if isinstance(value, dict) and dataclass_of(_element(annotation)) is Part:
        texts = {k: v for k, v in value.items() if isinstance(v, str)}
        return {**value, **{k: _literal(v, _element(annotation)) for k, v in texts.items()}}
    wants_text = str in _members(annotation)
    return text if wants_text and not isinstance(value, str | dict | None) else value


def _number(text: str) -> int | float:
    """A number that JSON does not know: .001, +0.1, +5 or 1."""
    return _whole(float(text))


def _whole(value: Any) -> Any:
    """A float without a fraction, such as 1e2, as an integer; any other value as it is."""
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) < 2**53
    return int(value) if is_whole else value


def _is_tuple_of_parts(annotation: Any) -> bool:
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (types.UnionType, typing.Union):
        return any(map(_is_tuple_of_parts, inner))
    return origin is tuple and dataclass_of(inner[0]) is Part


_NUMBER = re.compile(
    r"[+-]?((0|[1-9][0-9]{0,17})(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]+)?", re.IGNORECASE
)
_CALL = re.compile(r"\w+\((\w+\s*=.*)?\)")
_TOKEN = re.compile(r"""\s*("(?:[^"\\]|\\.)*"|'[^']*'|[()\[\],=]|[^()\[\],="']+)""")


def _parts(text: str) -> list[Any]:
    """'random_crop(padding=2), swa(start=50%)' as a list of parts; what is not a number is text."""
    bare = text.strip()
    tokens = [t.strip() for t in _TOKEN.findall(bare if bare.startswith("[") else f"[{bare}]")]
    try:
        found = _value(tokens)
    except (IndexError, ValueError):
        tokens, found = ["?"], []
    if tokens or not isinstance(found, list):
        message = f"'{text}' is not a list of parts: write 'name, name(key=value)'"
        raise UserError(message, word(text, _balanced(text)))
    return [{"name": x, "args": {}} if isinstance(x, str) else x for x in found]


def _balanced(text: str) -> str:
    """A text with the brackets that it does not close, and without those that it does not open."""
    pairs, open_, kept = {"(": ")", "[": "]"}, [], []
    for character in text:
        if character in pairs:
            open_.append(pairs[character])
        elif character in pairs.values():
            if open_[-1:] != [character]:
                continue
            open_.pop()
        kept.append(character)
    return "".join([*kept, *reversed(open_)])


def _value(tokens: list[str]) -> Any:
    """Take one value from the front: [a, b], name(key=value), a number, or text."""
    token = tokens.pop(0)
    if token == "[":
        return list(_items(tokens, "]", lambda: _value(tokens)))
    if token in tuple("()],="):
        raise ValueError
    if tokens and tokens[0] == "(":
        tokens.pop(0)
        return {"name": token, "args": dict(_items(tokens, ")", lambda: _argument(tokens)))}
    if token[0] in "\"'":
        return token[1:-1]
    try:
        return _whole(parse(token))
    except ValueError:
        return _number(token) if _NUMBER.fullmatch(token) else token


def _argument(tokens: list[str]) -> tuple[str, Any]:
    key, equals = tokens.pop(0), tokens.pop(0)
    if not key.isidentifier() or equals != "=":
        raise ValueError
    return key, _value(tokens)


def _items(tokens: list[str], end: str, take: Callable[[], Any]) -> Iterator[Any]:
    """Items that `take` parses, separated by commas, up to `end`."""
    while tokens[0] != end:
        yield take()
        if tokens[0] == ",":
            tokens.pop(0)
        elif tokens[0] != end:
            raise ValueError
    tokens.pop(0)
