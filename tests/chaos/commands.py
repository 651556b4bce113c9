"""One command in this process, under watch: what it answered, how soon, and what else it did."""

import contextlib
import io
import os
import signal
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax

import jaxdl.init_from
import jaxdl.perf.bench
import jaxdl.perf.probe
import jaxdl.research.run_all
import jaxdl.run
from jaxdl import main as program
from jaxdl.assemble import assemble
from jaxdl.rundir import directory
from jaxdl.train.state import abstract_state

PATIENCE = 5.0  # seconds of this process's CPU time that an answer may take
BLOCKED = 30.0  # seconds on the clock after which it must be waiting for something
LONGEST = 3000  # characters of a message

_PROCESS = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess.", "pty.")
_NETWORK = ("socket.", "urllib.", "ftplib.", "http.", "smtplib.", "webbrowser.")
_CODE = ("pickle.find_class", "marshal.loads")
_FILES = (
    *("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate"),
    *("os.chmod", "os.chown", "os.utime", "os.mkfifo", "shutil."),
)
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC
_watch: tuple[Path, list[str]] | None = None


class Outcome(NamedTuple):
    """What became of a command: 'valid', 'refused', or what is wrong with its answer."""

    kind: str
    said: str
    seconds: float
    """of CPU time"""


class Reached(BaseException):
    """A command got to where it would compute."""


class Late(BaseException):
    """No answer within the time that it may take."""


def _audit(event: str, args: tuple) -> None:
    if _watch is None:
        return
    inside, found = _watch
    if event.startswith((*_PROCESS, *_NETWORK, *_CODE)):
        # An importer reads its own compiled files; nothing else may unmarshal.
        if event == "marshal.loads" and sys._getframe(1).f_globals.get("__name__", "").startswith(
            ("importlib", "_frozen_importlib", "zipimport")
        ):
            return
        # A pair of sockets within the process tells it of signals.
        if event != "socket.__new__" or args[1] != socket.AF_UNIX:
            found.append(_seen(event, args))
    elif event.startswith(_FILES) or (event == "open" and (args[2] or 0) & _WRITES):
        paths = [p for p in args[:2] if isinstance(p, str | bytes | os.PathLike)]
        paths = paths[:1] if event == "open" else paths
        if not all(_within(os.fsdecode(p), inside) for p in paths):
            found.append(_seen(event, args))


def _seen(event: str, args: tuple) -> str:
    stack = traceback.extract_stack(sys._getframe(2), limit=12)
    return (
        f"{event} {args!r}"[:200]
        + " from "
        + " <- ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(stack))
    )


def _within(path: str, folder: Path) -> bool:
    homes = (str(folder), jax.config.jax_compilation_cache_dir or str(folder))
    known = Path(os.path.normpath(Path.cwd() / path))
    return path == os.devnull or any(known.is_relative_to(home) for home in homes)


sys.addaudithook(_audit)  # there is no way to take it back


@contextlib.contextmanager
def watched(inside: Path) -> Iterator[list[str]]:
    """Lists processes, sockets, pickles, and files written outside a folder."""
    global _watch
    found: list[str] = []
    _watch = inside, found
    try:
        yield found
    finally:
        _watch = None


@contextlib.contextmanager
def stopped_short() -> Iterator[None]:
    """Commands are checked and assembled, their step is traced, and nothing is computed."""

    def reach(*first: object) -> None:
        abstract_state(*first)
        raise Reached

    def measure(*_: object, **__: object) -> None:
        raise Reached

    def stand_in(config: object, workdir: Path) -> None:
        plan = assemble(config)
        directory.claim(workdir, config)
        # All is checked by now. A deep network takes its time to trace, which is no hang.
        with contextlib.suppress(Late):
            state = plan.abstract_state(config.seed)
            for _, step in plan.phases:
                jax.eval_shape(step, state, plan.batch_spec(config.data.batch_size))
        raise Reached

    with (
        mock.patch.object(jaxdl.run, "run", stand_in),
        mock.patch.object(jaxdl.research.run_all, "run", stand_in),
        mock.patch.object(jaxdl.init_from, "init_state", reach),
        mock.patch.object(jaxdl.perf.bench, "bench", measure),
        mock.patch.object(jaxdl.perf.probe, "probe", measure),
    ):
        yield


def _late(number: int, frame: Any) -> None:
    stack = [f"{f.filename}:{f.lineno} {f.name}" for f in traceback.extract_stack(frame)]
    ours = [line for line in stack if "jaxdl/" in line]
    raise Late("\n".join([*ours, *stack[-3:]]))


def obey(argv: Sequence[str], inside: Path) -> Outcome:
    """Run a command; whatever it raises is caught, and told from a proper answer.

    Args:
        argv: what is typed after `jaxdl`.
        inside: the only folder that it may write to.
    """
    out, err, trouble = io.StringIO(), io.StringIO(), ""
    shown = warnings.showwarning
    handlers = [signal.signal(n, _late) for n in (signal.SIGPROF, signal.SIGALRM)]
    began = time.process_time()
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            watched(inside) as did,
        ):
            signal.setitimer(signal.ITIMER_PROF, 2 * PATIENCE)
            signal.setitimer(signal.ITIMER_REAL, BLOCKED)
            status = program.main(list(argv))
    except Reached:
        status = 0
    except SystemExit as stop:  # --help
        status = stop.code
    except Late as late:
        status, trouble = None, f"late: {late}"
    except BaseException:
        status, trouble = None, traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        seconds = time.process_time() - began
        for number, handler in zip((signal.SIGPROF, signal.SIGALRM), handlers, strict=True):
            signal.signal(number, handler)
        warnings.showwarning = shown
    return Outcome(*_judged(status, err.getvalue(), trouble, did, seconds), seconds)


def _judged(
    status: int | None, err: str, trouble: str, did: list[str], seconds: float
) -> tuple[str, str]:
    if did:
        return "escaped", f"{did[0]} {err}"
    if trouble:
        return ("late" if trouble.startswith("late") else "traceback"), trouble
    if status == 0:
        return "valid", err
    lines = [line for line in err.splitlines() if not line.startswith("warning: ")]
    said = "\n".join(lines)
    clear = (
        said.startswith("error: ")
        and len(said) < LONGEST
        and all(c.isprintable() or c == "\n" for c in said)
    )
    if status != 2 or not clear or "Traceback" in said:
        return "unclear", f"status {status}: {said!r}"
    return ("late" if seconds > PATIENCE else "refused"), said
