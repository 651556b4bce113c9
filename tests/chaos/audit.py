"""What the program does besides computing: `import jaxdl` and every verb, under an audit hook.

    python -m tests.chaos audit [VERB ...]

No socket, no process, no pickle; what a library does by itself is in `KNOWN`, with its reason.
"""

import argparse
import collections
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]

# Runs in a process of its own, where nothing is imported before the hook is there.
CHILD = """
import json, sys, threading, traceback
events = ("socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn",
          "pty.", "pickle.", "urllib.", "http.", "ftplib.", "smtplib.", "webbrowser.", "_winapi.")
seen = []
def hook(event, args):
    if event.startswith(events):
        stack = traceback.extract_stack(sys._getframe(1))
        stack = [f for f in stack if "<string>" not in f.filename]
        frames = [f"{f.filename}:{f.lineno} {f.name}" for f in stack]
        seen.append([event, repr(args)[:200], frames])
sys.addaudithook(hook)
import jaxdl
status = []
for argv in json.loads(sys.argv[1]):
    from jaxdl.main import main
    try:
        status.append(main(argv))
    except SystemExit as stop:
        status.append(stop.code)
print("\\n@" + json.dumps([status, seen]))
"""


class Event(NamedTuple):
    """Something that a process did."""

    name: str
    args: str
    frames: list[str]
    """innermost last"""

    def __str__(self) -> str:
        short = [re.sub(r".*/(site-packages|lib/python[0-9.]+|main)/", "", f) for f in self.frames]
        return f"{self.name} {self.args[:80]} from " + " <- ".join(reversed(short[-12:]))


class Known(NamedTuple):
    """What a library does by itself, and why it may."""

    event: str
    by: str
    within: str
    reason: str

    def covers(self, event: Event) -> bool:
        """Whether an event is this one: by the file `by`, called from a file of `within`."""
        callers = " ".join(event.frames)
        return event.name == self.event and self.by in callers and self.within in callers


KNOWN = (
    Known(
        "socket.__new__", "asyncio/selector_events.py", "orbax",
        "Orbax writes by asyncio, whose loop wakes itself through a pair of sockets in the process",
    ),
    Known(
        "subprocess.Popen", "matplotlib/font_manager.py", "_load_fontmanager",
        "Matplotlib asks fc-list for the fonts of a machine, the first time that it is used there",
    ),
)  # fmt: skip

RUN = [
    "--config", "tiny.json", "--workdir", "run", "--config.duration=4 steps",
    "--config.checkpoint.every=2",
]  # fmt: skip
TINY = {
    "model": {"name": "resnet18", "args": {"width": 4, "stem": "cifar"}},
    "data": {"source": {"name": "fake", "args": {"size": [8, 8, 3], "examples": 32}},
             "batch_size": 8},
    "average": {"name": "ema", "args": {}},
}  # fmt: skip
"""A network whose weights have names elsewhere, so that they can be exported."""
CONFIG = ["--config", "tiny.json"]

VERBS: dict[str, list[list[str]]] = {
    "import": [],
    "train": [RUN, RUN],
    "--list": [["--list", "models", "resnet18"], ["--list", "sources"]],
    "--print-config": [[*CONFIG, "--print-config"]],
    "--help": [["--help"]],
    "evaluate": [["evaluate", "run"]],
    "export": [["export", "run", "weights.safetensors"]],
    "report": [["report", "run"]],
    "init_from": [["evaluate", *CONFIG, "--config.init_from=weights.safetensors"]],
    "summary": [["summary", "resnet18", "--image", "32x32x3"]],
    "plot-schedule": [["plot-schedule", *CONFIG, "--out", "rate.png"]],
    "find-lr": [["find-lr", *CONFIG, "--steps", "10", "--low", "1e-3", "--out", "lr.svg"]],
    "find-batch-size": [["find-batch-size", *CONFIG, "--largest", "16"]],
    "find-nan": [["find-nan", "run", "--steps", "1"]],
    "memory": [["memory", *CONFIG]],
    "trials": [["trials", *CONFIG, "--config.duration=1 steps", "--seeds", "1", "--workdir", "t"]],
    "bench": [["bench", "mlp", "--image", "8x8x3", "--batch-size", "2", "--repeats", "1"]],
    "profile": [["profile", *CONFIG, "--steps", "1"]],
    "probe": [["probe", "--quick"]],
    "scale": [["scale", *CONFIG]],
}
"""What is run of each verb, in a folder where the verbs before it were."""


def audited(commands: list[list[str]], folder: Path) -> tuple[list[int | None], list[Event], str]:
    """Exit statuses of commands in one process, what it did besides, and what it printed."""
    (folder / "tiny.json").write_text(json.dumps(TINY))
    home = {"HOME": str(folder), "XDG_CACHE_HOME": str(folder / "cache"), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(commands)],
        cwd=folder, text=True, capture_output=True,
        env={**os.environ, **home, "PYTHONPATH": str(ROOT), "JAX_COMPILATION_CACHE_DIR": ""},
    )  # fmt: skip
    said, _, found = done.stdout.rpartition("\n@")
    if done.returncode or not found:
        raise RuntimeError(f"{commands}: {done.stdout}\n{done.stderr}")
    status, events = json.loads(found)
    return status, [Event(*event) for event in events], said + done.stderr


def unknown(events: Sequence[Event]) -> list[Event]:
    """Those that no library is known for."""
    return [e for e in events if not any(known.covers(e) for known in KNOWN)]


def main(argv: list[str]) -> int:
    """The full form: a process for each verb."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos audit", description=__doc__)
    parser.add_argument("verbs", nargs="*", metavar="VERB", help="after those that they need")
    options = parser.parse_args(argv)
    failed = False
    with tempfile.TemporaryDirectory(prefix="jaxdl-audit-") as folder:
        for verb, commands in VERBS.items():
            if options.verbs and verb not in options.verbs:
                continue
            status, events, said = audited(commands, Path(folder))
            rest = unknown(events)
            known = len(events) - len(rest)
            print(f"{verb:<16} status {status}  known events {known}  others {len(rest)}")
            for event, count in collections.Counter(map(str, rest)).most_common():
                print(f"    {count} x {event}", flush=True)
            if any(status):
                print(said[-500:])
            failed |= bool(rest) or any(status)
    return int(failed)
