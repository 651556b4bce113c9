"""The program opens no socket, starts no process and reads no pickle."""

import pytest
from chaos.audit import VERBS, Event, audited, unknown


def test_importing_and_the_verbs_of_a_run_do_nothing_else(tmp_path):
    commands = [VERBS["train"][0], *VERBS["evaluate"], *VERBS["report"], *VERBS["--list"]]
    status, events, said = audited(commands, tmp_path)
    assert status == [0] * len(commands), said
    rest = unknown(events)
    assert not rest, str(rest[0])


OWN = """
import os, pickle, socket, subprocess
from jaxdl.registry import register

os.system("true")
subprocess.run(["true"])
socket.socket().close()
pickle.loads(b"cbuiltins\\nlen\\n.")
"""


def test_what_is_looked_for_is_seen(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    _, events, _ = audited([["--import", "own.py", "--list", "sources", "fake"]], tmp_path)
    names = {event.name for event in unknown(events)}
    assert {"os.system", "subprocess.Popen", "socket.__new__", "pickle.find_class"} <= names


@pytest.mark.parametrize("event", ["subprocess.Popen", "os.system", "pickle.find_class"])
def test_a_known_library_may_do_only_what_is_known_of_it(event):
    frames = ["orbax/checkpoint.py:1 save", "asyncio/selector_events.py:1 _make_self_pipe"]
    assert unknown([Event(event, "", frames)])
    assert not unknown([Event("socket.__new__", "", frames)])
