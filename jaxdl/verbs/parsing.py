"""Pieces shared by verbs: reading arguments, and settings before JAX starts."""

import argparse
import contextlib
import dataclasses
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from jaxdl.config import Config
from jaxdl.errors import SYNONYMS, UserError, choices


class Parser(argparse.ArgumentParser):
    """Argument parser whose errors are UserErrors."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see --help){_as_override(message)}")


def _as_override(message: str) -> str:
    """The override that an unknown argument such as `--optimizer.lr=0.1` may stand for."""
    match = re.match(r"unrecognized arguments: --([\w.-]+?)(?:=(\S+))?(?: |$)", message)
    if match is None:
        return ""
    name, value = match[1].replace("-", "_"), match[2] or "..."
    fields = {f.name for f in dataclasses.fields(Config)}
    first, _, rest = name.partition(".")
    if first in fields:
        keys = [first, *(SYNONYMS.get(key, key) for key in rest.split(".") if key)]
        return f"; did you mean --config.{'.'.join(keys)}={value}?"
    ours = SYNONYMS.get(name, name)
    value = f"'{value} {name}'" if name in ("epochs", "steps") and value != "..." else value
    places = {"learning_rate": "optimizer", "weight_decay": "optimizer", "batch_size": "data"}
    if ours in fields or ours in places:
        path = f"{places[ours]}.{ours}" if ours in places else ours
        return f"; did you mean --config.{path}={value}?"
    return ""


def overrides_in(
    arguments: list[str], prefix: str = "--config."
) -> tuple[list[tuple[str, str]], list[str]]:
    """Take `--config.path=value` and `--config.path value` out of the arguments."""
    found, rest, queue = [], [], list(arguments)
    while queue:
        argument = queue.pop(0)
        if not argument.startswith(prefix):
            rest.append(argument)
            continue
        path, equals, value = argument.removeprefix(prefix).partition("=")
        if not equals:
            if not queue or queue[0].startswith("--"):
                raise UserError(f"{prefix}{path} needs a value: {prefix}{path}=...")
            value = queue.pop(0)
        found.append((path, value))
    return found, rest


def prepare_jax() -> None:
    """Keep what XLA compiles, from run to run."""
    import jax

    # Reading the cache saves more than it costs even for programs that compile in a moment.
    if not jax.config.jax_compilation_cache_dir:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(Path(home) / "jaxdl" / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def config_of(run: Path) -> str:
    """The file that says what a run was asked to do."""
    if not (run / "config.json").is_file():
        raise UserError(f"no run directory '{run}'")
    return str(run / "config.json")


def image_shape(text: str) -> tuple[int, ...]:
    """'HxWxC' as numbers."""
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*x[1-9]\d*", text):
        raise argparse.ArgumentTypeError(f"'{text}' is not HxWxC, such as 224x224x3")
    return tuple(map(int, text.split("x")))


def count(text: str) -> int:
    """A number from 1."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"expected a number from 1, got '{text}'")
    return int(text)


def positive(text: str) -> float:
    """A number above 0."""
    with contextlib.suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"expected a number above 0, got '{text}'")


def figure(text: str) -> Path:
    """A file that can be drawn to."""
    from jaxdl.research.schedule_plot import SUFFIXES

    suffix = Path(text).suffix.removeprefix(".").lower()
    if suffix not in SUFFIXES:
        raise argparse.ArgumentTypeError(f"cannot draw '{text}': {choices(suffix, SUFFIXES)}")
    return Path(text)


@contextlib.contextmanager
def writing(file: Path) -> Iterator[None]:
    """Turn a failure to write the file or its folder into a UserError."""
    try:
        yield
    except OSError as error:
        if error.filename is None or Path(error.filename) not in (file, *file.parents):
            raise
        raise UserError(f"cannot write '{file}': {error.strerror}") from error
