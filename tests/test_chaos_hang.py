"""What hangs is said, with the stacks of all threads, and ends with status 74."""

import signal
import subprocess
import sys
import time

from chaos import hang as chaos
from conftest import ROOT

# A program that waits for ever; without JAX, which would take seconds to start.
WAITS = """
import sys, threading, time
from jaxdl.cluster.watchdog import watchdog

def reads_nothing_any_more():
    threading.Event().wait()

seconds, beats = float(sys.argv[1]), int(sys.argv[2])
with watchdog(seconds, "process 1") as beat:
    time.sleep(2 * seconds if beats else 0)  # not before the first beat
    for _ in range(beats):
        beat()
        time.sleep(seconds / 2)
    print("done", flush=True)
    if sys.argv[3] == "hang":
        threading.Thread(target=reads_nothing_any_more, daemon=True).start()
        time.sleep(60)
"""


def program(*arguments):
    return subprocess.Popen(
        [sys.executable, "-c", WAITS, *arguments],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_a_hang_shows_all_threads_and_ends_the_program():
    run = program("1", "3", "hang")
    out, error = run.communicate(timeout=60)
    assert (run.returncode, out) == (74, "done\n")
    assert error.startswith("error: nothing has moved for 1 s (config.watchdog_seconds)")
    assert "process 1" in error and "reads_nothing_any_more" in error
    assert error.count("most recent call first") >= 3  # the main thread, the reader, the watchdog


def test_what_moves_is_left_alone():
    run = program("1", "4", "end")
    assert (*run.communicate(timeout=60), run.returncode) == ("done\n", "", 0)


def test_a_program_that_was_stopped_and_continued_does_not_hang():
    run = program("2", "3", "end")
    time.sleep(1)
    run.send_signal(signal.SIGSTOP)
    time.sleep(4)
    run.send_signal(signal.SIGCONT)
    assert (*run.communicate(timeout=60), run.returncode) == ("done\n", "", 0)


def test_a_reader_that_is_blocked_ends_the_run_and_the_next_start_goes_on(tmp_path):
    outcome = chaos.blocked_reader(tmp_path, watchdog_seconds=10)
    (said,) = outcome.said
    assert outcome.statuses == (74,), said
    assert "wait_for_a_file_system_that_is_away" in said and "jaxdl/train/loop.py" in said


def test_a_process_waits_for_one_that_was_stopped_no_longer_than_it_may(tmp_path):
    outcome = chaos.silenced(tmp_path, 1, signal.SIGSTOP, watchdog_seconds=20)
    assert outcome.statuses == (74,) and "nothing has moved for 20 s" in outcome.said[0]
    assert "fetch" in outcome.said[0] or "train/loop.py" in outcome.said[0]  # where it waits
