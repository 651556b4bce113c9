"""Configs from files and back: Python files, JSON, and a few lines for a reader."""

import copy
import dataclasses
import importlib.util
import inspect
import json
import re
import traceback
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from jaxdl.aliases import current_config
from jaxdl.config import Config, Part, dataclass_of, element_of
from jaxdl.corrections import Correction, instead, setting, word
from jaxdl.errors import UserError, choices, nearest
from jaxdl.untrusted import check_plain, parse


def summary(config: Config) -> str:
    """The config in a few lines: every field that a reader would want, parts on one line each."""

    fields = [(f.name, getattr(config, f.name)) for f in dataclasses.fields(config)]
    shown = [(name, value) for name, value in fields if _is_set(value)]
    return "\n".join(f"  {name:<15} {in_words(value)}" for name, value in shown)


def in_words(value: Any) -> str:
    """A value on one line, a part as the call that it stands for: `adamw(learning_rate=0.001)`.

    Args:
        value: a part, a plain value, or a list, a dict or a dataclass of these; of a dataclass,
            only fields that are set are written.
    """
    if isinstance(value, Part):
        args = ", ".join(f"{k}={in_words(v)}" for k, v in value.args.items())
        return f"{value.name}({args})" if args else value.name
    if dataclasses.is_dataclass(value):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return "  ".join(f"{k}={in_words(v)}" for k, v in fields.items() if _is_set(v))
    if isinstance(value, list | tuple):
        return "[" + ", ".join(in_words(v) for v in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {in_words(v)}" for k, v in value.items()) + "}"
    return "none" if value is None else str(value)


def _is_set(value: Any) -> bool:
    return value not in (None, (), {}) and value is not False


# From files


def shipped() -> dict[str, Path]:
    """The configs that come with jaxdl, by name: beside the package in a clone, else inside it."""
    package = Path(__file__).parent
    folders = (package / "configs", package.parent / "configs")
    files = next((sorted(f.glob("*.py")) for f in folders if f.is_dir()), [])
    return {file.stem: file for file in files}


def load(spec: str) -> Config:
    """The config that `file.py[:argument]` or `file.json` describes, or the name of a shipped one.

    Args:
        spec: such as 'configs/cnn.py', 'configs/cnn.py:mnist', 'runs/a/config.json', 'cnn:mnist'.

    Raises:
        UserError: the file does not exist, or it does not describe a config.
    """
    path, _, argument = spec.partition(":")
    ours = shipped()
    file = ours.get(path, Path(path))
    try:
        is_there = file.is_file()
        siblings = sorted(str(p) for p in file.parent.glob("*.py")) if file.parent.is_dir() else []
    except OSError as error:  # a name that is too long
        raise UserError(f"no config file '{path}': {error.strerror}") from error
    if not is_there:
        # A shipped config is reached by its name outside a clone.
        names = [file.stem] if file.stem in ours else [*siblings, *ours]
        near, shows = nearest(path, names), ("--config", next(iter(ours)), "--print-config")
        correction = word(path, near[0]) if near else instead(*shows)
        raise UserError(f"no config file '{path}': {choices(path, names)}", correction)
    if file.suffix == ".json":
        return from_json(_text(file), where=path)
    if file.suffix != ".py":
        raise UserError(f"a config is a .py or a .json file, not '{path}'")
    return _load_python(file, argument)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not text: {error}") from error


def _load_python(file: Path, argument: str) -> Config:
    spec = importlib.util.spec_from_file_location(f"jaxdl_config_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise UserError(f"{file} defines no get_config()")
        takes_argument = bool(inspect.signature(module.get_config).parameters)
        if argument and not takes_argument:
            raise UserError(f"{file} takes no argument, so ':{argument}' means nothing to it")
        config = module.get_config(argument) if argument else module.get_config()
    except UserError:
        raise
    except SyntaxError as error:
        raise UserError(f"{file}, line {error.lineno}: {error.msg}") from error
    except Exception as error:
        lines = [
            f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == spec.origin
        ]
        line = f", line {lines[-1]}" if lines else ""
        raise UserError(f"{file}{line}: {type(error).__name__}: {error}") from error
    if not isinstance(config, Config):
        raise UserError(f"{file}: get_config() gave a {type(config).__name__}, not a Config")
    return from_dict(to_dict(config), where=str(file))


def add_imports(config: Config, modules: Iterable[str]) -> Config:
    """The config with more of the user's own modules to import; saved with it."""
    return dataclasses.replace(config, imports=(*config.imports, *modules))


# To and from JSON


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass as dicts, lists, numbers and strings: what its JSON says."""
    try:
        return msgspec.json.decode(msgspec.json.encode(config))
    except TypeError as error:
        raise UserError(f"the config holds something that JSON cannot say: {error}") from error


def to_json(config: Config) -> str:
    """The whole config as indented JSON, which `from_json` reads back to an equal one."""
    return json.dumps(to_dict(config), indent=2) + "\n"


def from_json(text: str, where: str = "config") -> Config:
    """Read what `to_json` wrote, in this version or an older one; unknown keys are errors."""
    try:
        tree = parse(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}, line {error.lineno}: not JSON: {error.msg}") from error
    except ValueError as error:
        raise UserError(f"{where}: not JSON: {error}") from error
    if not isinstance(tree, dict):
        raise UserError(f"{where}: expected an object, found {type(tree).__name__}")
    check_plain(tree, "config")  # before anything walks through it
    return from_dict(current_config(tree), where=where)


def from_dict(tree: Mapping[str, Any], where: str = "config") -> Config:
    """A checked Config from nested dicts."""
    check_plain(tree, "config")
    _refuse_unknown(Config, tree, "config")
    try:
        config = msgspec.convert(tree, Config)
    except msgspec.ValidationError as error:
        message, correction = _in_words(error, tree)
        raise UserError(f"{where}: {message}", correction) from error
    return _revive(config)


def _in_words(error: Exception, tree: Mapping[str, Any]) -> tuple[str, Correction | None]:
    """The message with its place, the key of a dict and the choices that msgspec leaves out."""
    message, _, path = str(error).partition(" - at ")
    message = message[:1].lower() + message[1:]
    if not path:
        return message, None
    keys = _keys(path.strip("`").removeprefix("$"), tree)
    default = default_text(keys)
    correction = setting(".".join(["config", *keys]), default) if default else None
    if name := re.fullmatch("invalid enum value '(.*)'", message):
        valid = _literals(keys)
        message = f"'{name[1]}' is not a choice: {choices(name[1], valid)}"
        correction = word(name[1], (nearest(name[1], valid) or valid)[0])
    where = "".join(f"[{key}]" if key.isdigit() else f".{key}" for key in keys)
    return f"config{where}: {message}", correction


def default_text(keys: Iterable[str]) -> str | None:
    """The default of a field as it is typed; None where it has none.

    Args:
        keys: to the field, such as 'data', 'batch_size'.
    """
    value: Any = Config()
    for key in keys:
        value = getattr(value, key, None)
    if value is None or value == ():
        return None
    return json.dumps(value) if isinstance(value, bool | dict) else in_words(value)


def _keys(path: str, tree: Any) -> list[str]:
    """Keys of a path such as `.data.streams[...].labels`: msgspec names no key of a dict."""
    keys: list[str] = []
    for key in re.findall(r"[^.\[\]]+|\.\.\.", path):
        if key == "...":
            key = next((k for k in _at(tree, keys) if _refused_alone(tree, keys, k)), key)
        keys.append(key)
    return keys


def _at(tree: Any, keys: Iterable[str]) -> Any:
    for key in keys:
        tree = tree[int(key) if isinstance(tree, list) else key]
    return tree


def _refused_alone(tree: Any, keys: list[str], key: str) -> bool:
    """True if the config is refused when its dict at `keys` has `key` alone."""
    alone = copy.deepcopy(tree)
    inside = _at(alone, keys)
    for other in set(inside) - {key}:
        del inside[other]
    try:
        msgspec.convert(alone, Config)
    except msgspec.ValidationError as error:
        return "[...]" in str(error)
    return False


def _literals(keys: Iterable[str]) -> list[str]:
    """The texts that a field may be, by the path of the field."""
    annotation: Any = Config
    for key in keys:
        inner = dataclass_of(annotation)
        fields = {f.name: f.type for f in dataclasses.fields(inner)} if inner else {}
        annotation = fields.get(key) or element_of(annotation)
    args = (annotation, *typing.get_args(annotation))
    return [x for a in args if typing.get_origin(a) is Literal for x in typing.get_args(a)]


def _refuse_unknown(cls: type, tree: Mapping[str, Any], path: str) -> None:
    known = {f.name: f.type for f in dataclasses.fields(cls)}
    for key, value in tree.items():
        if key not in known:
            raise UserError(f"unknown key {path}.{key}: {choices(key, known)}")
        inner, items = dataclass_of(known[key]), {key: value}
        if inner is None and isinstance(value, Mapping):
            inner = dataclass_of(element_of(known[key]))
            items = {f"{key}.{name}": item for name, item in value.items()}
        for name, item in items.items():
            if inner and isinstance(item, Mapping):
                _refuse_unknown(inner, item, f"{path}.{name}")


def _revive(value: Any) -> Any:
    """Turn {'name', 'args'} inside the arguments of parts back into parts."""
    if isinstance(value, Part):
        return Part(value.name, {k: _revive(v) for k, v in value.args.items()})
    if dataclasses.is_dataclass(value):
        return dataclasses.replace(
            value, **{f.name: _revive(getattr(value, f.name)) for f in dataclasses.fields(value)}
        )
    if isinstance(value, dict):
        inner = {k: _revive(v) for k, v in value.items()}
        return Part(inner["name"], inner["args"]) if set(inner) == {"name", "args"} else inner
    if isinstance(value, list | tuple):
        return type(value)(_revive(v) for v in value)
    return value
