"""tpu/: what the launchers tell gcloud and SLURM, and what happens on the workers.

The stand-ins of launchers.py come first in PATH; worker.sh is the real one.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT
from launchers import BASH, Cloud, Slurm

NEEDED = ("bash", "flock", "git", "setsid")
pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or not all(map(shutil.which, NEEDED)),
    reason=f"needs Linux and {', '.join(NEEDED)}",
)

SCRIPTS = ["create", "setup", "launch", "logs", "resume", "delete"]


@pytest.fixture
def cloud(tmp_path):
    cloud = Cloud(tmp_path / "cloud")
    yield cloud
    for pid in cloud.folder.glob("worker*/jaxdl/pid"):
        try:
            os.kill(int(pid.read_text()), signal.SIGKILL)
        except ProcessLookupError:
            continue


def test_shellcheck():
    found = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if not found:
        pytest.skip("shellcheck is not installed")
    files = sorted(f"tpu/{f.name}" for f in (ROOT / "tpu").glob("*.sh"))
    assert {f"tpu/{name}.sh" for name in [*SCRIPTS, "common", "slurm", "worker"]} == set(files)
    done = subprocess.run([found, "-x", *files], cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_names_every_option(cloud, script):
    said = cloud(script, "--help").stdout
    text = (ROOT / "tpu" / f"{script}.sh").read_text().replace("\\\n", "")
    flags, options = re.search(r"^parse '([^']*)'\s+'([^']*)'", text, re.M).groups()
    elsewhere = cloud("create", "--help").stdout + cloud("launch", "--help").stdout
    for option in [*flags.split(), *options.split(), "name", "zone", "project", "dry-run"]:
        assert f"--{option}" in said + (elsewhere if script == "resume" else "")
    assert cloud.calls() == []


def test_mistakes_are_named(cloud):
    for words, said in [
        (["create", "--spto"], "unknown option '--spto'"),
        (["create", "--spot=no"], "unknown option '--spot=no'"),
        (["create", "v2-8"], "unknown option 'v2-8'"),
        (["create", "--zone"], "--zone needs a value"),
        (["create", "--name", ""], "say which TPU"),
        (["create", "--accelerator-type", "v9-8"], "unknown type 'v9-8'"),
        (["setup", "--accelerator-type="], "say of which type"),
        (["launch", "--workdir", "gs://bucket/run"], "mount a bucket with gcsfuse"),
    ]:
        assert said in cloud(*words, status=2).stderr
    assert cloud.calls() == []


WHERE = ["--zone=z", "--quiet", "--project=p"]


def test_create_asks_for_one_node_of_the_same_name(cloud):
    cloud("create", "--spot", "--gcloud-flag", "--network=a b", "--gcloud-flag=--internal-ips")
    assert cloud.calls() == [[
        "compute", "tpus", "queued-resources", "create", "t", "--node-id=t", *WHERE,
        "--accelerator-type=v5litepod-16", "--runtime-version=v2-alpha-tpuv5-lite",
        "--network=a b", "--internal-ips", "--spot",
    ]]  # fmt: skip


# Cores and chips: docs.cloud.google.com/tpu/docs/v2, v3, v4, v5p, v5e, v6e; images: /runtimes.
@pytest.mark.parametrize(
    ("kind", "image", "devices"),
    [
        ("v2-8", "tpu-ubuntu2204-base", 8),
        ("v3-32", "tpu-ubuntu2204-base", 32),
        ("v4-32", "tpu-ubuntu2204-base", 16),
        ("v5p-12288", "v2-alpha-tpuv5", 6144),
        ("v5litepod-16", "v2-alpha-tpuv5-lite", 16),
        ("v6e-8", "v2-alpha-tpuv6e", 8),
    ],
)
def test_a_type_has_its_image_and_its_devices(cloud, kind, image, devices):
    said = cloud("create", "--dry-run", "--accelerator-type", kind).stdout
    assert f"--runtime-version={image}\n" in said
    said = cloud("setup", "--dry-run", "--accelerator-type", kind).stdout
    assert f"bash worker.sh devices {devices}'\n" in said


def test_create_waits_until_it_is_there_or_will_not_be(cloud):
    cloud.states("WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE")
    cloud("create", "--wait", "--poll=0")
    assert [c[3] for c in cloud.calls()] == ["create", "list", "list", "list"]
    assert cloud.calls()[1] == [
        "compute", "tpus", "queued-resources", "list", *WHERE,
        "--filter=name~/queuedResources/t$", "--format=value(state.state)",
    ]  # fmt: skip
    shutil.rmtree(cloud.folder / "worker0"), shutil.rmtree(cloud.folder / "worker1")
    cloud.states("PROVISIONING", "FAILED")
    cloud("create", "--wait", "--poll=0", status=1)


def test_a_question_is_asked_three_times(cloud):
    cloud.fail("list", 2)
    cloud("delete", "--yes", "--dry-run")
    assert cloud.calls() == []
    cloud.states("NONE")
    assert "there is no TPU t in z" in cloud("delete").stderr
    assert len(cloud.calls()) == 3
    cloud.fail("list", 3)
    cloud("delete", "--yes", status=1)
    assert {c[3] for c in cloud.calls()} == {"list"}


def test_dry_runs_print_every_command_and_run_none(cloud):
    words = ["--workdir", "/w w", "--env", "A=it's", "--", "--config", "c:a,1"]
    said = "".join(
        cloud(script, "--dry-run", *rest).stdout
        for script, *rest in (
            ["create", "--wait"], ["setup"], ["launch", *words], ["logs"], ["delete"],
            ["resume", "--spot", *words],
        )
    )  # fmt: skip
    assert cloud.calls() == [] and not list(cloud.folder.glob("worker*"))
    ssh, qr = "gcloud compute tpus tpu-vm ssh t", "gcloud compute tpus queued-resources"
    assert f"{qr} create t --node-id=t {' '.join(WHERE)}" in said
    assert f"{ssh} {' '.join(WHERE)} --worker=0 '--command=bash worker.sh logs 100'" in said
    # What a shell makes of the printed line is what gcloud would have been given.
    line = next(line for line in said.splitlines() if "worker.sh start" in line)
    cloud.fail("ssh", 1)
    subprocess.run([BASH, "-c", line], env=cloud.environment, stderr=subprocess.DEVNULL)
    command = cloud.calls()[0][-1].removeprefix("--command=")
    told = subprocess.run([BASH, "-c", f"printf '%s\\n' {command}"], text=True, capture_output=True)
    assert told.stdout.splitlines()[3:] == [
        "A=it's", "--", "--config", "c:a,1", "--workdir", "/w w",
    ]  # fmt: skip
    after = said.splitlines()[-9:]
    kinds = [
        re.search(r"(bundle|list|delete|create|scp|worker.sh \w+(?=[ ']))", x)[1] for x in after
    ]
    assert kinds == [
        "delete", "create", "bundle", "scp", "worker.sh install", "worker.sh devices",
        "worker.sh mark", "worker.sh check", "worker.sh start",
    ]  # fmt: skip


def test_setup_installs_the_commit_and_counts_the_devices(cloud):
    (cloud.folder / "worker0").mkdir(), (cloud.folder / "worker1").mkdir()
    cloud.fail("scp", 2)
    (cloud.checkout / "new").touch()
    assert "not committed is not installed" in cloud("setup").stderr
    assert cloud.story() == "scp scp scp install devices"
    homes = [cloud.folder / f"worker{worker}" for worker in (0, 1)]
    first = cloud.head()
    assert [cloud.head(home / "jaxdl/code") for home in homes] == [first, first]
    cloud.commit("second")
    cloud("setup")
    assert [cloud.head(home / "jaxdl/code") for home in homes] == [cloud.head()] * 2 != [first] * 2
    cloud.devices("8")
    assert "jax has too few" in cloud("setup", status=1).stderr


def test_launch_hands_every_argument_on_as_it_is(cloud, tmp_path):
    cloud.set_up()
    cloud.plan(0)
    strange = ["--config", "a b.py:x,1", '--config.note=it\'s "$HOME"  `id` \\ *;&|#', ""]
    workdir = str(tmp_path / "my runs")
    cloud("launch", "--workdir", workdir, "--env", "SETTING=a  'b'", "--", *strange)
    for worker in (0, 1):
        assert cloud.wait_for("status", worker) == "0"
        told = [["-m", "jaxdl.main", "--distributed", *strange, "--workdir", workdir], "a  'b'"]
        assert cloud.started(worker) == [told]
    assert cloud.story() == "mark check start"


def test_a_second_launch_starts_nothing_beside_a_running_one(cloud, tmp_path):
    cloud.set_up()
    cloud.plan("run", 0)
    command = ["launch", "--workdir", str(tmp_path / "run"), "--", "--config", "c"]
    cloud(*command)
    pid = cloud.wait_for("pid")
    assert "at work already" in cloud(*command, status=1).stderr
    assert cloud.story() == "mark check start mark check"
    # Nor do two that both found the place free.
    home = cloud.folder / "worker0"
    start = [BASH, "worker.sh", "start", "--", "--config", "c"]
    late = subprocess.run(start, cwd=home, env={**cloud.environment, "HOME": str(home)})
    assert late.returncode == 1
    assert "at work already" in cloud("setup", status=1).stderr
    assert len(cloud.started()) == 1 and cloud.wait_for("pid") == pid
    os.kill(int(pid), signal.SIGTERM)
    assert cloud.wait_for("status") == "75"


def test_workers_must_see_one_workdir_that_outlives_them(cloud, tmp_path):
    cloud.set_up()
    cloud.environment["PRIVATE"] = "/mnt/disk"
    said = cloud("launch", "--workdir", "/mnt/disk/run", "--", status=1).stderr
    assert said.count("does not see what worker 0 wrote into") == 1
    cloud.environment.update(PRIVATE="/nowhere", FILE_SYSTEM="ext4")
    words = ["launch", "--workdir", str(tmp_path)]
    assert "is on this worker's own disk" in cloud(*words, "--", status=1).stderr
    assert cloud.started(0) == cloud.started(1) == []
    cloud.plan(0)
    cloud(*words, "--allow-local", "--")
    assert cloud.wait_for("status", 0) == cloud.wait_for("status", 1) == "0"


def test_logs_follow_until_the_run_ends(cloud, tmp_path):
    cloud.set_up()
    cloud.plan("run")
    cloud("launch", "--workdir", str(tmp_path / "run"), "--")
    words = [BASH, str(cloud.checkout / "tpu/logs.sh")]
    logs = subprocess.Popen(words, env=cloud.environment, stdout=subprocess.PIPE, text=True)
    assert "starts:" in logs.stdout.readline() and logs.stdout.readline() == "step 1\n"
    assert logs.poll() is None
    os.kill(int(cloud.wait_for("pid")), signal.SIGTERM)
    logs.communicate(timeout=20)
    assert logs.returncode == 0
    cloud.wait_for("status")
    assert cloud("logs", "--lines=1").stdout == "exit status 75\n"


RUN = ["--poll=0.05", "--spot", "--workdir"]


def test_resume_goes_from_nothing_to_the_end(cloud, tmp_path):
    cloud.states("NONE", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE")
    cloud.plan(0)
    cloud("resume", *RUN, str(tmp_path), "--", "--config", "a b")
    assert cloud.story() == "create scp install devices mark check start"


def test_resume_after_preemption_begins_anew_with_the_same_words(cloud, tmp_path):
    (cloud.folder / "worker0").mkdir(), (cloud.folder / "worker1").mkdir()
    cloud.states("ACTIVE", "ACTIVE", "SUSPENDING", "SUSPENDED", "PROVISIONING", "ACTIVE")
    cloud.plan("run", 0)
    cloud("resume", *RUN, str(tmp_path), "--attempts=1", "--", "--config", "a b")
    once = "scp install devices mark check start"
    assert cloud.story() == f"{once} delete create {once}"
    gone, came = [next(c for c in cloud.calls() if c[3] == verb) for verb in ("delete", "create")]
    assert gone[2:] == ["queued-resources", "delete", "t", *WHERE, "--force"]
    assert came[-1] == "--spot"
    for worker in (0, 1):
        first, second = cloud.started(worker)
        assert first == second and first[0][-2:] == ["--workdir", str(tmp_path)]


@pytest.mark.parametrize(
    ("plan", "attempts", "status"),
    [
        ([75, 75, 0], 1, 0),  # stopped and saved: no failure
        ([74, 0], 2, 0),  # a hang is one
        ([134, 137], 2, 75),  # lost a peer, then killed: one too many
        ([75, 3], 1, 3),  # diverged
        ([2], 9, 2),  # a mistake
    ],
)
def test_resume_acts_on_the_exit_status(cloud, tmp_path, plan, attempts, status):
    cloud.set_up()
    cloud.plan(*plan)
    cloud("resume", *RUN, str(tmp_path), f"--attempts={attempts}", "--", status=status)
    assert len(cloud.started(0)) == len(cloud.started(1)) == len(plan)
    assert cloud.story() == " ".join(["mark check start"] * len(plan))


def test_resume_gives_up_and_keeps_its_hands_off_other_runs(cloud, tmp_path):
    cloud.states("FAILED")
    (cloud.folder / "worker0").mkdir(), (cloud.folder / "worker1").mkdir()
    cloud("resume", *RUN, str(tmp_path), "--attempts=2", "--", status=75)
    assert cloud.story() == "delete create"
    cloud.states("ACTIVE")
    cloud("setup")
    cloud.plan("run")
    cloud("launch", "--workdir", str(tmp_path), "--", "--config", "theirs")
    said = cloud("resume", *RUN, str(tmp_path), "--", "--config", "mine", status=2).stderr
    assert "another run is at work on t" in said and len(cloud.started()) == 1


def test_delete_asks_and_lets_the_run_save(cloud, tmp_path):
    cloud.set_up()
    cloud.plan("run")
    cloud("launch", "--workdir", str(tmp_path), "--")
    cloud.wait_for("pid")
    for answer in ("", "n\n", "ok\n"):
        cloud("delete", status=1, answer=answer)
    assert cloud.story() == "mark check start"
    cloud.fail("delete", 1)  # so that the homes are there to be looked at
    cloud("delete", status=1, answer="y\n")
    assert cloud.wait_for("status", 0) == cloud.wait_for("status", 1) == "75"
    cloud("delete", "--yes")
    assert cloud.story() == "mark check start stop delete stop delete"
    assert not (cloud.folder / "worker0").exists()


@pytest.fixture
def slurm(tmp_path):
    return Slurm(tmp_path / "slurm")


ARGUMENTS = ["--config", "c.py:a,1", '--config.note=it\'s "$HOME"  x', "--workdir", "/w w"]
STEP = ["srun", "--kill-on-bad-exit=0", "--wait=600", "python", "-m", "jaxdl.main", "--distributed"]
AGAIN = ["scontrol", "requeue", "Incomplete", "7"]


@pytest.mark.parametrize(
    ("step", "restarts", "requeued"),
    [
        ("0", 0, False), ("2", 0, False), ("3", 0, False), ("1", 0, False), ("139", 0, False),
        ("75", 0, True), ("75", 500, True),  # stopped and saved: as often as it takes
        ("74", 0, True), ("134", 1, True), ("137", 1, True), ("143", 1, True), ("74", 2, False),
    ],
)  # fmt: skip
def test_slurm_queues_again_what_can_go_on(slurm, step, restarts, requeued):
    counts = {"SLURM_RESTART_COUNT": str(restarts), "MAX_RESTARTS": "2"}
    job = slurm.submit("tpu/slurm.sh", *ARGUMENTS, step=step, **counts)
    said = job.communicate(timeout=30)[0]
    assert job.returncode == int(step) and f"restart {restarts}: exit status {step}" in said
    first = [*STEP, *ARGUMENTS, {"JAX_LOCAL_DEVICE_IDS": "0"}]
    assert slurm.calls() == [first, *[AGAIN] * requeued]
    assert (slurm.folder / "job").read_text() == "True append B:USR1@120"


@pytest.mark.parametrize(
    ("tasks", "environment", "status"),
    [
        ("8", {"SRUN_CPUS_PER_TASK": "6"}, 0),  # a process a GPU: jax's own choice
        ("1", {"JAX_LOCAL_DEVICE_IDS": "0,1,2,3,4,5,6,7", "SRUN_CPUS_PER_TASK": "6"}, 0),
        ("4", None, 2),
    ],
)
def test_slurm_every_gpu_has_one_process(slurm, tasks, environment, status):
    sizes = ["--gpus-per-node=8", f"--ntasks-per-node={tasks}", "--cpus-per-task=6"]
    job = slurm.submit(*sizes, "tpu/slurm.sh", "--config", "c")
    error = job.communicate(timeout=30)[1]
    assert job.returncode == status
    assert slurm.calls() == ([[*STEP, "--config", "c", environment]] if environment else [])
    assert ("4 processes on the 8 GPUs of a node: --ntasks-per-node is 8 or 1" in error) == bool(
        status
    )


def test_slurm_asks_the_program_once_before_the_time_limit(slurm):
    job = slurm.submit("tpu/slurm.sh", "--config", "c", step="run")
    until = time.monotonic() + 20
    while not slurm.calls():
        assert time.monotonic() < until and job.poll() is None
        time.sleep(0.02)
    job.send_signal(signal.SIGTERM)  # as with a preemption, which asks the program itself
    time.sleep(0.2)
    assert job.poll() is None and len(slurm.calls()) == 1
    job.send_signal(signal.SIGUSR1)
    job.communicate(timeout=30)
    assert job.returncode == 75
    assert slurm.calls()[1:] == [["scancel", "--signal=TERM", "7"], AGAIN]


def test_slurm_dry_run_and_help(slurm):
    script, kept = [BASH, "tpu/slurm.sh"], {"env": slurm.environment, "cwd": ROOT, "text": True}
    said = subprocess.run([*script, "--dry-run", *ARGUMENTS], capture_output=True, **kept).stdout
    words = subprocess.run(
        [BASH, "-c", f"printf '%s\\n' {said.splitlines()[0]}"], capture_output=True, **kept
    ).stdout
    assert words.splitlines() == [*STEP, *ARGUMENTS]
    assert said.splitlines()[1].startswith("scontrol requeue Incomplete JOB")
    for words in (["--help"], []):
        said = subprocess.run([*script, *words], capture_output=True, check=True, **kept).stdout
        assert "sbatch --nodes=2" in said
    assert slurm.calls() == []
