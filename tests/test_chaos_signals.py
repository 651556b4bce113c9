"""Signals: where a run stops, how soon, and that nothing is lost by it."""

import os
import signal
import subprocess
import sys
import time

import pytest
from chaos import signals as chaos
from conftest import ROOT

from jaxdl.cluster.signals import Stop, Stopping, stop_signals


def program(text, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", text, *arguments],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def sent_when_ready(process, *numbers):
    """Send signals, each after the next line of output: its status, and how long it took."""
    for number in numbers:
        assert process.stdout.readline()
        process.send_signal(number)
        clock = time.monotonic()
    out, error = process.communicate(timeout=60)
    return process.returncode, time.monotonic() - clock, out, error


# Ten seconds and more in C, where Python calls no handler.
IN_THE_COMPILER = """
import hashlib, sys
from jaxdl.cluster.signals import stop_signals
with stop_signals(program=True) as stop:
    if sys.argv[1] == "training":
        stop.begin()
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 50_000_000)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_before_the_first_step_a_signal_ends_the_program_at_once(number):
    run = program(IN_THE_COMPILER, "starting")
    status, seconds, out, error = sent_when_ready(run, number)
    assert (status, error) == (75, "") and f"{number.name}: nothing to save" in out
    assert seconds < 5  # it would take ten and more


def test_a_second_signal_ends_the_program_at_once():
    run = program(IN_THE_COMPILER, "training")
    assert run.stdout.readline() == "ready\n"
    run.send_signal(signal.SIGINT)
    assert run.stdout.readline() == "\n"
    status, seconds, out, error = sent_when_ready(run, signal.SIGTERM)
    assert (status, error) == (128 + signal.SIGTERM, "") and seconds < 5


def asked(stop, number=signal.SIGTERM):
    os.kill(os.getpid(), number)
    while not stop.caught:
        time.sleep(0.001)


def test_training_stops_at_the_next_place(capsys):
    with stop_signals() as stop:
        stop.begin()
        assert not stop.reached() and not stop.reached()
        asked(stop)
        stop.begin()  # as a run does that diverged and went back: the place stays
        assert stop.reached()
        with pytest.raises(Stopping):
            stop.end()
    assert stop.caught is signal.SIGTERM
    assert "SIGTERM: saving, then stopping" in capsys.readouterr().out


def test_an_evaluation_stops_between_two_batches(capsys):
    seen = []
    with stop_signals() as stop:
        assert list(stop.between("abc")) == ["a", "b", "c"]  # nothing to save yet
        stop.begin()
        with pytest.raises(Stopping):
            for item in stop.between("abc"):
                seen.append(item)
                if item == "b":
                    asked(stop, signal.SIGINT)
    assert seen == ["a", "b"]
    assert "SIGINT" in capsys.readouterr().out


def test_inside_another_program_an_idle_run_leaves_signals_to_it():
    before = signal.getsignal(signal.SIGINT)  # a shell has its background jobs ignore it
    with pytest.raises(KeyboardInterrupt), stop_signals() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)
    assert stop.caught is None
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("passed", [(3, 5, 4), (0, 0, 1), (7, 7, 7)])
def test_several_processes_stop_at_one_place_that_none_has_passed(monkeypatch, passed, capsys):
    """Each goes on from its own place, and stops at the one after the furthest."""
    told = {}
    monkeypatch.setattr("jaxdl.cluster.hosts.several", lambda: True)
    stops = [Stop() for _ in passed]
    for i, (stop, n) in enumerate(zip(stops, passed, strict=True)):
        stop.begin()
        assert not any(stop.reached() for _ in range(n))
        monkeypatch.setattr(
            "jaxdl.cluster.hosts.send", lambda name, value, i=i: told.update({i: value})
        )
        stop.asked(signal.SIGTERM)
    assert tuple(told.values()) == passed
    for stop, n in zip(stops, passed, strict=True):
        stop.settle(list(told.values()))
        answers = [stop.reached() for _ in range(max(passed) + 1 - n)]
        assert answers == [False] * (max(passed) - n) + [True]


def test_where_one_process_has_not_begun_all_end_at_once(monkeypatch):
    def end(status):
        raise SystemExit(status)

    monkeypatch.setattr("jaxdl.cluster.hosts.exit", end)
    stop = Stop()
    stop.begin()
    with pytest.raises(SystemExit) as ended:
        stop.settle([4, None, 5])
    assert ended.value.code == 75


def test_signals_at_any_moment_lose_nothing(tmp_path):
    chaos.finished(tmp_path / "whole")
    moments = [
        (chaos.during_start(0.5), signal.SIGTERM, {"start"}),
        (chaos.after_step(6), signal.SIGINT, {"step", "evaluation"}),
        (chaos.after_step(16), signal.SIGTERM, {"step", "evaluation"}),
    ]
    for moment, number, places in moments:
        outcome = chaos.interrupted(tmp_path / "run", 1, moment, number)
        assert (outcome.statuses, outcome.lost, outcome.errors) == ((75,), 0, "")
        assert outcome.place in places
        assert outcome.cpu < 4  # on the clock it depends on who else is at work
    chaos.finished(tmp_path / "run")
    assert chaos.digests(tmp_path / "run") == chaos.digests(tmp_path / "whole")
    assert chaos.journal(tmp_path / "run") == chaos.journal(tmp_path / "whole")
