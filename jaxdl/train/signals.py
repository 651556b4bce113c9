"""Stopping when asked: SIGINT and SIGTERM end a run after the step at hand, nothing lost.

Python calls a handler between two bytecodes of the main thread, which may sit in a compiler for
minutes. The part of the handler that is in C writes the number of the signal to a pipe at once,
and a thread acts on it. Of several processes any one may be asked: all stop at the same place.
"""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from jaxdl.train import hosts, line

STOPPED = 75  # EX_TEMPFAIL of sysexits.h: everything is saved, the same command goes on

Item = TypeVar("Item")


class Interrupted(Exception):
    """A signal stopped the run; what was done is saved."""

    exit_status = STOPPED

    def __init__(self, caught: signal.Signals, step: int):
        super().__init__(f"interrupted by {caught.name} at step {step}")
        self.step = step


class Stopping(Exception):
    """A signal came, and what has been done must be saved now."""


class Stop:
    """Whether a run was asked to stop, and where.

    A place is where `reached` is called: after a step, between two batches of an evaluation.
    Processes count them alike. Before `begin` and after `end` nothing can be lost, and a signal
    ends the program on the spot.
    """

    def __init__(self) -> None:
        self.caught: signal.Signals | None = None
        self._passed: int | None = None
        self._at: int | None = None
        self._changed = threading.Condition()
        self.passing: Callable[[], None] = lambda: None
        """Called at each place, and at `begin`."""

    def begin(self) -> None:
        """From here on there is something to save."""
        self.passing()
        with self._settled():
            self._passed = 0

    def end(self) -> None:
        """Everything is saved. Raises Stopping where a signal has come before."""
        with self._settled():
            if self.caught:
                raise Stopping
            self._passed = None

    def reached(self) -> bool:
        """Whether to stop here."""
        self.passing()
        with self._settled():
            self._passed += 1
            return self._at is not None and self._passed >= self._at

    def between(self, items: Iterable[Item]) -> Iterator[Item]:
        """The same items; raises Stopping before the one at which to stop."""
        for item in items:
            if self._passed is not None and self.reached():
                raise Stopping
            yield item

    def ask(self, number: int) -> None:
        """Stop all processes."""
        if hosts.several():
            hosts.send("asked", number)
        else:
            self.asked(number)

    def asked(self, number: int) -> None:
        with self._changed:
            if self.caught:
                return
            self.caught, passed = signal.Signals(number), self._passed
        if hosts.leads():
            ending = "nothing to save" if passed is None else "saving, then stopping"
            print(f"\n{self.caught.name}: {ending}", flush=True)
        if hosts.several():
            hosts.send("places", passed)
        else:
            self.settle([passed])

    def settle(self, passed: list[int | None]) -> None:
        if None in passed:
            hosts.exit(STOPPED)
        # the first place that no process has passed
        with self._changed:
            self._at = max(passed) + 1
            self._changed.notify_all()

    @contextlib.contextmanager
    def _settled(self) -> Iterator[None]:
        """Once a signal has come, no process moves on before it is known where all stop."""
        with self._changed:
            self._changed.wait_for(lambda: self.caught is None or self._at is not None)
            yield


_current: Stop | None = None


@contextlib.contextmanager
def stop_signals() -> Iterator[Stop]:
    """Listen to SIGINT and SIGTERM; a second one ends the program at once, status 128 + its number.

    Inside another one this gives the same. In another thread than the main one, nothing is heard.
    """
    global _current
    if _current:
        yield _current
        return
    stop = _current = Stop()
    line.on("asked", stop.asked)
    line.on("places", stop.settle)
    try:
        if threading.current_thread() is threading.main_thread():
            with _heard(stop):
                yield stop
        else:
            yield stop
    finally:
        _current = None


@contextlib.contextmanager
def _heard(stop: Stop) -> Iterator[None]:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    wanted = (signal.SIGINT, signal.SIGTERM)

    def listen() -> None:
        came = False
        while number := ours.recv(1):
            if number[0] not in wanted:
                continue
            if came:
                os._exit(128 + number[0])
            came = True
            # In a thread, so that a console that takes no more text does not hold up a second one.
            threading.Thread(target=stop.ask, args=(number[0],), daemon=True).start()

    thread = threading.Thread(target=listen, name="jaxdl-signals", daemon=True)
    thread.start()
    before = {number: signal.signal(number, lambda *_: None) for number in wanted}
    pipe = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(pipe)
        for number, handler in before.items():
            signal.signal(number, handler)
        theirs.close()
        thread.join()
        ours.close()
