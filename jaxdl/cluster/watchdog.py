"""Watchdog: a run without progress prints the stacks of its threads and exits.

A blocked reader of data, a process that was stopped, a file system that is away: whatever waits
for them waits for ever. A supervisor that sees status 74 starts the same command again, which goes
on from the newest checkpoint.
"""

import contextlib
import faulthandler
import sys
import threading
from collections.abc import Callable, Iterator

from jaxdl.cluster import hosts

HANGS = 74  # EX_IOERR of sysexits.h


@contextlib.contextmanager
def watchdog(seconds: float, name: str = "") -> Iterator[Callable[[], None]]:
    """Yield a heartbeat; if it is not called again within `seconds`, dump stacks and exit 74.

    Where it is not, the stacks of all threads go to stderr and the program ends with status 74.

    Args:
        seconds: without a call; a program that is stopped and continued is not charged for it.
        name: of this process, where there are several.
    """
    interval = min(1.0, seconds / 4)
    silent, over = None, threading.Event()

    def beat() -> None:
        nonlocal silent
        silent = 0.0

    def watch() -> None:
        nonlocal silent
        while not over.wait(interval):
            # Counted by waking, not read from a clock, which goes on while a program is stopped.
            if silent is not None:
                silent += interval
                if silent >= seconds:
                    _end(seconds, name)

    thread = threading.Thread(target=watch, name="jaxdl-watchdog", daemon=True)
    thread.start()
    try:
        yield beat
    finally:
        over.set()
        thread.join()


def _end(seconds: float, name: str) -> None:
    # In a thread: what hangs may be the one who reads what is printed.
    said = threading.Thread(target=_say, args=(seconds, name), daemon=True)
    said.start()
    said.join(5.0)
    hosts.exit(HANGS)


def _say(seconds: float, name: str) -> None:
    of = f" of {name}" if name else ""
    print(
        f"error: nothing has moved for {seconds:g} s (config.watchdog_seconds); "
        f"a new start goes on from the newest checkpoint. Threads{of}:",
        file=sys.stderr,
        flush=True,
    )
    faulthandler.dump_traceback(file=sys.__stderr__, all_threads=True)
