"""Several processes: who is missing is named, all agree, and a run is that of one process."""

import json
import signal
import subprocess
import sys
import threading
import time
import types

import chaos.signals as chaos
import hosts
import jax
import numpy as np
import pytest
from conftest import ROOT

from jaxdl.cluster.client import Client
from jaxdl.cluster.hosts import find_place
from jaxdl.data import pipeline
from jaxdl.data.sampler import train_indices
from jaxdl.data.source import Source
from jaxdl.errors import UserError
from jaxdl.main import main
from jaxdl.train.sharding import batch_sharding, make_mesh

# Meeting


def meet(*members, timeout=20.0):
    """What each of (process, processes, facts) is told: names, or the error."""
    port, answers = hosts.free_port(), [None] * len(members)

    def one(i, process, processes, facts):
        try:
            line = Client("127.0.0.1", port, process, processes, timeout)
            answers[i] = line.start(facts), line
        except UserError as error:
            answers[i] = str(error)

    threads = [threading.Thread(target=one, args=(i, *m)) for i, m in enumerate(members)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    return answers


def test_all_meet_and_know_what_all_gave():
    answers = meet(*[(i, 3, {"seed": 0}) for i in (2, 0, 1)])
    lines = {line.process: line for _, line in answers}
    assert [n.split(" (")[0] for n in answers[0][0]] == ["process 0", "process 1", "process 2"]
    found = [None] * 3

    def give(i):
        found[i] = [lines[i].gather("squares", i * i), lines[i].gather("name", f"p{i}")]
        lines[i].leave()

    threads = [threading.Thread(target=give, args=(i,)) for i in lines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert found == [[[0, 1, 4], ["p0", "p1", "p2"]]] * 3


def test_the_missing_are_named_within_the_timeout():
    clock = time.monotonic()
    answers = meet((0, 5, {}), (3, 5, {}), timeout=1.0)
    assert answers == ["processes 1, 2, 4 of 5 did not start within 1 s"] * 2
    assert time.monotonic() - clock < 10


def test_a_missing_process_0_is_named():
    (answer,) = meet((1, 2, {}), timeout=0.5)
    assert "process 0 cannot be reached at 127.0.0.1:" in answer and "within 0.5 s" in answer


def test_one_started_twice_is_surplus():
    answers = meet((0, 3, {}), (1, 3, {}), (1, 3, {}))
    assert len(set(answers)) == 1
    assert answers[0].startswith("one is surplus of process 1 (") and answers[0].count("pid") == 2


def test_one_that_was_told_of_more_processes_is_named():
    answers = meet((0, 2, {}), (1, 4, {}))
    assert set(answers) == {answers[0]}
    assert answers[0].endswith("was told of 4 processes, process 0 of 2")


def test_one_with_another_config_is_named():
    facts = {"config.seed": 0, "jax": "1"}
    answers = meet((0, 3, facts), (1, 3, facts), (2, 3, facts | {"config.seed": 7}))
    assert set(answers) == {answers[0]}
    assert "process 2 (" in answers[0] and answers[0].endswith("has config.seed 7, not 0")
    assert "process 1" not in answers[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("here", 2, 0), "--coordinator 'here' is not HOST:PORT"),
        (("here:99999", 2, 0), "is not HOST:PORT"),
        (("here:1234", 2, 2), "process 2 is surplus: there are 0 to 1"),
        ((None, None, None), "no cluster was found"),
        (("here:1234", None, None), "say --processes, --process"),
    ],
)
def test_a_place_that_makes_no_sense_is_said(arguments, said, monkeypatch):
    monkeypatch.delenv("JAX_COORDINATOR_ADDRESS", raising=False)
    with pytest.raises(UserError) as error:
        find_place(*arguments, timeout=1.0)
    assert said in str(error.value)


def test_a_place_in_a_cluster_is_found(monkeypatch):
    """What SLURM says to each task; the port is one that JAX makes from the number of the job."""
    said = {"JOB_ID": "12", "STEP_NODELIST": "gpu[03-06]", "NTASKS": "4", "PROCID": "2"}
    for name, value in (said | {"LOCALID": "0"}).items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.delenv("JAX_COORDINATOR_ADDRESS", raising=False)
    place = find_place(None, None, None, 1.0)
    assert (place.host, place.processes, place.process) == ("gpu03", 4, 2)
    assert place.port == 65535 - 2**12 + 1 + 12
    assert find_place("a:1234", None, None, 1.0) == ("a", 1234, 4, 2)


def test_the_command_says_who_is_missing_in_one_line(tmp_path):
    command = ["--config", "configs/cnn.py", "--start-timeout", "1", "--workdir", tmp_path / "run"]
    run = hosts.start([*command, *hosts.place(hosts.free_port(), 2, 0)])
    ((status, out, error),) = hosts.finish([run])
    assert (status, out) == (2, "")
    assert error == "error: process 1 of 2 did not start within 1 s\n"
    assert not (tmp_path / "run").exists()


def test_several_processes_need_one_workdir(capsys):
    assert main(["--config", str(ROOT / "configs/cnn.py"), *hosts.place(1234, 2, 0)]) == 2
    assert "need one --workdir that all of them see" in capsys.readouterr().err


# Parting. Programs without JAX, which would take seconds to start.

MEMBER = """
import sys, time
from jaxdl.cluster import client as clients
port, process, end = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
client = clients.Client("127.0.0.1", port, process, 3, 30)
if end == "is stopped":
    client.fail(75, "stopped before all had started")
client.start({})
if end == "hurries":
    clients.GRACE = 0.1
print("started", flush=True)
if end == "fails":
    client.fail(2, "no such data set")
if end == "leaves":
    client.leave()
    sys.exit()
time.sleep(60)
"""


def members(*ends, started=True):
    port = hosts.free_port()
    running = [
        subprocess.Popen(
            [sys.executable, "-c", MEMBER, str(port), str(i), end],
            cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for i, end in enumerate(ends)
    ]  # fmt: skip
    if started:
        assert {p.stdout.readline() for p in running} == {"started\n"}
    return running


@pytest.mark.parametrize("victim", [0, 2])
def test_a_process_that_is_gone_is_named_and_all_end(victim):
    running = members("waits", "waits", "waits")
    running[victim].kill()
    clock = time.monotonic()
    ended = hosts.finish(running, 30)
    assert time.monotonic() - clock < 10
    for i, (status, _, error) in enumerate(ended):
        if i != victim:
            assert status == 74 and error.startswith(f"error: process {victim}"), error
            assert "gone" in error and error.count("\n") == 1


@pytest.mark.parametrize("other", ["waits", "hurries"])
def test_a_process_that_fails_tells_the_others_why(other):
    ended = hosts.finish(members("waits", "fails", other), 60)
    assert [status for status, *_ in ended] == [2, 2, 2]
    assert ended[1][2] == ""  # it has said so itself
    for _, _, error in (ended[0], ended[2]):
        assert error.startswith("error: process 1 (") and error.endswith("no such data set\n")


def test_a_process_that_is_stopped_while_others_wait_for_more_ends_them():
    ended = hosts.finish(members("waits", "is stopped", started=False), 25)  # of three
    assert [(status, out) for status, out, _ in ended] == [(75, ""), (75, "")]
    assert "process 1 (" in ended[0][2] and "stopped before all had started" in ended[0][2]


def test_all_leave_together_without_a_word():
    assert {e[::2] for e in hosts.finish(members("leaves", "leaves", "leaves"), 30)} == {(0, "")}


# One order of data


class Numbers:
    """Records that are their own number."""

    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        return {"number": np.int32(index)}


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_any_hosts_and_readers_give_one_order(threads, monkeypatch):
    """A run on 2 hosts goes on in mid-epoch on 8, on 1 and on 4: each example once an epoch."""
    examples, batch_size, steps = 50, 16, 25  # eight epochs
    split = pipeline.open_split(lambda _: Source(Numbers(examples)), "all", memory=0)
    assert not split.in_memory
    whole = batch_sharding(make_mesh())
    monkeypatch.setattr(pipeline, "_put", lambda batch, size, sharding: batch)

    def host(i, hosts):
        """What the sharding is to host i of so many: it holds every so many-th device."""
        mine = set(jax.devices()[i::hosts])
        places = lambda shape: {
            d: at for d, at in whole.devices_indices_map(shape).items() if d in mine
        }
        return types.SimpleNamespace(
            addressable_devices_indices_map=places, device_set=mine, num_devices=8
        )

    found = np.full((steps, batch_size), -1)
    for hosts_now, start, stop in [(2, 0, 5), (8, 5, 11), (1, 11, 13), (4, 13, 25)]:
        supplied = []
        for i in range(hosts_now):
            place = host(i, hosts_now)
            rows = pipeline.local_rows(place, batch_size)
            batches = pipeline.train_batches(
                split, batch_size=batch_size, seed=3, start=start, stop=stop, sharding=place,
                threads=threads,
            )  # fmt: skip
            for t, batch in zip(range(start, stop), batches, strict=True):
                found[t, rows] = batch["number"]
            supplied.extend(rows)
        assert sorted(supplied) == list(range(batch_size))  # every row by one host
    for t in range(steps):
        np.testing.assert_array_equal(
            found[t], train_indices(3, t, n=examples, batch_size=batch_size)
        )
    epochs = np.sort(found.reshape(-1, examples), axis=1)
    np.testing.assert_array_equal(epochs, np.tile(np.arange(examples), (len(epochs), 1)))


# Real runs


def test_processes_come_and_go_and_the_run_is_that_of_one(tmp_path):
    """4 devices in 1 process, against 2 processes that are stopped, 1 that is, and 4 to the end."""
    changes = ["--config.data.evaluation_batch_size=100", "--config.evaluation.every=10"]
    common = {"devices": 4, "changes": [*changes, "--config.duration=30 steps"]}
    chaos.finished(tmp_path / "whole", 1, **common)
    run = tmp_path / "run"
    first = chaos.interrupted(run, 2, chaos.after_step(7), signal.SIGTERM, who=1, **common)
    assert (first.statuses, first.lost) == ((75, 75), 0), first.errors
    step = chaos.newest_saved(run)
    assert step >= 7
    second = chaos.interrupted(run, 1, chaos.after_step(step + 3), signal.SIGINT, **common)
    assert (second.statuses, second.lost) == ((75,), 0), second.errors
    assert chaos.newest_saved(run) >= step + 3
    chaos.finished(run, 4, **common)

    whole = tmp_path / "whole"
    lines, expected = chaos.journal(run), chaos.journal(whole)
    assert [sorted(line) for line in lines] == [sorted(line) for line in expected]
    values = lambda lines: np.array([x for line in lines for _, x in sorted(line.items())])
    np.testing.assert_allclose(values(lines), values(expected), rtol=1e-5, atol=1e-6)
    (run_weights, whole_weights) = (np.load(w / "predictions.npz") for w in (run, whole))
    np.testing.assert_array_equal(run_weights["prediction"], whole_weights["prediction"])
    np.testing.assert_allclose(
        run_weights["confidence"], whole_weights["confidence"], rtol=1e-5, atol=1e-6
    )
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["status"] == "finished" and manifest["hardware"]["processes"] == 4
    assert (run / "report.html").is_file()


def test_each_process_may_be_a_stage_of_a_pipeline(tmp_path):
    """2 processes of one device and half of the blocks, against 8 devices that take whole steps."""
    config = [
        "--config", ROOT / "configs/cnn.py", "--config.model=vit_tiny_patch16_224",
        "--config.model.patch_size=4", "--config.model.width=16", "--config.model.depth=2",
        "--config.model.heads=2", "--config.augment=[]", "--config.data.batch_size=32",
        "--config.gradient.accumulate=4", "--config.log.every=1", "--config.duration=2 steps",
    ]  # fmt: skip
    stages = ["--config.gradient.method=one_f_one_b", "--config.mesh.stage=2"]
    run, whole = tmp_path / "run", tmp_path / "whole"
    running = hosts.start_all([*config, *stages, "--workdir", run], 2, devices=1)
    assert main([*map(str, config), "--workdir", str(whole)]) == 0
    assert [status for status, *_ in hosts.finish(running)] == [0, 0]
    losses = lambda w: [x["train/loss"] for x in chaos.journal(w) if "train/loss" in x]
    assert len(losses(run)) == 2
    np.testing.assert_allclose(losses(run), losses(whole), rtol=1e-5)
