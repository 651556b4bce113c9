"""Stopping when asked: SIGINT and SIGTERM end a run after the step at hand, nothing lost.

Python calls a handler between two bytecodes of the main thread, which may sit in a compiler for
minutes. The part of the handler that is in C writes the number of the signal to a pipe at once,
and a thread acts on it. Of several processes any one may be asked: all stop at the same place.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from jaxdl.cluster import client, hosts

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
    """A request to stop a run, and the step at which all processes honour it.

    A place is where `reached` is called: after a step, between two batches of an evaluation.
    Processes count them alike. Before `begin` and after `end` nothing can be lost, and a signal
    ends the program on the spot.

    Args:
        program: False inside another one, such as a notebook, which is not to be ended: it gets a
            KeyboardInterrupt.
    """

    def __init__(self, program: bool = True) -> None:
        self.caught: signal.Signals | None = None
        self.heartbeat: Callable[[], None] = lambda: None
        """Called at each place, and at `begin`."""
        self._program = program
        self._passed: int | None = None
        self._at: int | None = None
        self._changed = threading.Condition()

    def begin(self) -> None:
        """From here on there is something to save; once more changes nothing."""
        self.heartbeat()
        with self._settled():
            self._passed = self._passed or 0

    def end(self) -> None:
        """Everything is saved. Raises Stopping where a signal has come before."""
        with self._settled():
            if self.caught:
                raise Stopping
            self._passed = None

    def reached(self) -> bool:
        """True at the step at which to stop."""
        self.heartbeat()
        with self._settled():
            self._passed += 1
            return self._at is not None and self._passed >= self._at

    def between(self, items: Iterable[Item]) -> Iterator[Item]:
        """The same items; raises Stopping before the one at which to stop."""
        for item in items:
            if self._passed is not None and self.reached():
                raise Stopping
            yield item

    def asked(self, number: int) -> None:
        """Find out where all processes can stop: for a thread that hears of a signal."""
        with self._changed:
            if self.caught or (self._passed is None and not self._program):
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
        """Stop at the first place that no process has passed: for a thread that knows them all."""
        if None in passed:
            hosts.exit(STOPPED)
        with self._changed:
            self._at = max(passed) + 1
            self._changed.notify_all()

    @contextlib.contextmanager
    def _settled(self) -> Iterator[None]:
        # Once a signal has come, no process moves on before it is known where all stop.
        with self._changed:
            self._changed.wait_for(lambda: self.caught is None or self._at is not None)
            yield

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """Listen to SIGINT and SIGTERM."""
        wanted, came = (signal.SIGINT, signal.SIGTERM), threading.Event()
        handled = 0
        heard, told = os.pipe()
        os.set_blocking(told, False)

        def listen() -> None:
            while number := os.read(heard, 1):
                if number[0] not in wanted:
                    continue
                if came.is_set() and self._program:
                    os._exit(128 + number[0])
                came.set()
                ask = hosts.send if hosts.several() else lambda _, number: self.asked(number)
                # In a thread: a console that takes no more text must not hold up a second signal.
                threading.Thread(target=ask, args=("asked", number[0]), daemon=True).start()

        def handle(*_: object) -> None:
            nonlocal handled
            handled += 1
            if not self._program and (handled > 1 or self._passed is None):
                raise KeyboardInterrupt

        thread = threading.Thread(target=listen, name="jaxdl-signals", daemon=True)
        thread.start()
        before_pipe = signal.set_wakeup_fd(told, warn_on_full_buffer=False)
        before = {number: signal.signal(number, handle) for number in wanted}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(before_pipe)
            os.close(told)
            thread.join()
            os.close(heard)


_current: Stop | None = None


@contextlib.contextmanager
def stop_signals(program: bool = False) -> Iterator[Stop]:
    """Listen to SIGINT and SIGTERM; a second one ends the program at once, status 128 + its number.

    Inside another one this gives the same. In another thread than the main one, nothing is heard.

    Args:
        program: whether a signal may end the whole program; see `Stop`.
    """
    global _current
    if _current:
        yield _current
        return
    stop = _current = Stop(program)
    client.on("asked", stop.asked)
    client.on("places", stop.settle)
    in_main = threading.current_thread() is threading.main_thread()
    try:
        with stop.heard() if in_main else contextlib.nullcontext():
            yield stop
    finally:
        _current = None
