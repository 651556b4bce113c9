"""Client of the control plane: gather values across processes, learn which process is lost.

JAX ends a program with SIGABRT minutes after it lost a process, and names none. Here the others
learn of it as soon as the connection breaks, say who it was, and leave with a status that a
supervisor can act on. While all is well, nothing is sent.
"""

import contextlib
import json
import os
import queue
import socket
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from jaxdl.errors import UserError

LOST = 74  # EX_IOERR of sysexits.h: a process is gone or hangs; a new start goes on
GRACE = 5.0  # seconds in which a process may fail by itself, once another one has failed

_handlers: dict[str, Callable[[Any], None]] = {}


def end(status: int) -> None:
    """End the program at once, even if nobody reads what it prints."""
    flush = threading.Thread(target=lambda: (sys.stdout.flush(), sys.stderr.flush()), daemon=True)
    flush.start()
    flush.join(1.0)
    os._exit(status)


def on(name: str, handler: Callable[[Any], None]) -> None:
    """Have `handler(value)` called, in a thread, when a message of that name comes."""
    _handlers[name] = handler


class Client:
    """A connection to the coordinator on process 0; process 0 holds one too.

    Args:
        host: of process 0.
        port: that process 0 listens at.
        process: number of this one.
        processes: how many there are.
        timeout: seconds until all must be there.

    Raises:
        UserError: process 0 cannot be reached, or cannot listen.
    """

    def __init__(self, host: str, port: int, process: int, processes: int, timeout: float):
        self.process, self._timeout = process, timeout
        self.name = f"process {process} ({socket.gethostname()}, pid {os.getpid()})"
        self._coordinator = _start_coordinator(port, processes, timeout) if process == 0 else None
        self._given: defaultdict[str, queue.Queue] = defaultdict(queue.Queue)
        self._closed, self._sending = threading.Event(), threading.Lock()
        self._failed: tuple[int, str] | None = None
        self._connection = _connected(host, port, timeout)
        self._write({"process": process, "name": self.name, "processes": processes})
        threading.Thread(target=self._read, name="jaxdl-client", daemon=True).start()

    def start(self, metadata: Mapping[str, Any]) -> list[str]:
        """Wait until all processes are there; their names.

        Raises:
            UserError: says which are missing or surplus, or whose metadata differ from process 0.
        """
        self.send("start", dict(metadata))
        try:
            # The coordinator knows which processes are missing, so it answers first.
            answer = self._given["start"].get(timeout=self._timeout + GRACE)
        except queue.Empty:
            answer = "process 0 does not answer: is another program listening there?"
        if isinstance(answer, str):
            self._close()
            raise UserError(answer)
        return answer

    def send(self, name: str, value: Any) -> None:
        """Send a message without waiting for an answer."""
        self._write([name, value])

    def gather(self, name: str, value: Any) -> list[Any]:
        """Gather a value from all processes, ordered by process; blocks until all have sent one."""
        self.send(name, value)
        return self._given[name].get()

    def leave(self) -> None:
        """Barrier at the end of a run: return when all processes have reached it."""
        self.gather("end", None)
        self._close()

    def fail(self, status: int, reason: str) -> None:
        """End the program; the others follow with the same status, and say why."""
        self._closed.set()
        with contextlib.suppress(OSError):
            self.send("failed", {"status": status, "reason": f"{self.name}: {reason}"})
        self.exit(status)

    def follow(self) -> None:
        """End the program as another one did that has failed, if one has."""
        if self._failed:
            self._part(*self._failed)

    def exit(self, status: int) -> None:
        """End the program at once; process 0 after the others, whom its end would abort."""
        self._closed.set()
        deadline = time.monotonic() + GRACE + 1
        while self._coordinator and self._coordinator.connected > 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        end(status)

    def _close(self) -> None:
        self._closed.set()
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)  # which ends the thread that reads

    def _write(self, message: Any) -> None:
        with self._sending:
            self._connection.sendall(json.dumps(message).encode() + b"\n")

    def _read(self) -> None:
        started = False
        with contextlib.suppress(OSError), self._connection, self._connection.makefile() as lines:
            for text in lines:
                name, value = json.loads(text)
                started |= name == "start"
                if name == "refused":
                    self._given["start"].put(value)
                elif name == "lost":
                    self._part(LOST, f"{value} is gone")
                elif name == "failed":
                    self._failed = value["status"], value["reason"]
                    if not started:
                        self.follow()
                    later = threading.Timer(GRACE, self.follow)
                    later.daemon = True
                    later.start()
                elif name in _handlers:
                    _handlers[name](value)
                else:
                    self._given[name].put(value)
        if started:
            self._part(LOST, "process 0 is gone")
        self._given["start"].put("process 0 left before all had started")

    def _part(self, status: int, reason: str) -> None:
        # Whoever is gone after a failure may have followed it a moment sooner.
        status, reason = self._failed or (status, reason)
        if not self._closed.is_set():
            print(f"error: {reason}", file=sys.stderr, flush=True)
            self.exit(status)


def _start_coordinator(port: int, processes: int, timeout: float) -> Any:
    from jaxdl.cluster.coordinator import Coordinator  # asyncio, which one process needs

    both = socket.has_dualstack_ipv6()
    try:
        listening = socket.create_server(
            ("", port), family=socket.AF_INET6 if both else socket.AF_INET, dualstack_ipv6=both
        )
    except OSError as error:
        raise UserError(f"process 0 cannot listen at port {port}: {error.strerror}") from error
    _notice_silence(listening)
    coordinator = Coordinator(processes, timeout)
    threading.Thread(
        target=coordinator.serve, args=(listening,), name="jaxdl-coordinator", daemon=True
    ).start()
    return coordinator


def _connected(host: str, port: int, timeout: float) -> socket.socket:
    deadline = time.monotonic() + timeout
    while True:
        try:
            connection = socket.create_connection((host, port), timeout=GRACE)
            # A port in the range of clients' own may be connected to itself.
            if connection.getsockname() != connection.getpeername():
                connection.settimeout(None)
                _notice_silence(connection)
                return connection
            connection.close()
        except OSError as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f"process 0 cannot be reached at {host}:{port} within {timeout:g} s: {error}"
                ) from error
        time.sleep(0.2)


def _notice_silence(connection: socket.socket) -> None:
    """A host without power or network breaks the connection in half a minute."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, option):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
