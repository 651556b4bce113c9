"""Suppression of Orbax messages that a run reports better itself, while checkpoints are open.

Only Orbax's own are held back, and only for so long: messages of other libraries pass, before,
meanwhile and after.
"""

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import Any

PARTS_OF_ONE = ("Event loop is closed", "Encountered error while")
"""Beginnings of the errors by which each part of a failed save or restore ends, with no one to
raise them to: one error, which its caller has, is enough."""


@contextlib.contextmanager
def quiet_orbax() -> Iterator[None]:
    """Suppress Orbax's messages about damaged folders and failed saves, and its repeated errors."""
    absl, asyncio = logging.getLogger("absl"), logging.getLogger("asyncio")
    # Of each user its own: several may be open at once, and close in any order.
    others = lambda record: "orbax" not in record.pathname or record.levelno >= logging.CRITICAL
    retrieved = lambda record: "exception was never retrieved" not in record.getMessage()
    hook, is_open = sys.unraisablehook, True

    def pass_on(unraisable: Any) -> None:
        if not (is_open and str(unraisable.exc_value).startswith(PARTS_OF_ONE)):
            hook(unraisable)

    absl.addFilter(others)
    asyncio.addFilter(retrieved)
    sys.unraisablehook = pass_on
    try:
        yield
    finally:
        is_open = False
        absl.removeFilter(others)
        asyncio.removeFilter(retrieved)
        if sys.unraisablehook is pass_on:
            sys.unraisablehook = hook
