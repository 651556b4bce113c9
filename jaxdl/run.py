"""The story of a run: assemble, fit, report. The only place where names become objects."""

import contextlib
import functools
import importlib
import importlib.util
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from jaxdl import registry, tree
from jaxdl.config import Config, Part, summary, to_steps
from jaxdl.data.pipeline import Split, evaluation_batches, open_split, train_batches
from jaxdl.errors import UserError, choices
from jaxdl.objectives.base import Model, augmented
from jaxdl.optim.chain import chain
from jaxdl.report import write_report
from jaxdl.train import rundir, stopping
from jaxdl.train.checkpoint import Checkpoints, Restored
from jaxdl.train.evaluate import make_evaluate, make_predict
from jaxdl.train.gradients import accumulate
from jaxdl.train.hooks import TrainLog
from jaxdl.train.journal import Journal
from jaxdl.train.loop import every, fit, run_hooks
from jaxdl.train.precision import compute_dtype
from jaxdl.train.sharding import batch_sharding, make_mesh
from jaxdl.train.state import TrainState, abstract_state, init_state
from jaxdl.train.step import Step, compile_step, make_step
from jaxdl.types import Objective

GIB = 2**30


class Plan(NamedTuple):
    """A config turned into objects; nothing has been computed yet."""

    splits: dict[str, Split]
    steps: int
    to_steps: Callable[[int | str], int]
    schedule: optax.Schedule
    objective: Objective
    tx: optax.GradientTransformationExtraArgs
    step: Step
    mesh: jax.sharding.Mesh
    metrics: dict[str, Callable]

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of a global training batch."""
        return {
            k: jax.ShapeDtypeStruct((batch_size, *s.shape), s.dtype, sharding=batch_sharding(self.mesh))
            for k, s in self.splits["train"].element_spec.items()
        }


def assemble(config: Config) -> Plan:
    """Check every name and argument of the config, open its data, build its parts."""
    for name in config.imports:
        import_user_module(name)
    check(config)
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp)
    _check_batch(config, mesh)
    splits = open_splits(config)
    train = splits["train"]

    sizes = {"examples": len(train), "batch_size": config.data.batch_size}
    steps = to_steps(config.duration, **sizes)
    if steps < 1:
        raise UserError(f"config.duration '{config.duration}' is less than one step")
    in_steps = functools.partial(to_steps, total=steps, **sizes)

    module = registry.bind("models", config.model)(train.num_classes)
    model = Model(module, compute_dtype(config.precision))
    objective = augmented(
        registry.bind("objectives", config.objective)(model),
        [registry.bind("augmentations", p) for p in config.augment],
        [registry.bind("augmentations", p) for p in config.preprocess],
    )
    factor = registry.bind("schedules", config.schedule, in_steps)(steps)
    schedule, tx = _optimizer(config, factor, in_steps)
    step = make_step(
        objective, tx, accumulate(config.gradient.accumulate), ema_decay=config.ema_decay
    )
    metrics = {_metric_name(p): registry.bind("metrics", p) for p in config.evaluation.metrics}
    _check_monitor(config, splits, metrics)
    return Plan(splits, steps, in_steps, schedule, objective, tx, step, mesh, metrics)


def check(config: Config) -> None:
    """Raise UserError for the first part that is unknown or is given what it does not take."""
    one = [
        ("sources", config.data.source),
        ("models", config.model),
        ("objectives", config.objective),
        ("optimizers", config.optimizer),
        ("schedules", config.schedule),
    ]
    many = [
        ("wrappers", config.wrappers),
        ("augmentations", config.augment),
        ("augmentations", config.preprocess),
        ("metrics", config.evaluation.metrics),
    ]
    for kind, part in one + [(kind, part) for kind, parts in many for part in parts]:
        registry.bind(kind, part)


def import_user_module(name: str) -> None:
    """Import a module by name or by file, so that what it registers is found."""
    if name in sys.modules:
        return
    try:
        if name.endswith(".py"):
            spec = importlib.util.spec_from_file_location(Path(name).stem, name)
            module = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = module
            spec.loader.exec_module(module)
        else:
            if "" not in sys.path and str(Path.cwd()) not in sys.path:
                sys.path.insert(0, str(Path.cwd()))
            importlib.import_module(name)
    except (ImportError, OSError, SyntaxError) as error:
        raise UserError(f"cannot import '{name}': {error}") from error


def open_splits(config: Config) -> dict[str, Split]:
    """The splits a config names, by role."""
    build = registry.bind("sources", config.data.source)
    roles = {role: getattr(config.data, role) for role in ("train", "validation", "test")}
    memory = int(config.data.memory * GIB)
    return {
        role: open_split(build, split, memory=memory) for role, split in roles.items() if split
    }


def _optimizer(config: Config, factor: optax.Schedule, in_steps: Callable[[int | str], int]):
    builder = registry.bind("optimizers", config.optimizer, in_steps)
    peak = builder.keywords.get("learning_rate", 1.0)

    def schedule(step: jax.typing.ArrayLike) -> jax.typing.ArrayLike:
        return peak * factor(step)

    tx = chain(
        builder(learning_rate=schedule),
        clip_norm=config.gradient.clip_norm,
        clip_value=config.gradient.clip_value,
        wrappers=[registry.bind("wrappers", p, in_steps) for p in config.wrappers],
    )
    return schedule, tx


def _metric_name(part: Part) -> str:
    return "_".join([part.name, *(str(v) for v in part.args.values())])


def _check_batch(config: Config, mesh: jax.sharding.Mesh) -> None:
    size, n = config.data.batch_size, config.gradient.accumulate
    if size % (mesh.size * n):
        raise UserError(
            f"config.data.batch_size {size} does not divide over {mesh.size} devices"
            + (f" in {n} micro-batches" if n > 1 else "")
        )


def _check_monitor(config: Config, splits: dict[str, Split], metrics: dict[str, Any]) -> None:
    known = [f"{split}/{name}" for split in splits if split != "train" for name in metrics]
    if config.evaluation.monitor not in known and (
        config.early_stopping or config.evaluation.monitor.startswith(tuple(splits))
    ):
        raise UserError(
            f"config.evaluation.monitor '{config.evaluation.monitor}' is not measured: "
            f"{choices(config.evaluation.monitor, known)}"
        )


def run(config: Config, workdir: Path) -> dict[str, float]:
    """Train, evaluate and report one run in `workdir`, going on where it was stopped.

    Returns:
        The last value of each metric, such as 'test/accuracy'.
    """
    plan = assemble(config)
    changes = rundir.claim(workdir, config)
    manifest = rundir.Manifest(workdir, **_facts(plan, config))
    keep = config.checkpoint
    with Checkpoints(
        workdir / "checkpoints",
        keep_latest=keep.keep_latest,
        keep_best=keep.keep_best,
        mode=config.evaluation.mode,
    ) as checkpoints:
        state, extra = start(plan, config, checkpoints)
        begun = int(state.step)
        _introduce(plan, config, workdir, state, changes, begun)
        manifest.update(parameters=tree.count(state.params))
        writes = jax.process_index() == 0
        journal = Journal(workdir, step=begun, tensorboard=config.log.tensorboard, writes=writes)
        clock = time.perf_counter()
        state, status, compiling = train(plan, config, state, extra, checkpoints, journal)
        manifest.update(
            status=status, seconds=time.perf_counter() - clock, compile_seconds=compiling
        )
        if not status.startswith("interrupted"):
            state = _best(config, state, checkpoints, journal)
            conclude(plan, config, workdir, state, journal)
        journal.close()
    if writes:
        report = write_report(workdir)
        print(f"run directory  {workdir}\nreport         {report}  (open it in a browser)")
    if status.startswith("interrupted"):
        raise Interrupted(status)
    return {k: v for line in journal.lines for k, v in line.items() if "/" in k}


class Interrupted(Exception):
    """A signal stopped the run; what was done is saved."""


def start(plan: Plan, config: Config, checkpoints: Checkpoints) -> Restored:
    """The state to go on from: the newest sound checkpoint, or a fresh one."""
    key = jax.random.key(config.seed)
    where = {"ema": config.ema_decay is not None, "rules": config.mesh.rules}
    spec = plan.batch_spec(1)
    like = abstract_state(plan.objective, plan.tx, key, spec, plan.mesh, **where)
    restored = checkpoints.restore_newest(like)
    if restored:
        return restored
    return Restored(init_state(plan.objective, plan.tx, key, spec, plan.mesh, **where), {})


def train(
    plan: Plan,
    config: Config,
    state: TrainState,
    extra: dict[str, Any],
    checkpoints: Checkpoints,
    journal: Journal,
) -> tuple[TrainState, str, float]:
    """Step to the end, or until a hook asks to stop: (state, status, seconds of compiling)."""
    begun, data, judge = int(state.step), config.data, config.evaluation
    if begun >= plan.steps or _has_stopped(config, journal):
        return state, "finished", 0.0
    clock = time.perf_counter()
    spec = plan.batch_spec(data.batch_size)
    step = compile_step(plan.step, state).lower(state, spec).compile()
    compiling = time.perf_counter() - clock
    print(f"compiled the step in {compiling:.1f} s", flush=True)

    batches = train_batches(
        plan.splits["train"],
        batch_size=data.batch_size,
        seed=config.seed,
        start=begun,
        stop=plan.steps,
        sharding=batch_sharding(plan.mesh),
        prefetch=data.prefetch,
        threads=data.threads,
        device_memory=int(data.device_memory * GIB),
    )
    log = TrainLog(
        journal,
        every=max(1, plan.to_steps(config.log.every)),
        start=begun,
        total=plan.steps,
        batch_size=data.batch_size,
        examples=len(plan.splits["train"]),
        schedule=plan.schedule,
        waited=lambda: batches.waited,
        window=extra.get("window"),
        shows=jax.process_index() == 0,
    )
    evaluate = evaluator(plan, config)
    saved = None

    def evaluation(t: int, state: TrainState, metrics: Any) -> None:
        with log.pause():
            values = evaluate(state, "validation")
            journal.write(t, values)
            log.say(f"step {t}  " + "  ".join(f"{k} {v:.4f}" for k, v in values.items()))

    def save(t: int, state: TrainState) -> None:
        nonlocal saved
        with log.pause():
            measured = dict(journal.series(judge.monitor)).get(t)
            checkpoints.save(t, state, measured, {"window": log.window()})
            saved = t

    def checkpoint(t: int, state: TrainState, metrics: Any) -> None:
        history = journal.series(judge.monitor)
        improved = bool(history) and history[-1][0] == t and _last_is_best(history, judge.mode)
        if t % period == 0 or improved:
            save(t, state)

    period = max(1, plan.to_steps(config.checkpoint.every))
    hooks = [log]
    if "validation" in plan.splits:
        hooks.append(every(max(1, plan.to_steps(judge.every)), evaluation, last=plan.steps))
    hooks += [checkpoint, lambda t, state, metrics: _has_stopped(config, journal)]

    status = "finished"
    with stop_signals() as caught, contextlib.closing(batches), contextlib.closing(log):
        for t, (state, metrics) in enumerate(fit(state, step, batches), start=begun + 1):
            if run_hooks(hooks, t, state, metrics):
                status = f"stopped early at step {t}"
            if caught:
                status = f"interrupted by {caught[0].name} at step {t}"
            if status != "finished":
                break
        if saved != t:
            save(t, state)
    return state, status, compiling


def evaluator(plan: Plan, config: Config) -> Callable[[TrainState, str], dict[str, float]]:
    """(state, role of a split) -> 'role/metric' to value, over the whole split."""
    evaluate = make_evaluate(plan.objective, plan.metrics, plan.mesh)

    def values(state: TrainState, role: str) -> dict[str, float]:
        weights = state.weights(config.evaluation.ema)
        found = evaluate(*weights, _whole(plan, config, role))
        return {f"{role}/{k}": float(v) for k, v in found.items() if np.ndim(v) == 0}

    return values


def _whole(plan: Plan, config: Config, role: str) -> Iterator[dict[str, jax.Array]]:
    # Rounded up to whole rows on every device; what is added is masked.
    size = -(-config.data.evaluation_batch_size // plan.mesh.size) * plan.mesh.size
    return evaluation_batches(
        plan.splits[role],
        batch_size=size,
        sharding=batch_sharding(plan.mesh),
        prefetch=config.data.prefetch,
    )


def conclude(
    plan: Plan, config: Config, workdir: Path, state: TrainState, journal: Journal
) -> None:
    """Measure the final weights on the test split (else validation), keep its predictions."""
    roles = [role for role in ("test", "validation") if role in plan.splits]
    if not roles:
        return
    role, step = roles[0], int(state.step)
    known = [line for line in journal.lines if line["step"] == step]
    if role == "test" and not any(k.startswith("test/") for line in known for k in line):
        values = evaluator(plan, config)(state, role)
        journal.write(step, values)
        print("final  " + "  ".join(f"{k} {v:.4f}" for k, v in values.items()), flush=True)
    predict = make_predict(plan.objective, plan.mesh)
    predictions = predict(*state.weights(config.evaluation.ema), _whole(plan, config, role))
    if jax.process_index() == 0:
        rundir.save_predictions(workdir, plan.splits[role], role, predictions)


def _best(
    config: Config, state: TrainState, checkpoints: Checkpoints, journal: Journal
) -> TrainState:
    """The best weights that were kept where early stopping asks for them, else the last."""
    if not (config.early_stopping and config.early_stopping.restore_best):
        return state
    kept = set(checkpoints.steps())
    history = [(t, v) for t, v in journal.series(config.evaluation.monitor) if t in kept]
    position = stopping.best([v for _, v in history], config.evaluation.mode)
    if position is None:
        return state
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
    return checkpoints.restore(history[position][0], like).state


def _has_stopped(config: Config, journal: Journal) -> bool:
    early = config.early_stopping
    return early is not None and stopping.should_stop(
        [v for _, v in journal.series(config.evaluation.monitor)],
        patience=early.patience,
        min_delta=early.min_delta,
        mode=config.evaluation.mode,
    )


def _last_is_best(history: list[tuple[int, float]], mode: str) -> bool:
    return stopping.best([v for _, v in history], mode) == len(history) - 1


@contextlib.contextmanager
def stop_signals() -> Iterator[list[signal.Signals]]:
    """Collect SIGINT and SIGTERM in a list; a second one stops at once."""
    caught: list[signal.Signals] = []

    def note(number: int, frame: Any) -> None:
        caught.append(signal.Signals(number))
        signal.signal(number, previous[number])
        print(f"\n{caught[-1].name}: saving, then stopping", flush=True)

    wanted = (signal.SIGINT, signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    previous = {number: signal.signal(number, note) for number in wanted}
    try:
        yield caught
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _facts(plan: Plan, config: Config) -> dict[str, Any]:
    train = plan.splits["train"]
    return {
        "precision": str(compute_dtype(config.precision)),
        "seed": config.seed,
        "mesh": dict(plan.mesh.shape),
        "steps": plan.steps,
        "data": {
            "source": config.data.source.name,
            **{role: len(split) for role, split in plan.splits.items()},
            "num_classes": train.num_classes,
            "class_names": list(train.class_names),
        },
    }


def _introduce(
    plan: Plan, config: Config, workdir: Path, state: TrainState, changes: list[str], begun: int
) -> None:
    if jax.process_index():
        return
    sizes = "  ".join(f"{role} {len(split):,}" for role, split in plan.splits.items())
    print(f"jaxdl  {config.model.name}, {tree.count(state.params):,} parameters")
    print(f"  {'examples':<15} {sizes}")
    print(f"  {'devices':<15} {plan.mesh.size} x {jax.devices()[0].device_kind}")
    print(summary(config))
    for change in changes:
        print(f"  changed since the last start: {change}")
    done = f", {begun:,} of them done" if begun else ""
    print(f"  {'workdir':<15} {workdir}\n  {'steps':<15} {plan.steps:,}{done}", flush=True)
