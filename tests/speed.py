"""Time to start and work of the host: `python -m tests.speed [wall] NAME [ARGUMENT...]`.

    imports                 `import jaxdl` beside `import jax, flax, optax`
    init [MODEL]            the first state beside Flax's own initialiser under `jit`
    first [FLAG...]         from the command to its first step, by phase, without and with a cache
    plain                   the same, cold, of a program in plain Flax
    loop                    steps of the whole loop beside those of the compiled step alone
    dispatch                several steps a call beside one, on digits
    guard                   what the norms and the check for finite gradients cost in a step
    input                   images a second that come out of the input pipeline

Figures are CPU seconds of the whole process, all its threads counted, on one core: wall clock says
little on a machine that others use. With `wall` they are seconds on the wall, of all cores. What is
compared takes turns, and a ratio is the median of those of each turn.
"""

import contextlib
import dataclasses
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxdl.cluster.allocator import keep_memory

ROOT = Path(__file__).parents[1]
CLOCK = "process_time"

PHASES = """
import contextlib, io, json, os, sys, time
from unittest import mock
clock = getattr(time, os.environ["CLOCK"])
marks = [("python", clock())]
mark = lambda name: marks.append((name, clock()))
class Reached(BaseException): pass
from jaxdl import main, run
import jax
mark("import")
def told(name, call):
    def inner(*args, **kwargs):
        result = call(*args, **kwargs)
        mark(name)
        return result
    return inner
def first(hooks, t, state, metrics):
    jax.block_until_ready((state, metrics))
    mark("step")
    raise Reached
for owner, name, label in [
    (run, "assemble", "assemble"), (run.Session, "start", "state"), (run, "_compiled", "compile")
]:
    mock.patch.object(owner, name, told(label, getattr(owner, name))).start()
mock.patch.object(run, "run_hooks", first).start()
with contextlib.suppress(Reached), contextlib.redirect_stdout(io.StringIO()):
    main.main(sys.argv[1:])
spent = {name: now - before for (_, before), (name, now) in zip(marks, marks[1:])}
spent["total"] = marks[-1][1] - marks[0][1] * (clock is time.perf_counter)
print(json.dumps(spent), flush=True)
"""


def in_turn(
    columns: Mapping[str, Callable[[], Any]], repeats: int, clock: Callable | None = None
) -> dict[str, list[float]]:
    """Seconds of each column, one a repeat."""
    clock = clock or getattr(time, CLOCK)
    spent: dict[str, list[float]] = {name: [] for name in columns}
    for _ in range(repeats):
        for name, run in columns.items():
            begun = clock()
            run()
            spent[name].append(clock() - begun)
    return spent


def ratio(a: list[float], b: list[float]) -> float:
    """Median of a / b over the repeats."""
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


def table(spent: Mapping[str, list[float]], per: float = 1.0, unit: str = "s") -> None:
    """A line a column, with its ratio to the first one."""
    scale = {"s": 1.0, "ms": 1e3}[unit] / per
    first = next(iter(spent.values()))
    for name, own in spent.items():
        middle = statistics.median(own) * scale
        low, high = min(own) * scale, max(own) * scale
        print(
            f"  {name:<34} {middle:8.3f} {unit} ({low:.3f} to {high:.3f})  {ratio(own, first):.3f}"
        )


def children() -> float:
    """CPU seconds of the processes that have ended, or the time of day."""
    if CLOCK != "process_time":
        return time.perf_counter()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def python(code: str, *arguments: str, **environment: str) -> str:
    """What a fresh interpreter prints."""
    command = [sys.executable, "-c", code, *arguments]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "CLOCK": CLOCK, **environment}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if run.returncode:
        raise SystemExit(run.stderr)
    return run.stdout


def imports(repeats: int = 9) -> dict[str, list[float]]:
    """Of the package alone, of what it is made of, and of all that training imports."""
    codes = {name: f"import {name}" for name in ("jax, flax, optax", "jaxdl", "jaxdl.run")}
    return in_turn({n: lambda c=c: python(c) for n, c in codes.items()}, repeats, children)


STATE = """
import os, sys, time, jax, jax.numpy as jnp
from jaxdl.assemble import assemble
from jaxdl.config import Part
from jaxdl.perf.bench import config_of
from jaxdl.train.state import init_state
from jaxdl.cluster.allocator import keep_memory
keep_memory()
how, name = sys.argv[1:]
plan = assemble(config_of(Part(name), 32, (64, 64, 3), "float32"))
clock = getattr(time, os.environ["CLOCK"])
begun = clock()
if how == "ours":
    made = init_state(*plan.first(0))
else:
    image = {"image": jnp.zeros((1, 64, 64, 3))}
    made = jax.jit(lambda key: plan.objective.init(key, image))(jax.random.key(0))
jax.block_until_ready(made)
print(clock() - begun)
"""


def init(model: str = "resnet50", repeats: int = 3) -> dict[str, list[float]]:
    """The whole first state with the optimizer's part, beside parameters and statistics by Flax."""
    spent: dict[str, list[float]] = {"flax, jit(init)": [], "jaxdl, init_state": []}
    for _ in range(repeats):
        for name, own in spent.items():
            own.append(float(python(STATE, name.split(",")[0].replace("jaxdl", "ours"), model)))
    return spent


PLAIN = """
import json, os, sys, time
clock = getattr(time, os.environ["CLOCK"])
begun = clock() * (clock is time.perf_counter)
import jax, jax.numpy as jnp, optax
from jaxdl import models
from jaxdl.nn import conv
model = models.create("resnet50", 1000)
image, label = jnp.zeros((32, 64, 64, 3)), jnp.arange(32)
tx = optax.sgd(0.1, momentum=0.9)
with conv.target("tpu"):
    weights = jax.jit(lambda key: model.init(key, image))(jax.random.key(0))
    opt_state = jax.jit(tx.init)(weights["params"])
    def loss(params, stats):
        logits, new = model.apply(
            {"params": params, "batch_stats": stats}, image, train=True, mutable=["batch_stats"],
        )
        return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean(), new
    @jax.jit
    def step(weights, opt_state):
        grads, new = jax.grad(loss, has_aux=True)(weights["params"], weights["batch_stats"])
        updates, opt_state = tx.update(grads, opt_state)
        return {"params": optax.apply_updates(weights["params"], updates), **new}, opt_state
    jax.block_until_ready(step(weights, opt_state))
print(json.dumps({"total": clock() - begun}))
"""
RESNET50 = (
    "--config", "configs/resnet.py", "--config.model=resnet50", "--config.data.source=fake",
    "--config.data.source.size=[64,64,3]", "--config.data.batch_size=32",
    "--config.data.source.num_classes=1000", "--config.augment=[]",
)  # fmt: skip


def plain(repeats: int = 1) -> dict[str, list[float]]:
    """A program in plain Flax, from its start to its first step of ResNet-50, nothing cached."""
    said = [json.loads(python(PLAIN))["total"] for _ in range(int(repeats))]
    return {"ResNet-50, 64x64, batch 32": said}


def first(*arguments: str, cold: int = 1, warm: int = 3) -> dict[str, list[dict[str, float]]]:
    """Seconds of each phase of the command, until its first step is done."""
    with tempfile.TemporaryDirectory() as folder:
        found: dict[str, list[dict[str, float]]] = {"cold": [], "warm": []}
        for i in range(cold + warm):
            if i < cold:
                shutil.rmtree(f"{folder}/cache", ignore_errors=True)
            workdir = ("--workdir", f"{folder}/run{i}")
            said = python(PHASES, *arguments, *workdir, XDG_CACHE_HOME=f"{folder}/cache")
            found["cold" if i < cold else "warm"].append(json.loads(said))
    return found


@contextlib.contextmanager
def loop_of(config: Any) -> Iterator[tuple[Callable[[int], None], Callable[[int], None]]]:
    """Two functions of a number of calls: the loop of a run, and its compiled program alone."""
    import jax

    from jaxdl import run
    from jaxdl.assemble import assemble
    from jaxdl.session import Session, first_state
    from jaxdl.train.loop import fit, piecewise, run_hooks
    from jaxdl.train.step import compile_step

    plan = assemble(config)
    with tempfile.TemporaryDirectory() as folder, Session(config, plan, Path(folder)) as session:
        begun, _ = session.start()
        program, spec = session.program(plan.step)
        program = compile_step(program, begun).lower(begun, spec).compile()
        own = first_state(config, plan)
        with contextlib.closing(session.batches(0)) as made:
            few = [next(made) for _ in range(8)]

        def alone(calls: int) -> None:
            nonlocal own
            for i in range(calls):
                own, metrics = program(own, few[i % len(few)])
            jax.block_until_ready((own, metrics))

        def turning() -> Iterator[None]:
            log = session.train_log(0, {}, lambda: batches.waited)
            hooks, _ = run._hooks(session, log)
            step = piecewise([(0, program)], (chunk.start for chunk in session.step_chunks(0)))
            steps = fit(begun, step, batches)
            for (state, metrics), chunk in zip(steps, session.step_chunks(0), strict=True):
                run_hooks(hooks, chunk.stop, state, metrics)
                session.stop.reached()
                yield

        session.stop.begin()
        with contextlib.closing(session.batches(0)) as batches:
            calls = turning()
            yield lambda n: [next(calls) for _ in range(n)] and None, alone


def endless(name: str, **fields: Any) -> Any:
    """A shipped config that logs every 100 steps, and neither evaluates nor saves meanwhile."""
    from jaxdl.config import Checkpoint, Evaluation, Log
    from jaxdl.config_file import load

    never = {"evaluation": Evaluation(every=10**6), "checkpoint": Checkpoint(every=10**6)}
    config = load(str(ROOT / f"configs/{name}.py"))
    return dataclasses.replace(config, duration=10**6, log=Log(every=100), **never, **fields)


def loop(repeats: int = 7) -> dict[str, dict[str, list[float]]]:
    """Seconds of so many steps as take about a second; hooks, log, batches and their reading."""
    from jaxdl.config import Data, part

    data = lambda batch_size: Data(part("fake", examples=1024), batch_size=batch_size)
    cases = {
        "resnet20, 32x32, batch 16": ("resnet", {"data": data(16)}, 20),
        "cnn, 32x32, batch 4": ("cnn", {"data": data(4)}, 100),
        "cnn, 32x32, batch 4, 10 a call": ("cnn", {"data": data(4), "dispatch": 10}, 10),
        "cnn, 32x32, batch 4, 50 a call": ("cnn", {"data": data(4), "dispatch": 50}, 4),
    }
    found = {}
    for title, (name, fields, calls) in cases.items():
        with loop_of(endless(name, **fields)) as (whole, alone):
            columns = {"alone": lambda: alone(calls), "whole": lambda: whole(calls)}  # noqa: B023
            in_turn(columns, 2)
            found[f"{title}; {calls} calls"] = in_turn(columns, repeats)
    return found


def dispatch(repeats: int = 7, steps: int = 400) -> dict[str, dict[str, list[float]]]:
    """Seconds of so many steps of the whole loop on digits, with one to several a call."""
    from jaxdl.config import part

    models = {"mlp, width 64": part("mlp", widths=[64]), "cnn, width 8": part("cnn", widths=[8, 8])}
    found = {}
    for title, model in models.items():
        with contextlib.ExitStack() as stack:
            columns = {}
            for n in (1, 10, 100):
                config = endless("cnn", model=model, augment=(), dispatch=n)
                whole, _ = stack.enter_context(loop_of(config))
                columns[f"{n} a call"] = lambda whole=whole, n=n: whole(steps // n)
            in_turn(columns, 2)
            found[f"{title}; {steps} steps"] = in_turn(columns, repeats)
    return found


def guard(repeats: int = 7) -> dict[str, dict[str, list[float]]]:
    """Seconds of steps as they are, unguarded, and bare: gradient, update, nothing measured."""
    import jax
    import optax

    from jaxdl.assemble import assemble
    from jaxdl.config import Gradient, Part
    from jaxdl.perf.bench import config_of
    from jaxdl.session import first_state, training_batches
    from jaxdl.train.step import compile_step

    def bare(plan: Any) -> Callable:
        def step(state: Any, batch: Any) -> tuple[Any, Any]:
            key = jax.random.fold_in(state.key, state.step)
            take = jax.value_and_grad(plan.objective.loss, has_aux=True)
            (_, aux), grads = take(state.params, state.variables, batch, key)
            updates, opt_state = plan.tx.update(grads, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            new = {"params": params, "variables": aux.variables, "opt_state": opt_state}
            return state.replace(step=state.step + 1, **new), aux.metrics

        return step

    cases = {"resnet18, 64x64, batch 32": ("resnet18", 64, 32, 3), "mlp": ("mlp", 32, 32, 200)}
    found = {}
    for title, (name, side, batch_size, calls) in cases.items():
        columns = {}
        for kind in ("bare", "norms", "norms and guard"):
            config = config_of(Part(name), batch_size, (side, side, 3), "float32")
            gradient = Gradient(skip_nonfinite=kind == "norms and guard")
            config = dataclasses.replace(config, gradient=gradient)
            plan = assemble(config)
            state = first_state(config, plan)
            with contextlib.closing(training_batches(config, plan, 0, 1)) as batches:
                batch = next(batches)
            step = bare(plan) if kind == "bare" else plan.step
            step = compile_step(step, state).lower(state, batch).compile()

            def run(step: Callable = step, held: list = [state], batch: Any = batch) -> None:  # noqa: B006
                for _ in range(calls):  # noqa: B023
                    held[0], metrics = step(held[0], batch)
                jax.block_until_ready((held[0], metrics))

            columns[kind] = run
        in_turn(columns, 2)
        found[f"{title}; {calls} steps"] = in_turn(columns, repeats)
    return found


def images(repeats: int = 7, batches: int = 500) -> dict[str, list[float]]:
    """Seconds of so many batches of 128 images 32x32x3 of bytes, in memory, onto the device."""
    import jax
    import numpy as np

    from jaxdl.data.pipeline import train_batches
    from jaxdl.data.split import open_split
    from jaxdl.train.sharding import batch_sharding, make_mesh

    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (50_000, 32, 32, 3), np.uint8)
    arrays = {"image": image, "label": rng.integers(0, 10, 50_000).astype(np.int32)}
    split = open_split(lambda _: arrays, "train", memory=2**30)
    sharding = batch_sharding(make_mesh())

    def run() -> None:
        options = {"batch_size": 128, "seed": 0, "start": 0, "stop": batches}
        for batch in train_batches(split, **options, sharding=sharding):
            jax.block_until_ready(batch)

    in_turn({"": run}, 1)
    return in_turn({f"{batches} batches of 128": run}, repeats)


def main(name: str, *arguments: str) -> None:
    """Measure one thing and print it."""
    global CLOCK
    keep_memory()
    if name == "wall":
        CLOCK, (name, *arguments) = "perf_counter", arguments
        where = f"seconds on {len(os.sched_getaffinity(0))} cores"
    else:
        core = min(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {core})
        where = f"CPU seconds on core {core}"
    print(f"{where}; load {os.getloadavg()[0]:.1f}")
    if name == "first":
        for title, runs in first(*(arguments or RESNET50)).items():
            for phase in runs[0]:
                print(f"  {title:<5} {phase:<9}{statistics.median(r[phase] for r in runs):8.2f} s")
        return
    found: Any = {"imports": imports, "init": init, "loop": loop, "dispatch": dispatch,
                  "guard": guard, "input": images, "plain": plain}[name](*arguments)  # fmt: skip
    found = found if isinstance(next(iter(found.values())), dict) else {name: found}
    for title, spent in found.items():
        print(title)
        table(spent)
    if name == "input":
        (spent,) = found[name].values()
        print(f"  {500 * 128 / statistics.median(spent):,.0f} images a second")


if __name__ == "__main__":
    main(*sys.argv[1:])
