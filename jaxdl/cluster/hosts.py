"""Several processes as one run: where this one stands, whether all are there, what they agree on.

`jax.distributed` aborts a start that lacks a process, and names nobody. So all meet before it, at
the port below the coordinator's, where who is missing, surplus or different is named. The
connection then stays open: see `client.py`.
"""

import contextlib
import importlib.metadata
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from jaxdl.cluster.client import Client, end
from jaxdl.errors import UserError

# JAX is imported where it is used: signals, which need this file, are listened to before that.

_client: Client | None = None
_meeting: Client | None = None  # until all are there


class Place(NamedTuple):
    """Rank of a process within a run, and the address of process 0."""

    host: str
    """of process 0"""
    port: int
    """of JAX's coordinator there; the port below it is used too"""
    processes: int
    process: int


def several() -> bool:
    """True if this process is one of several."""
    return _client is not None


def leads() -> bool:
    """True for the process that prints and writes files."""
    return _client is None or _client.process == 0


def name() -> str:
    """This process among several, its host and its pid; empty where it is the only one."""
    return _client.name if _client else ""


def send(notice: str, value: Any) -> None:
    """Say something to the processes of the run, and go on."""
    _client.send(notice, value)


def gather(name: str, value: Any) -> list[Any]:
    """Gather a JSON value from all processes, ordered by process; waits for all of them."""
    return _client.gather(name, value) if _client else [value]


def exit(status: int) -> None:
    """End the program at once, and while not all have started, the others with it."""
    if _client:
        _client.exit(status)
    if _meeting:
        _meeting.fail(status, "stopped before all had started")
    end(status)


def find_place(
    coordinator: str | None, processes: int | None, process: int | None, timeout: float
) -> Place:
    """Find this process's rank: from the arguments, else from the cluster's environment.

    Args:
        coordinator: 'HOST:PORT'; or the environment's JAX_COORDINATOR_ADDRESS.
        processes: how many there are.
        process: number of this one.
        timeout: seconds that a cluster may take to answer.

    Raises:
        UserError: something is neither given nor found, or makes no sense.
    """
    coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    if None in (coordinator, processes, process):
        # What jax.distributed.initialize() itself asks: TPU pods, SLURM, Open MPI, Kubernetes.
        from jax._src.clusters import ClusterEnv

        try:
            coordinator, processes, process, _ = ClusterEnv.auto_detect_unset_distributed_params(
                coordinator, processes, process, None, None, int(timeout)
            )
        except Exception as error:  # each cluster fails in its own way
            raise UserError(f"cannot find this process's place in the cluster: {error}") from error
    given = {"--coordinator": coordinator, "--processes": processes, "--process": process}
    unknown = [option for option, value in given.items() if value is None]
    if unknown:
        raise UserError(
            f"no cluster was found (TPU pod, SLURM, Open MPI, Kubernetes): say {', '.join(unknown)}"
        )
    host, _, port = coordinator.rpartition(":")
    if not (host and port.isdecimal() and 2 <= int(port) < 2**16):
        raise UserError(f"--coordinator '{coordinator}' is not HOST:PORT")
    if not 0 <= process < processes:
        raise UserError(f"process {process} is surplus: there are 0 to {processes - 1}")
    return Place(host.strip("[]"), int(port), processes, process)


@contextlib.contextmanager
def joined(
    place: Place, metadata: Mapping[str, Any], *, timeout: float, heartbeat: float
) -> Iterator[None]:
    """Start together with all processes, and end together; nothing of JAX may run before.

    A process that fails in here ends the program, and with it all others, with its own status.

    Args:
        place: of this process.
        facts: what must be equal in all of them, as JSON has it.
        timeout: seconds until all must be there.
        heartbeat: seconds after which JAX itself gives up a process, with SIGABRT.

    Raises:
        UserError: says which processes are missing, surplus or different.
    """
    global _client, _meeting
    client = _meeting = Client(place.host, place.port - 1, place.process, place.processes, timeout)
    try:
        names = client.start({"jax": importlib.metadata.version("jax"), **_flat(metadata)})
        _client = client
    finally:
        _meeting = None
    try:
        _initialize(place, timeout, heartbeat)
        _check_devices(names)
        yield
    except Exception as error:
        status = 2 if isinstance(error, UserError) else 1
        if status == 1:
            # A collective fails where a process is gone. The line hears why, and ends the program.
            time.sleep(1)
            client.follow()
            traceback.print_exc()
        else:
            print(f"error: {error}", file=sys.stderr)
        client.fail(status, f"{type(error).__name__ if status == 1 else ''} {error}".strip())
    client.leave()
    _client = None
    _shut_down()


def _initialize(place: Place, timeout: float, heartbeat: float) -> None:
    import jax

    # It would take SIGTERM for itself, and looks for it once a second.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            f"{place.host}:{place.port}",
            place.processes,
            place.process,
            initialization_timeout=int(timeout),
            heartbeat_timeout_seconds=int(heartbeat),
        )
    except RuntimeError as error:
        raise UserError(f"jax.distributed cannot start: {error}") from error


def _shut_down() -> None:
    import jax

    jax.distributed.shutdown()


def _check_devices(names: list[str]) -> None:
    import jax

    counts = Counter(device.process_index for device in jax.devices())
    for process, name in enumerate(names):
        if counts[process] != counts[0]:
            raise UserError(f"{name} has {counts[process]} devices, process 0 has {counts[0]}")


def _flat(tree: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict) or not tree:
        return {path: tree}
    inside = (_flat(value, f"{path}.{key}".strip(".")) for key, value in tree.items())
    return {name: value for part in inside for name, value in part.items()}
