"""Several processes of the real command line on this machine, with simulated devices."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]


def free_port() -> int:
    """A port that is free, and so is the one below it."""
    while True:
        with socket.socket() as upper, socket.socket() as lower:
            upper.bind(("127.0.0.1", 0))
            port = upper.getsockname()[1]
            try:
                lower.bind(("127.0.0.1", port - 1))
            except OSError:
                continue
            return port


def start(arguments: Sequence[object], *, devices: int = 1, **environment: str) -> subprocess.Popen:
    """One process of the program."""
    simulated = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    return subprocess.Popen(
        [sys.executable, "-m", "jaxdl.main", *map(str, arguments)],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, **simulated, **environment},
    )  # fmt: skip


def place(port: int, processes: int, process: int) -> list[str]:
    """What the command line says of where a process stands."""
    return [
        "--coordinator", f"127.0.0.1:{port}",
        "--processes", str(processes), "--process", str(process),
    ]  # fmt: skip


def start_all(
    arguments: Sequence[object], processes: int, *, devices: int, **environment: str
) -> list[subprocess.Popen]:
    """All processes of a run; one alone where there is one."""
    if processes == 1:
        return [start(arguments, devices=devices, **environment)]
    port = free_port()
    return [
        start([*arguments, *place(port, processes, i)], devices=devices, **environment)
        for i in range(processes)
    ]


def finish(running: Sequence[subprocess.Popen], timeout: float = 120) -> list[tuple[int, str, str]]:
    """Status, output and errors of each; those that take too long are killed."""
    deadline = time.monotonic() + timeout
    try:
        texts = [p.communicate(timeout=max(1, deadline - time.monotonic())) for p in running]
    finally:
        for process in running:
            process.kill()
    return [(p.returncode, *text) for p, text in zip(running, texts, strict=True)]
