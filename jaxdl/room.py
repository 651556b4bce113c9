"""Rooms as tables: `jaxdl.losses["focal"]` is the loss that is registered as 'focal'.

A room stays the package that it is, so that importing its files changes nothing: only the class of
the module is another one. Names are looked up at the moment of the question, in the registry, so
what a module of one's own registers is there at once.
"""

import collections
import importlib
import pkgutil
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

from jaxdl import registry
from jaxdl.errors import UserError, choices


class Room(types.ModuleType):
    """A package as a table of what is registered in it; files are attributes, imported when used.

    `room[name]` is a builder, `room[kind, name]` one of a name that several kinds share.
    `list(room)`, `name in room`, `dir(room)` and `help(room)` tell what there is.
    """

    def __getitem__(self, key: str | tuple[str, str]) -> Callable[..., Any]:
        kind, name = key if isinstance(key, tuple) else (None, key)
        kinds = _kinds(self)
        if kind is not None and kind not in kinds:
            raise UserError(f"{self.__name__} has no kind '{kind}': {choices(kind, kinds)}")
        matches = [e for e in _entries(self) if e.name == name and kind in (None, e.kind)]
        if not matches:
            names = {e.name for e in _entries(self) if kind in (None, e.kind)}
            raise UserError(f"{self.__name__} has no '{name}': {choices(name, names)}")
        if len(matches) > 1:
            forms = " or ".join(f"{self.__name__}['{e.kind}', '{name}']" for e in matches)
            raise UserError(f"'{name}' is of several kinds: write {forms}")
        return matches[0].build

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())

    def __bool__(self) -> bool:
        return True

    def __contains__(self, name: object) -> bool:
        return name in self.keys()

    def keys(self) -> list[str]:
        """Registered names, kind by kind, in natural order."""
        return list(dict.fromkeys(e.name for e in _entries(self)))

    def _ipython_key_completions_(self) -> list[str]:
        return self.keys()

    def __getattr__(self, name: str) -> Any:
        """A file of the room, imported now, or else what is registered under the name."""
        if not name.startswith("_"):
            if name in _files(self):
                return importlib.import_module(f"{self.__name__}.{name}")
            if name in _unique(self):
                return self[name]
        raise AttributeError(f"module '{self.__name__}' has no attribute '{name}'")

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *_files(self), *_unique(self), "keys"})

    @property
    def __doc__(self) -> str:  # type: ignore[override]  # a text elsewhere, read as one
        """The text of the package, then a line for each registered name."""
        lines = [vars(self)["__doc__"].rstrip()]
        for kind in _kinds(self):
            entries = registry.entries(kind)
            width = max((len(e.name) for e in entries), default=0)
            lines += ["", f"{kind}, by {self.__name__}[name]:"]
            lines += [f"    {e.name:<{width}}  {e.summary}".rstrip() for e in entries]
        return "\n".join(lines)


def open_room(name: str) -> None:
    """Make a table of the package `name`; the last line of each room's `__init__.py`."""
    sys.modules[name].__class__ = Room


def _kinds(room: Room) -> list[str]:
    return [kind for kind, package in registry.ROOMS.items() if package == room.__name__]


def _entries(room: Room) -> list[registry.Entry]:
    return [entry for kind in _kinds(room) for entry in registry.entries(kind)]


def _files(room: Room) -> set[str]:
    return {module.name for module in pkgutil.iter_modules(room.__path__)}


def _unique(room: Room) -> list[str]:
    """Names that are of one kind alone."""
    counts = collections.Counter(entry.name for entry in _entries(room))
    return [name for name, count in counts.items() if count == 1]
