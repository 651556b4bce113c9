"""One writer per run directory; readers are never refused."""

import contextlib
import errno
import json
import os
import platform
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import filelock

from jaxdl.errors import UserError
from jaxdl.rundir.directory import replace, writing

# What file systems without `flock` answer: some network, FUSE and cluster file systems.
NO_FLOCK = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}

HOLDER = ".writer.json"


@contextlib.contextmanager
def only_writer(workdir: Path) -> Iterator[None]:
    """Lock a run directory, which is created if need be, against a second writing process.

    The lock is `flock`'s, which ends with the process however it ends. Where the file system has
    no `flock` it is a file with the process and the host; one whose process no longer runs
    on this host is removed.

    Raises:
        UserError: another process writes to the directory, or it cannot be written.
    """
    with writing(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        lock = _lock(workdir)
    holder = workdir / HOLDER
    try:
        with writing(workdir):
            replace(holder, json.dumps(_this_process()) + "\n")
        yield
    finally:
        # Neither failure matters: the record means nothing without the lock, which ends with the
        # process.
        with contextlib.suppress(OSError):
            holder.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            lock.release()


def _lock(workdir: Path) -> filelock.BaseFileLock:
    lock: filelock.BaseFileLock = filelock.FileLock(workdir / ".lock", fallback_to_soft=False)
    try:
        try:
            lock.acquire(blocking=False)
        except (NotImplementedError, OSError) as error:
            if isinstance(error, OSError) and error.errno not in NO_FLOCK:
                raise
            lock = filelock.SoftFileLock(workdir / ".lock-file")
            lock.acquire(blocking=False)
    except filelock.Timeout:
        remedy = "wait for its end, stop it, or choose another --workdir"
        if isinstance(lock, filelock.SoftFileLock):
            remedy += f"; if it no longer runs, remove {lock.lock_file}"
        raise UserError(f"{workdir} is being written by {_holder(workdir)}: {remedy}") from None
    return lock


def _this_process() -> dict[str, str | int]:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return {"process": os.getpid(), "host": platform.node(), "since": since}


def _holder(workdir: Path) -> str:
    try:
        holder = json.loads((workdir / HOLDER).read_text())
        return f"process {holder['process']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
