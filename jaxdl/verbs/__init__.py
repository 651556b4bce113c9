"""`jaxdl VERB`: a file a verb, named as the verb, found by walking this folder.

A verb is a function of its parsed options; the decorator owns its parser, and the docstring is what
`--help` says of it:

    @verb(option("run", type=Path, help="a run directory"))
    def report(options: Namespace) -> int:
        '''Write RUN/report.html anew.'''

    @verb(option("--steps", type=count, default=10), config="required")
    def find_lr(options: Namespace, config: Config) -> int:
        '''Raise the learning rate step by step.'''

Modules of this folder import no JAX: a verb imports what it runs where it runs it. `parsing.py`
reads what several verbs take.
"""

import contextlib
import importlib
import inspect
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jaxdl import config_file
from jaxdl.cluster.signals import stop_signals
from jaxdl.errors import UserError
from jaxdl.override import override
from jaxdl.room import open_room
from jaxdl.verbs.parsing import Parser, config_of, overrides_in

FILE = "FILE[:ARGUMENT]"


class Option(NamedTuple):
    """One argument of a verb, as `argparse.ArgumentParser.add_argument` takes it."""

    flags: tuple[str, ...]
    settings: dict[str, Any]


def option(*flags: str, **settings: Any) -> Option:
    """An option such as `option("--json", action="store_true")`, or a positional argument."""
    return Option(flags, settings)


IMPORTS = option(
    "--import", dest="imports", action="append", default=[], metavar="MODULE",
    help="a module or file of your own that registers parts",
)  # fmt: skip


class Verb(NamedTuple):
    """A verb, `jaxdl NAME`; called with the arguments after the name, it returns the status."""

    name: str
    act: Callable[..., int]
    options: tuple[Option, ...]
    config: Literal["required", "or run"] | None
    overrides: str
    trains: bool

    @property
    def summary(self) -> str:
        """First line of the verb's docstring."""
        return (inspect.getdoc(self.act) or "").partition("\n")[0]

    def parser(self) -> Parser:
        """The parser of the arguments after the name."""
        parser = Parser(
            prog=f"jaxdl {self.name}", description=inspect.getdoc(self.act), allow_abbrev=False
        )
        if self.config == "or run":
            parser.add_argument("run", nargs="?", type=Path, help="a run directory")
            parser.add_argument("--config", metavar=FILE, help="instead of a run")
        elif self.config == "required":
            parser.add_argument("--config", metavar=FILE, required=True)
        if self.config:
            parser.add_argument(*IMPORTS.flags, **IMPORTS.settings)
        for flags, settings in self.options:
            parser.add_argument(*flags, **settings)
        return parser

    def __call__(self, arguments: list[str]) -> int:
        """Parse the arguments and act; a verb that trains ends by signals as training does."""
        guard = stop_signals(program=True) if self.trains else contextlib.nullcontext()
        with guard:
            return self._act(arguments)

    def _act(self, arguments: list[str]) -> int:
        prefix = "--config." if self.config else self.overrides
        overrides, rest = overrides_in(arguments, prefix) if prefix else ([], arguments)
        options = self.parser().parse_args(rest)
        if not self.config:
            options.overrides = overrides
            return self.act(options)
        if self.config == "or run" and bool(options.run) == bool(options.config):
            raise UserError("name a run directory or a --config, one of the two")
        config = config_file.load(options.config or config_of(options.run))
        config = override(config, overrides)
        return self.act(options, config_file.add_imports(config, options.imports))


_verbs: dict[str, Verb] = {}


def verb(
    *options: Option,
    config: Literal["required", "or run"] | None = None,
    overrides: str = "",
    trains: bool = False,
) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Decorator: offer a function as the verb of its name, `find_lr` as `jaxdl find-lr`.

    Args:
        options: what its parser takes.
        config: "required" if it takes --config, --config.FIELD=VALUE and --import as training does;
            "or run" if a run directory may be named instead, in `options.run`. The function gets
            the config as its second argument.
        overrides: without a config, a prefix such as "--model." of settings that are handed over
            as `options.overrides`, pairs of a path and a text.
        trains: if a signal ends it as it ends training, with all saved.
    """

    def add(act: Callable[..., int]) -> Callable[..., int]:
        name = act.__name__.replace("_", "-")
        _verbs[name] = Verb(name, act, options, config, overrides, trains)
        return act

    return add


def every_verb() -> dict[str, Verb]:
    """Name to verb, of all files in this folder, by name."""
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        importlib.import_module(module.name)
    return dict(sorted(_verbs.items()))


open_room(__name__)
