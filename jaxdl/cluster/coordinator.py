"""Control-plane server on process 0: gathers values, relays notices, detects lost processes.

Every process, 0 among them, holds one TCP connection to it. A message is a line of JSON,
[name, value]. What all processes give under one name goes back to all as a list, by process; the
NOTICES go on at once. A connection that ends unannounced is a process gone.
"""

import asyncio
import contextlib
import json
import socket
from collections.abc import Mapping, Sequence
from typing import Any

NOTICES = ("asked", "failed")
LONGEST = 2**20  # bytes of a message


class Coordinator:
    """Serves the processes of one run; its state belongs to the thread that runs `serve`.

    Args:
        processes: how many there are to be.
        timeout: seconds until those who are there are told who is missing.
    """

    def __init__(self, processes: int, timeout: float):
        self._processes, self._timeout = processes, timeout
        self._writers: dict[int, asyncio.StreamWriter] = {}
        self._names: dict[int, str] = {}
        self._rounds: dict[str, dict[int, Any]] = {}
        self._started = False
        self._given_up = b""
        self._may_go: set[int] = set()

    @property
    def connected(self) -> int:
        """Number of connected processes, this one included."""
        return len(self._writers)

    def serve(self, listening: socket.socket) -> None:
        """Serve those who connect to this socket, for as long as the program runs."""
        asyncio.run(self._serve(listening))

    async def _serve(self, listening: socket.socket) -> None:
        async with await asyncio.start_server(self._meet, sock=listening, limit=LONGEST):
            await asyncio.sleep(self._timeout)
            if not self._started:
                missing = sorted(set(range(self._processes)) - set(self._writers))
                said = f"{_listed(missing)} of {self._processes} did not start"
                self._give_up("refused", f"{said} within {self._timeout:g} s")
            await asyncio.Event().wait()

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            hello = json.loads(await reader.readline())
            process, name, processes = hello["process"], hello["name"], hello["processes"]
        except (ValueError, KeyError, TypeError, ConnectionError):  # no process of ours
            writer.close()
            return
        if wrong := self._objection(process, name, processes):
            writer.write(_message("refused", wrong))
            if not self._started:
                self._give_up("refused", wrong)
            with contextlib.suppress(ConnectionError):
                await reader.read()  # to close with something unread would take the message back
            writer.close()
            return
        self._writers[process], self._names[process] = writer, name
        if self._given_up:
            writer.write(self._given_up)
        with contextlib.suppress(ConnectionError):
            async for line in reader:
                self._take(process, *json.loads(line))
        writer.close()
        del self._writers[process]
        self._rounds.get("start", {}).pop(process, None)
        if self._started and process not in self._may_go:
            self._tell("lost", name)

    def _objection(self, process: int, name: str, processes: int) -> str | None:
        if processes != self._processes:
            return f"{name} was told of {processes} processes, process 0 of {self._processes}"
        if process in self._writers:
            return f"one is surplus of {self._names[process]} and {name}"
        return f"{name} is surplus: the run has started without it" if self._started else None

    def _take(self, process: int, name: str, value: Any) -> None:
        if name in NOTICES:
            if name == "failed":
                self._may_go.add(process)
            if name == "failed" and not self._started:
                self._give_up(name, value)
            else:
                self._tell(name, value)
            return
        given = self._rounds.setdefault(name, {})
        given[process] = value
        if len(given) < self._processes:
            return
        values = [self._rounds[name][i] for i in range(self._processes)]
        del self._rounds[name]
        if name == "end":
            self._may_go = set(range(self._processes))
        if name == "start":
            names = [self._names[i] for i in range(self._processes)]
            if wrong := differences(names, values):
                self._give_up("refused", wrong)
                return
            self._started, values = True, names
        self._tell(name, values)

    def _give_up(self, name: str, value: Any) -> None:
        """Tell all who are there, and who is still to come."""
        self._given_up = _message(name, value)
        self._tell(name, value)

    def _tell(self, name: str, value: Any) -> None:
        # Process 0 last: it may end the program, and this desk with it.
        for process in sorted(self._writers, reverse=True):
            self._writers[process].write(_message(name, value))


def differences(names: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> str | None:
    """One line that names where processes differ from process 0; None where all agree."""
    found = []
    for name, own in zip(names[1:], metadata[1:], strict=True):
        keys = sorted(k for k in metadata[0] | own if metadata[0].get(k) != own.get(k))
        if keys:
            said = ", ".join(f"{k} {own.get(k)!r}, not {metadata[0].get(k)!r}" for k in keys[:3])
            found.append(f"{name} has {said}")
    return f"processes differ from process 0: {'; '.join(found[:3])}" if found else None


def _message(name: str, value: Any) -> bytes:
    return json.dumps([name, value]).encode() + b"\n"


def _listed(processes: Sequence[int]) -> str:
    shown = ", ".join(map(str, processes[:8])) + (", ..." if len(processes) > 8 else "")
    return f"process {shown}" if len(processes) == 1 else f"processes {shown}"
