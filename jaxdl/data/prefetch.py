"""Batches made ahead of their use, in a thread."""

import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import jax

_END = object()


class Batches(Iterator[dict[str, jax.Array]]):
    """An iterator that runs another one ahead, in a thread.

    `finish` is applied to each batch by the consumer. A computation on several processes belongs
    there: all of them must start theirs in the same order, which a thread does not keep.

    An exception of the thread is raised here. The thread ends with the iterator it runs, at
    `close()`, or when nobody holds the batches any more.

    Attributes:
        waited: seconds that the consumer has spent waiting for a batch.
    """

    def __init__(
        self,
        batches: Iterator[dict[str, jax.Array]],
        prefetch: int,
        finish: Callable[[dict[str, jax.Array]], dict[str, jax.Array]] | None = None,
    ) -> None:
        self.waited = 0.0
        self._finish = finish
        self._made: queue.Queue = queue.Queue(max(1, prefetch))
        stop = threading.Event()
        # The thread must not know `self`, or it would keep alive what ends it.
        thread = threading.Thread(
            target=_run_ahead, args=(batches, self._made, stop), name="jaxdl-data", daemon=True
        )
        self._end = weakref.finalize(self, _stop, stop, thread)
        thread.start()

    def __next__(self) -> dict[str, jax.Array]:
        if not self._end.alive:
            raise StopIteration
        began = time.perf_counter()
        batch, error = self._made.get()
        self.waited += time.perf_counter() - began
        if error is None and batch is not _END:
            return self._finish(batch) if self._finish else batch
        self.close()
        raise StopIteration if error is None else error

    def close(self) -> None:
        """Stop making batches and wait for the thread to end."""
        self._end()


def _run_ahead(batches: Iterator[Any], made: queue.Queue, stop: threading.Event) -> None:
    try:
        for batch in batches:
            if not _put(made, (batch, None), stop):
                break
        else:
            _put(made, (_END, None), stop)
    except BaseException as error:
        _put(made, (_END, error), stop)
    finally:
        batches.close()


def _put(made: queue.Queue, item: tuple[Any, Any], stop: threading.Event) -> bool:
    """Put, unless told to stop while the queue is full."""
    while not stop.is_set():
        try:
            made.put(item, timeout=0.1)
            return True
        except queue.Full:
            continue
    return False


def _stop(stop: threading.Event, thread: threading.Thread) -> None:
    stop.set()
    if thread is not threading.current_thread():  # garbage may be collected in any thread
        thread.join()
