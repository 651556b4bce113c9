"""Stand-ins for gcloud, for TPU workers and for SLURM, which tpu/ is tested with.

`gcloud` writes down its calls, gives the answers it is told to, and runs what `ssh` is given in the
home directories of two workers, as gcloud does: split at spaces and joined again. So worker.sh is
the real one; only Python, pip and the program on the workers are stand-ins.

SLURM's do what SLURM 22.05 was seen to do: `sbatch` runs a copy of the script, `srun` kills its
processes when it gets TERM, and only `scancel --signal` asks them.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from conftest import ROOT

BASH = shutil.which("bash")

GCLOUD = """
import json, os, pathlib, shutil, signal, subprocess, sys
cloud, words = pathlib.Path(os.environ["CLOUD"]), sys.argv[1:]
with open(cloud / "calls", "a") as file:
    print(json.dumps(words), file=file)
verb = words[3]
failures = cloud / f"fail-{verb}"
if failures.exists() and int(failures.read_text()):
    failures.write_text(str(int(failures.read_text()) - 1))
    sys.exit("ERROR: the network is gone")
options = dict(word[2:].split("=", 1) for word in words if word.startswith("--") and "=" in word)
homes = [cloud / "worker0", cloud / "worker1"]
if verb == "list":
    state, *rest = (cloud / "states").read_text().split()
    (cloud / "states").write_text(" ".join(rest or [state]))
    print(state.replace("NONE", ""))
elif verb == "create":
    for home in homes:
        home.mkdir()
elif verb == "delete":
    for home in homes:
        if (home / "jaxdl/pid").exists():
            try:
                os.kill(int((home / "jaxdl/pid").read_text()), signal.SIGKILL)
            except ProcessLookupError:
                pass
        home.rename(cloud / f"gone-{os.getpid()}-{home.name}")
elif verb == "scp":
    for source in [word for word in words[4:] if not word.startswith("--")][:-1]:
        for home in homes:
            shutil.copy(source, home)
elif verb == "ssh":
    command = " ".join(options["command"].split(" "))
    chosen = homes if options["worker"] == "all" else [homes[int(options["worker"])]]
    private = os.environ.get("PRIVATE", "/nowhere")  # a path that is another folder on each worker
    runs = [
        subprocess.Popen(
            ["bash", "-c", command.replace(private, f"{home}/")],
            cwd=home,
            env={**os.environ, "HOME": str(home)},
        )
        for home in chosen
    ]
    sys.exit(max(run.wait() for run in runs))
"""

PYTHON3 = """
import os, pathlib, shutil, sys
if sys.argv[1:4] == ["-m", "uv", "venv"]:
    folder = pathlib.Path(sys.argv[-1], "bin")
    folder.mkdir(parents=True)
    shutil.copy(os.path.join(os.environ["CLOUD"], "program"), folder / "python")
"""

DF = """
import os
print("Type", os.environ.get("FILE_SYSTEM", "nfs4"), sep="\\n")
"""

# Ends with the status that is planned for this launch; 'run': works on until it is asked to save.
PROGRAM = """
import json, os, pathlib, signal, sys, time
cloud, home = pathlib.Path(os.environ["CLOUD"]), pathlib.Path(os.environ["HOME"]).name
if sys.argv[1] == "-c":
    sys.exit(None if sys.argv[3] == (cloud / "devices").read_text() else "error: jax has too few")
record = cloud / f"started-{home}"
n = len(record.read_text().splitlines()) if record.exists() else 0
plan = json.loads((cloud / "plan").read_text())[n]
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
with open(record, "a") as file:
    print(json.dumps([sys.argv[1:], os.environ.get("SETTING")]), file=file)
print("step 1", flush=True)
until = time.monotonic() + 60  # of a test that has failed nothing stays
while plan == "run" and time.monotonic() < until:
    time.sleep(0.01)
sys.exit(plan)
"""


def stand_in(path, text):
    path.write_text(f"#!{sys.executable} -SE\n{text}")
    path.chmod(0o755)


class Cloud:
    """Two workers, a checkout, and what gcloud was told."""

    def __init__(self, folder: Path):
        self.folder, self.checkout = folder, folder / "checkout"
        (folder / "bin").mkdir(parents=True)
        for name, text in {"gcloud": GCLOUD, "python3": PYTHON3, "df": DF}.items():
            stand_in(folder / "bin" / name, text)
        stand_in(folder / "program", PROGRAM)
        shutil.copytree(ROOT / "tpu", self.checkout / "tpu")
        subprocess.run(["git", "init", "-q"], cwd=self.checkout, check=True)
        self.commit("first")
        self.environment = {
            **os.environ, "PATH": f"{folder}/bin:{os.environ['PATH']}", "CLOUD": str(folder),
            "RETRY_SECONDS": "0", "TPU_NAME": "t", "ZONE": "z", "PROJECT": "p",
            "ACCELERATOR_TYPE": "v5litepod-16", "RUNTIME_VERSION": "",
        }  # fmt: skip
        self.devices("16")
        self.states("ACTIVE")

    def commit(self, message):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        for words in (["add", "."], [*identity, "commit", "-qm", message]):
            subprocess.run(["git", *words], cwd=self.checkout, check=True)

    def head(self, folder=None):
        words = ["git", "rev-parse", "HEAD"]
        return subprocess.check_output(words, cwd=folder or self.checkout, text=True)

    def states(self, *states):
        (self.folder / "states").write_text(" ".join(states))

    def plan(self, *plan):
        (self.folder / "plan").write_text(json.dumps(plan))

    def devices(self, n):
        (self.folder / "devices").write_text(n)

    def fail(self, verb, times):
        (self.folder / f"fail-{verb}").write_text(str(times))

    def __call__(self, script, *arguments, status=0, answer=""):
        done = subprocess.run(
            [BASH, str(self.checkout / "tpu" / f"{script}.sh"), *arguments],
            env=self.environment, input=answer, text=True, capture_output=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == status, done.stdout + done.stderr
        return done

    def calls(self):
        file = self.folder / "calls"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def story(self):
        """What was done, without the looking: verbs of gcloud, or of worker.sh where it is ssh."""
        verbs = [c[-1].split()[2] if c[3] == "ssh" else c[3] for c in self.calls()]
        return " ".join(verb for verb in verbs if verb not in ("list", "state"))

    def started(self, worker=0):
        file = self.folder / f"started-worker{worker}"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def set_up(self):
        for worker in (0, 1):
            (self.folder / f"worker{worker}").mkdir()
        self("setup")
        (self.folder / "calls").unlink()

    def wait_for(self, file, worker=0):
        file = self.folder / f"worker{worker}/jaxdl/{file}"
        until = time.monotonic() + 20
        while not file.exists() or not file.read_text():
            assert time.monotonic() < until, f"{file} is not written"
            time.sleep(0.02)
        return file.read_text().strip()


SBATCH = """
import argparse, os, pathlib, shutil, subprocess, sys
folder = pathlib.Path(os.environ["SLURM"])
known = argparse.ArgumentParser(allow_abbrev=False)
for name in ("job-name", "nodes", "output", "open-mode", "signal"):
    known.add_argument(f"--{name}")
for name in ("gpus-per-node", "ntasks-per-node", "cpus-per-task"):
    known.add_argument(f"--{name}")
known.add_argument("--requeue", action="store_true")
at = next(i for i, word in enumerate(sys.argv) if word.endswith(".sh"))
lines = pathlib.Path(sys.argv[at]).read_text().partition("set -")[0].splitlines()
given = [line.split()[1] for line in lines if line.startswith("#SBATCH ")]
job = known.parse_args(given + sys.argv[1:at])
(folder / "job").write_text(f"{job.requeue} {job.open_mode} {job.signal}")
spooled = shutil.copy(sys.argv[at], folder / "slurm_script")
os.environ.update(SLURM_JOB_ID="7", SLURM_NTASKS_PER_NODE=job.ntasks_per_node)
os.environ.update(SLURM_GPUS_ON_NODE=job.gpus_per_node)
if job.cpus_per_task:
    os.environ.update(SLURM_CPUS_PER_TASK=job.cpus_per_task)
os.execvp("bash", ["bash", spooled, *sys.argv[at + 1:]])
"""

SRUN = """
import json, os, pathlib, sys, time
folder, told = pathlib.Path(os.environ["SLURM"]), os.environ
keys = ["JAX_LOCAL_DEVICE_IDS", "SRUN_CPUS_PER_TASK"]
line = json.dumps(["srun", *sys.argv[1:], {key: told[key] for key in keys if key in told}])
with open(folder / "calls", "a") as file:
    print(line, file=file)
until = time.monotonic() + 60
while told["STEP"] == "run" and time.monotonic() < until:
    time.sleep(0.01)
    if (folder / "asked").exists():
        time.sleep(0.3)
        sys.exit(75)
sys.exit(int(told["STEP"]))
"""

SCONTROL = """
import json, os, pathlib, sys
folder, words = pathlib.Path(os.environ["SLURM"]), [os.path.basename(sys.argv[0]), *sys.argv[1:]]
with open(folder / "calls", "a") as file:
    print(json.dumps(words), file=file)
if words[:2] == ["scancel", "--signal=TERM"]:
    (folder / "asked").touch()
"""


class Slurm:
    """A cluster that runs one job at once, and what it was told."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "bin").mkdir(parents=True)
        tools = {"sbatch": SBATCH, "srun": SRUN, "scontrol": SCONTROL, "scancel": SCONTROL}
        for name, text in tools.items():
            stand_in(folder / "bin" / name, text)
        outside = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "JAX_LOCAL"))}
        path = f"{folder}/bin:{os.environ['PATH']}"
        self.environment = {**outside, "PATH": path, "SLURM": str(folder)}

    def submit(self, *words, step="0", **environment):
        return subprocess.Popen(
            ["sbatch", *words], cwd=ROOT, env={**self.environment, "STEP": step, **environment},
            text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def calls(self):
        file = self.folder / "calls"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
