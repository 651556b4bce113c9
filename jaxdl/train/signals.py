"""Stopping when asked: SIGINT and SIGTERM end a run after the step at hand, nothing lost."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any


class Interrupted(Exception):
    """A signal stopped the run; what was done is saved."""

    def __init__(self, caught: signal.Signals, step: int):
        super().__init__(f"interrupted by {caught.name} at step {step}")
        self.exit_status = 128 + caught
        self.step = step


@contextlib.contextmanager
def stop_signals() -> Iterator[list[signal.Signals]]:
    """Collect SIGINT and SIGTERM in a list; a second one stops at once."""
    caught: list[signal.Signals] = []

    def note(number: int, frame: Any) -> None:
        caught.append(signal.Signals(number))
        signal.signal(number, previous[number])
        print(f"\n{caught[-1].name}: saving, then stopping", flush=True)

    wanted = (signal.SIGINT, signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    previous = {number: signal.signal(number, note) for number in wanted}
    try:
        yield caught
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
