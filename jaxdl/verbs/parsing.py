"""Pieces shared by verbs: reading arguments, and settings before JAX starts."""

import argparse
import contextlib
import dataclasses
import math
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from jaxdl.config import Config
from jaxdl.config_file import default_text
from jaxdl.corrections import Correction, either, help_of_verb, instead, run_like
from jaxdl.corrections import arguments as replaced
from jaxdl.errors import MissingData, UserError, choices
from jaxdl.override import meant


class Parser(argparse.ArgumentParser):
    """Argument parser whose errors are UserErrors."""

    def error(self, message: str) -> NoReturn:
        hint, correction = _as_override(message)
        if words := re.match(r"unrecognized arguments: ([^-].*)", message):
            correction = _joined(words[1].split())
        shown = instead(*self.prog.split()[1:], "--help")
        proposed = either(correction, shown) if correction else shown
        raise UserError(f"{message} (see --help){hint}", proposed)


def _as_override(message: str) -> tuple[str, Correction | None]:
    """The override that an unknown argument such as `--optimizer.lr=0.1` may stand for."""
    match = re.match(
        r"unrecognized arguments: --([\w.-]+?)(?:=(\S+)|( )(?!-)(\S+))?(?: |$)", message
    )
    if match is None:
        return "", None
    name, joined, apart = match[1], match[2], match[4]
    path, value = meant(name, joined or apart or "...") or ("", "")
    if not path:
        return "", None
    shown = f"'{value}'" if " " in value else value
    hint = f"; did you mean --config.{path}={shown}?"
    typed = [f"--{name}={joined}"] if joined else [f"--{name}", *([apart] if apart else [])]
    known = joined or apart
    return hint, replaced(typed, [f"--config.{path}={value}"]) if known else None


def _joined(words: Sequence[str]) -> Correction:
    """Join words to the override before them, whose value has spaces and was not quoted."""

    def correct(typed: Sequence[str]) -> list[str] | None:
        joined: list[str] = []
        for argument in typed:
            if argument in words and joined and joined[-1].startswith("--config."):
                joined[-1] += f" {argument}"
            else:
                joined.append(argument)
        return joined if len(joined) < len(typed) else None

    return correct


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
                default = default_text(path.split(".")) if prefix == "--config." else None
                correction = replaced([argument], [f"{argument}={default}"]) if default else None
                message = f"{prefix}{path} needs a value: {prefix}{path}=..."
                raise UserError(message, correction or help_of_verb)
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


def assembled(config: Config, **settings: Any) -> tuple[Config, Any]:
    """(config, plan) for an estimate of cost; images stand in for a data set that is not here.

    One line on standard error says so.
    """
    from jaxdl.assemble import assemble
    from jaxdl.datasets import stand_in

    try:
        return config, assemble(config, **settings)
    except MissingData as error:
        data = stand_in(config.data)
        if data is None:
            raise
        config = dataclasses.replace(config, data=data)
        size, classes = (data.source.args[key] for key in ("size", "num_classes"))
        print(
            f"{str(error).partition(' at ')[0]}: the estimate is for images of "
            f"{'x'.join(map(str, size))} and {classes} classes",
            file=sys.stderr,
        )
        return config, assemble(config, **settings)


def config_of(run: Path) -> str:
    """The file that says what a run was asked to do."""
    if not (run / "config.json").is_file():
        raise UserError(f"no run directory '{run}'", run_like(run))
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
