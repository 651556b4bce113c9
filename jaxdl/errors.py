"""Errors of a user, in one line: the culprit, its place, and the valid choices."""

import contextlib
import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence

SYNONYMS = {
    "lr": "learning_rate", "wd": "weight_decay", "bs": "batch_size", "batch": "batch_size",
    "epochs": "duration", "steps": "duration", "dataset": "source", "beta1": "b1", "beta2": "b2",
    "opt": "optimizer", "scheduler": "schedule", "arch": "model", "pretrained": "init_from",
    "val": "validation", "valid": "validation",
}  # fmt: skip
"""Name that users of other frameworks type to the name here."""

LONGEST = 2000
"""Characters of a message."""


class UserError(Exception):
    """A mistake that its maker can mend. `main` prints it without a traceback and exits with 2.

    What a message quotes may hold escapes that a terminal obeys, or fill it: such characters are
    spelt out, and the middle of a long message is left out.

    Attributes:
        correction: of the arguments that were typed, for the line to paste; see `corrections.py`.
    """

    def __init__(
        self,
        message: str,
        correction: Callable[[Sequence[str]], list[str] | None] | None = None,
    ):
        if len(message) > LONGEST:
            message = f"{message[: LONGEST - 300]} ... {message[-200:]}"
        super().__init__("".join(c if c.isprintable() or c == "\n" else _spelt(c) for c in message))
        self.correction = correction


class SplitError(UserError):
    """A split that a source does not have, or whose slice does not fit; its field is not known."""


class MissingData(UserError):
    """A data set that is not on this machine."""


@contextlib.contextmanager
def at(path: str, kind: type[UserError] = UserError) -> Iterator[None]:
    """Begin the message of what is refused inside with the path of the field that it is about.

    Args:
        path: such as 'config.data.validation'.
        kind: of the errors that are about this field.
    """
    try:
        yield
    except kind as error:
        raise UserError(f"{path}: {error}") from error


def _spelt(character: str) -> str:
    return character.encode("unicode_escape").decode()


def choices(name: str, valid: Iterable[str], limit: int = 12) -> str:
    """The tail of a message about an unknown `name`: the nearest valid names, or all if few."""
    valid = sorted(valid)
    if near := nearest(name, valid):
        return f"did you mean {' or '.join(repr(n) for n in near)}?"
    shown = ", ".join(valid[:limit]) + (", ..." if len(valid) > limit else "")
    return f"choices: {shown}" if valid else "there are none"


def nearest(name: str, valid: Iterable[str]) -> list[str]:
    """The valid names that an unknown one may stand for, at most three, the nearest first."""
    valid = sorted(valid)
    spelled = SYNONYMS.get(name.lower(), name.lower())
    same = [v for v in valid if v.lower() == spelled]
    return same[:1] or difflib.get_close_matches(name, valid, n=3, cutoff=0.5)
