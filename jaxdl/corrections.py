"""Corrected command lines: what an error proposes to type instead.

A `UserError` may carry a `Correction`, a function of the arguments that were typed. Where it is
raised, a wrong word and the right one are known, but not the command; `main`, which knows that,
asks the correction and prints the line. Nothing is proposed where several arguments could be meant.
"""

import contextlib
import difflib
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from jaxdl.errors import UserError

Correction = Callable[[Sequence[str]], list[str] | None]
"""Arguments typed to arguments that would be accepted; None where nothing can be proposed."""

_LONGEST = 2000  # characters of a line to paste


def word(wrong: str, right: str) -> Correction:
    """Put one word in the place of another, in the one argument that holds it.

    Where the wrong word brings arguments of its own, 'AdamW(b1=0.8)', a right word that is a call,
    'adamw(learning_rate=1e-3)', gives only its name.
    """
    before = r"(?<![\w-])" if re.match(r"\w", wrong) else ""
    after = r"(?![\w-])" if re.search(r"\w\Z", wrong) else ""
    pattern = re.compile(f"{before}{re.escape(wrong)}{after}(?P<call>\\(?)")

    def put(match: re.Match[str]) -> str:
        return f"{right.partition('(')[0]}(" if match["call"] else right

    def correct(typed: Sequence[str]) -> list[str] | None:
        places = [i for i, argument in enumerate(typed) if pattern.search(argument)]
        if not wrong or len(places) != 1:
            return None
        return [pattern.sub(put, a) if i in places else a for i, a in enumerate(typed)]

    return correct


def arguments(wrong: Sequence[str], right: Sequence[str]) -> Correction:
    """Put arguments in the place of others, which stand one after the other."""

    def correct(typed: Sequence[str]) -> list[str] | None:
        n = len(wrong)
        starts = [i for i in range(len(typed)) if list(typed[i : i + n]) == list(wrong)]
        return [*typed[: starts[0]], *right, *typed[starts[0] + n :]] if starts else None

    return correct


def setting(path: str, value: object) -> Correction:
    """Set a field, such as 'config.seed', in the place of the arguments that set it."""
    flag = f"--{path}"

    def correct(typed: Sequence[str]) -> list[str]:
        kept, at, skip = [], None, False
        for argument in typed:
            if skip or argument.startswith(f"{flag}=") or argument == flag:
                at = len(kept) if at is None else at
                skip = argument == flag
                continue
            kept.append(argument)
        at = len(kept) if at is None else at
        return [*kept[:at], f"{flag}={value}", *kept[at:]]

    return correct


def value(key: str, right: str) -> Correction:
    """Give an argument of a part, `--config.model.width=x` or `cnn(width=x)`, another value."""
    inside = re.compile(rf"(?<![\w.]){re.escape(key)}\s*=\s*(\[[^\]]*\]|[^,()\]]*)")
    alone = re.compile(rf"(--[\w./*-]*\.{re.escape(key)}=).*", re.DOTALL)

    def correct(typed: Sequence[str]) -> list[str] | None:
        for pattern, new in ((alone, rf"\g<1>{right}"), (inside, f"{key}={right}")):
            found = [i for i, a in enumerate(typed) if pattern.search(a)]
            if len(found) == 1:
                return [pattern.sub(new, a) if i in found else a for i, a in enumerate(typed)]
        return None

    return correct


def instead(*right: str) -> Correction:
    """Propose another command, such as one that lists the choices."""
    return lambda typed: list(right)


def help_of_verb(typed: Sequence[str]) -> list[str]:
    """Propose the help of the verb that was typed."""
    verb = [typed[0]] if typed and not typed[0].startswith("-") else []
    return [*verb, "--help"]


def run_like(run: Path) -> Correction:
    """Propose the run directory whose name is nearest to one that is not there."""

    def correct(typed: Sequence[str]) -> list[str] | None:
        near = _nearest_run(run)
        proposed = arguments([str(run)], [near])(typed) if near else None
        return proposed or help_of_verb(typed)

    return correct


def _nearest_run(run: Path) -> str | None:
    with contextlib.suppress(OSError):
        there = {str(f.parent) for p in (run.parent, Path("runs")) for f in p.glob("*/config.json")}
        names = {Path(folder).name: folder for folder in sorted(there)}
        near = difflib.get_close_matches(run.name, names, n=1, cutoff=0.5)
        return names[near[0]] if near else None
    return None


def either(*corrections: Correction) -> Correction:
    """Propose what the first of several corrections does that applies."""

    def correct(typed: Sequence[str]) -> list[str] | None:
        proposed = (correction(typed) for correction in corrections)
        return next((arguments for arguments in proposed if arguments is not None), None)

    return correct


@contextlib.contextmanager
def offering(correction: Correction) -> Iterator[None]:
    """Let errors that are raised inside, and have no correction, carry this one."""
    try:
        yield
    except UserError as error:
        if _of(error) is None:
            error.correction = correction
        raise


def _of(error: BaseException | None) -> Correction | None:
    """The correction of an error, or of the one that it was raised from."""
    while error is not None:
        if isinstance(error, UserError) and error.correction is not None:
            return error.correction
        error = error.__cause__ or error.__context__
    return None


def line_to_paste(error: UserError, typed: Sequence[str]) -> str | None:
    """The command to type instead of the one that ended in an error; None where none is known."""
    correction = _of(error)
    proposed = correction(typed) if correction else None
    if proposed is None or proposed == list(typed):
        return None
    is_module = Path(sys.argv[0]).parts[-2:] == ("jaxdl", "main.py")
    line = shlex.join([*(["python", "-m", "jaxdl.main"] if is_module else ["jaxdl"]), *proposed])
    return line if line.isprintable() and len(line) <= _LONGEST else None
