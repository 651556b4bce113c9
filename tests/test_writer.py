"""One process writes to a run directory, and any number read it."""

import contextlib
import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from jaxdl.errors import UserError
from jaxdl.main import main
from jaxdl.rundir.writer import only_writer

CONFIG = ["--config", "cnn", "--config.model=mlp", "--config.model.widths=[4]"]
CONFIG += ["--config.data.source=digits", "--config.data.batch_size=64", "--config.log.sinks="]

# flock and SoftFileLock themselves, without jaxdl.
FLOCK = "import fcntl, os; fcntl.flock(os.open({path!r}, os.O_RDWR | os.O_CREAT), fcntl.LOCK_EX)"
MARKER = "import filelock; lock = filelock.SoftFileLock({path!r}); lock.acquire()"


@contextlib.contextmanager
def process(code: str, path: object) -> Iterator[subprocess.Popen[str]]:
    """A process that runs the code and then waits to be killed."""
    code = f"{code.format(path=str(path))}; print('locked', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        try:
            assert other.stdout and other.stdout.readline() == "locked\n"
            yield other
        finally:
            other.kill()


def contents(folder):
    return {f: f.read_bytes() for f in folder.rglob("*") if f.is_file() and f.name[0] != "."}


def refused(workdir, match):
    with pytest.raises(UserError, match=match), only_writer(workdir):
        pass


def test_a_second_writer_is_refused_and_readers_are_not(tmp_path, capsys):
    workdir = tmp_path / "run"
    train = [*CONFIG, "--workdir", str(workdir), "--config.duration=2"]
    assert main(train) == 0
    assert not (workdir / ".writer.json").exists()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "new.png")
    before = contents(workdir)
    with only_writer(workdir):
        assert main([*train[:-1], "--config.duration=3"]) == 2
        error = capsys.readouterr().err
        assert f"{workdir} is being written by process {os.getpid()} on " in error
        assert error.count("\n") == 1 and "choose another --workdir" in error
        assert contents(workdir) == before
        for reader in (["evaluate", workdir], ["predict", workdir, tmp_path / "new.png"]):
            assert main([str(word) for word in reader]) == 0
        assert main(["report", str(workdir)]) == 0
    assert main([*train[:-1], "--config.duration=3"]) == 0


def test_a_population_has_one_writer(tmp_path, capsys):
    train = [
        *CONFIG,
        "--workdir",
        str(tmp_path),
        "--config.duration=1",
        "--config.population.seeds=2",
    ]
    with only_writer(tmp_path):
        assert main(train) == 2
    assert f"is being written by process {os.getpid()}" in capsys.readouterr().err
    assert not (tmp_path / "config.json").exists()


def test_the_lock_ends_with_a_process_that_is_killed(tmp_path):
    with process(FLOCK, tmp_path / ".lock") as other:
        refused(tmp_path, "is being written by another process: wait")
        other.kill()
        other.wait()
        with only_writer(tmp_path):
            pass


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL])
def test_a_file_is_the_lock_where_flock_does_not_work(code, tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    marker = tmp_path / ".lock-file"
    with only_writer(tmp_path):
        refused(tmp_path, rf"by process {os.getpid()} .* remove {marker}")
    assert not marker.exists()
    with process(MARKER, marker) as other:
        refused(tmp_path, "is being written by another process")
        other.kill()
        other.wait()
        assert marker.exists()
        with only_writer(tmp_path):  # that of a process which no longer runs
            pass


def test_another_failure_of_the_lock_is_a_directory_that_cannot_be_written(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", flock)
    refused(tmp_path, "cannot write to workdir")
