"""Reads a pickle without running it: the opcodes that files of weights are made of, no others.

They are opcodes of PEP 307 (protocol 2) and PEP 3154 (protocol 4), named as in `pickletools`.

`pickle.Unpickler` with a strict `find_class` calls nothing foreign either, but a hostile file still
wins: a deeply nested tuple as a dict key crashes the interpreter while it is hashed, a tuple that
repeats itself is hashed for ever, and a memo index is an allocation. So a name in the file stays a
word here, a call is a look-up in the reader's table, and a dict key is a string or a small integer.
"""

import dataclasses
import pickletools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, BinaryIO

from jaxdl.errors import UserError

MAX_OPCODES = 300_000  # a tensor takes about 30

Names = Mapping[str, Callable[[tuple], Any] | None]
"""Names that a pickle may mention, such as 'collections.OrderedDict': a function of the tuple of
arguments where it may be called, None where it may not."""


@dataclasses.dataclass(frozen=True, slots=True)
class Name:
    """A global that the pickle mentions: the word, never the thing."""

    text: str


class Opaque:
    """Value beside the weights, such as the options of a training: never looked at."""


def load(
    stream: BinaryIO, names: Names, persistent_load: Callable[[Any], Any] | None = None
) -> Any:
    """Read one pickle and leave the stream just after it.

    Args:
        stream: seekable, at the beginning of a pickle.
        names: what the pickle may mention and call.
        persistent_load: makes an object of a persistent id; without it there may be none.

    Returns:
        Plain containers, numbers and strings, `Name`s, and what the two arguments made.

    Raises:
        UserError: the pickle is broken or too long, mentions a name that is not in `names`, or uses
            an opcode that no file of weights needs.
    """
    machine = _Machine(names, persistent_load)
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if count >= MAX_OPCODES:
                raise UserError(f"its pickle has more than {MAX_OPCODES} opcodes")
            machine.execute(opcode.name, argument)
        (value,) = machine.stack
    except (ValueError, LookupError, DeprecationWarning) as error:  # the last of an odd escape
        raise UserError(f"its pickle is broken: {error}") from error
    return value


def dictionary(items: Iterable[tuple[Any, Any]]) -> dict[str | int, Any]:
    """A dict whose keys are cheap to hash and do not collide; `UserError` for any other key."""
    made = {}
    for key, value in items:
        if not isinstance(key, str) and not (isinstance(key, int) and abs(key) < 2**63):
            raise UserError(f"its pickle has a dict key of an unusual type, {type(key).__name__}")
        made[key] = value
    return made


class _Machine:
    def __init__(self, names: Names, persistent_load: Callable[[Any], Any] | None):
        self.names = names
        self.persistent_load = persistent_load
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stack below each open mark
        self.memo: dict[int, Any] = {}

    def execute(self, opcode: str, argument: Any) -> None:
        stack = self.stack
        match opcode:
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                stack.append(argument)
            case "SHORT_BINBYTES" | "BINBYTES":
                stack.append(Opaque())
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BINSTRING" | "SHORT_BINSTRING":
                stack.append(argument)
            case "MARK":
                self.below.append(stack)
                self.stack = []
            case "TUPLE":
                self.stack = self.below.pop()
                self.stack.append(tuple(stack))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(self.pop(int(opcode[-1])))
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode == "NEWTRUE")
            case "EMPTY_TUPLE":
                stack.append(())
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "APPEND" | "SETITEM":
                self.fill(*self.pop(1 if opcode == "APPEND" else 2))
            case "APPENDS" | "SETITEMS":
                self.stack = self.below.pop()
                self.fill(*stack)
            case "BINPERSID" if self.persistent_load:
                stack.append(self.persistent_load(stack.pop()))
            case "GLOBAL":
                stack.append(self.mention(argument.replace(" ", ".", 1)))
            case "STACK_GLOBAL":
                match self.pop(2):
                    case (str(module), str(name)):
                        stack.append(self.mention(f"{module}.{name}"))
                    case _:
                        raise UserError("its pickle asks for something without a name: refused")
            case "REDUCE" | "NEWOBJ":
                stack.append(self.call(*self.pop(2)))
            case "BUILD":
                (state,) = self.pop(1)
                _ignore(state, stack[-1])
            case "PROTO" | "FRAME" | "STOP":
                pass
            case _:
                what = opcode if argument is None else f"{opcode} {argument}"
                raise UserError(
                    f"its pickle uses the opcode {what}, which no weights need: refused"
                )

    def pop(self, n: int) -> tuple[Any, ...]:
        if len(self.stack) < n:
            raise UserError("its pickle is broken: the stack is empty")
        items = tuple(self.stack[-n:])
        del self.stack[-n:]
        return items

    def fill(self, *items: Any) -> None:
        match self.stack[-1]:
            case list() as target:
                target.extend(items)
            case dict() as target:
                target.update(dictionary(zip(items[::2], items[1::2], strict=True)))
            case target:
                raise UserError(f"its pickle adds items to a {type(target).__name__}: refused")

    def mention(self, name: str) -> Name:
        if name not in self.names:
            raise UserError(
                f"asks for {name}: refused, only tensors, numbers and strings in plain containers "
                "are read (of a model, save its state_dict())"
            )
        return Name(name)

    def call(self, function: Any, arguments: Any) -> Any:
        name = function.text if isinstance(function, Name) else f"a {type(function).__name__}"
        known = self.names.get(name)
        if known is None or not isinstance(arguments, tuple):
            raise UserError(f"its pickle calls {name}: refused")
        return known(arguments)


def _ignore(state: Any, target: Any) -> None:
    # PyTorch hangs the versions of a state dict's modules on its OrderedDict.
    if isinstance(target, Opaque):
        return
    if not (isinstance(target, dict) and isinstance(state, dict) and set(state) <= {"_metadata"}):
        raise UserError(f"its pickle sets the state of a {type(target).__name__}: refused")
