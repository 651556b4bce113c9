"""One run from start to end: assemble, train, evaluate, report."""

import contextlib
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdl import frozen, tree
from jaxdl.assemble import Plan, assemble
from jaxdl.cluster import hosts
from jaxdl.cluster.signals import Interrupted, Stop, Stopping, stop_signals
from jaxdl.cluster.watchdog import watchdog
from jaxdl.config import Config
from jaxdl.config_file import summary
from jaxdl.data.fingerprint import Fingerprint, merged
from jaxdl.data.identity import names_of
from jaxdl.errors import UserError
from jaxdl.evaluation import ROWS, final_roles, with_rows
from jaxdl.init_from import read_beginning
from jaxdl.judging import score
from jaxdl.metadata import run_metadata
from jaxdl.notices import data_changes, notices, trained_data
from jaxdl.perf.memory import explained, placed, ran_out
from jaxdl.report import write_report
from jaxdl.rundir import directory
from jaxdl.rundir.outputs import note, save_outputs
from jaxdl.rundir.progress import Diverged, TrainLog
from jaxdl.rundir.writer import only_writer
from jaxdl.session import ROLLED_BACK, Session
from jaxdl.train.evaluate import make_evaluate, predict_maps
from jaxdl.train.loop import Hook, every, fit, piecewise, run_hooks
from jaxdl.train.refresh import check_refreshes, refreshing
from jaxdl.train.state import TrainState
from jaxdl.train.step import Step, compile_step
from jaxdl.types import PyTree

MAPS_KEPT = 12  # examples whose predicted masks are kept to be looked at


def run(config: Config, workdir: Path) -> dict[str, float]:
    """Train, evaluate and report one run in `workdir`, resuming where it was stopped.

    Returns:
        The last value of each metric, such as 'test/accuracy'.

    Raises:
        UserError: the config, the data or the directory cannot be used.
        Interrupted: a signal came; the state is saved and the same call goes on from it.
        Diverged: too many steps in a row were not finite; the state is that before them.
    """
    with stop_signals() as stop, contextlib.ExitStack() as writer:
        return _run(config, workdir, stop, writer)


def _run(
    config: Config, workdir: Path, stop: Stop, writer: contextlib.ExitStack
) -> dict[str, float]:
    then = trained_data(workdir)
    plan = assemble(config, names=names_of(then))
    config = plan.config
    if plan.refreshes:
        check_refreshes(plan.refreshes, plan.abstract_state(config.seed))
    check_patterns(config, plan)
    begin = read_beginning(config, plan, workdir)
    changed = data_changes(config, plan, then)
    changes = [*_claim(workdir, config, plan.steps, writer), *changed]
    manifest = directory.Manifest(workdir, **run_metadata(plan, config))
    with explained(config, plan), Session(config, plan, workdir, stop, begin) as session:
        clock = time.perf_counter()
        try:
            state, extra = session.start()
            _check_step(int(state.step))
            _introduce(session, state, changes)
            manifest.update(parameters=tree.count(state.params))
            if begin:
                manifest.update(init_from=begin.lines)
            with watchdog(config.watchdog_seconds, hosts.name()) as stop.heartbeat:
                state, outcome = _train_with_rollback(session, state, extra)
                state = session.best(state)
                outcome |= conclude(session, state)
            unsaved = session.checkpoints.unsaved()
            stop.end()
        except Stopping:
            manifest.update(status=f"interrupted by {stop.caught.name}")
            raise interrupted(session, stop, int(state.step)) from None
        except (Interrupted, Diverged, UserError) as end:
            manifest.update(status=str(end))
            raise
        except jax.errors.JaxRuntimeError as error:
            manifest.update(status="out of memory" if ran_out(error) else "failed")
            raise
        outcome |= {"status": unsaved} if unsaved else {}
        manifest.update(seconds=time.perf_counter() - clock, **outcome)
        if session.leads:
            print(f"run directory  {workdir}")
            with directory.writing(workdir), directory.drawing("report"):
                print(f"report         {write_report(workdir)}  (open it in a browser)")
        if unsaved:
            raise UserError(unsaved)
    return {k: v for line in session.journal.lines for k, v in line.items() if "/" in k}


def check_patterns(config: Config, plan: Plan) -> None:
    """Refuse a pattern that matches no parameter, while the run directory is still unclaimed."""
    if config.freeze or config.optimizers or config.lr_multipliers:
        plan.abstract_state(config.seed)


def _claim(workdir: Path, config: Config, steps: int, writer: contextlib.ExitStack) -> list[str]:
    """Lock and claim the directory from one process, and check that all processes see it."""
    if jax.process_count() > 1 and not hosts.several():
        raise UserError("several processes that know nothing of each other: see hosts.joined()")
    changes = []
    if hosts.leads():
        writer.enter_context(only_writer(workdir))
        changes = directory.claim(workdir, config, steps)
    hosts.gather("claimed", None)
    if not (workdir / "config.json").is_file():
        raise UserError(f"{workdir} is not that of process 0: all processes must see one workdir")
    return changes


def _check_step(step: int) -> None:
    steps = hosts.gather("begun", step)
    if len(set(steps)) > 1:
        raise UserError(f"processes found checkpoints of different steps: {steps}")


def _train_with_rollback(
    session: Session, state: TrainState, extra: dict[str, Any]
) -> tuple[TrainState, dict[str, Any]]:
    """Train; after divergence return to an older checkpoint, at most `gradient.rollback` times."""
    while True:
        try:
            return train(session, state, extra)
        except Diverged as trouble:
            older = session.rollback_state(trouble)
            if older is None:
                raise
            state, extra = older, {}
            if session.leads:
                was = int(session.journal.lines[-1][ROLLED_BACK])
                print(f"{trouble}; going on with those of step {was}", flush=True)


def train(
    session: Session, state: TrainState, extra: dict[str, Any]
) -> tuple[TrainState, dict[str, Any]]:
    """Train to the end or until early stopping. Returns the state and entries for the manifest.

    Raises:
        Interrupted: a signal came; the state is saved.
        Diverged: too many steps in a row were not finite.
        UserError: a frozen leaf has changed; the state is saved.
    """
    plan, begun = session.plan, session.step_of(state)
    if owed := session.owed(begun):
        session.evaluate_all(state, owed)
        if session.has_improved():
            measured = dict(session.history()).get(begun)
            session.checkpoints.save(begun, state, measured, extra)
    if session.has_stopped():
        return state, {"status": f"stopped early at step {begun}"}
    if begun >= plan.steps:
        return state, {"status": "finished"}
    unmoved = frozen.unmoved(session.config, state)
    step, seconds = _compiled(session, state)
    outcome = {"status": "finished", "compile_seconds": seconds}
    batches = session.batches(begun)
    stop = session.stop
    with contextlib.closing(batches):
        log = session.train_log(begun, extra, lambda: batches.waited)
        hooks, save = _hooks(session, log)
        t, steps = begun, fit(state, step, batches)
        stop.begin()
        try:
            for (state, metrics), chunk in zip(steps, session.step_chunks(begun), strict=True):
                t = chunk.stop
                if run_hooks(hooks, t, state, metrics):
                    outcome["status"] = f"stopped early at step {t}"
                    break
                if stop.reached():
                    break
        except Stopping:
            pass  # in the middle of an evaluation, which the next start makes up for
        except Diverged as trouble:
            trouble.reason = session.first_nonfinite(state, trouble.step - 1)
            if not session.rollback_candidates(trouble):
                save(t, state)
            raise
        except UserError:
            # The others, if there are any, know nothing of it, and would have to take part.
            if not hosts.several():
                save(t, state)
            raise
        save(t, state)
        log.close()
        if stop.caught and t < plan.steps:
            raise interrupted(session, stop, t)
    unmoved(state)
    return state, outcome


def interrupted(session: Session, stop: Stop, t: int) -> Exception:
    """The exception that ends a run which a signal stopped after step t."""
    unsaved = session.checkpoints.unsaved()
    return UserError(unsaved) if unsaved else Interrupted(stop.caught, t)


def _hooks(session: Session, log: TrainLog) -> tuple[list[Hook], Callable[[int, TrainState], None]]:
    """Log, evaluate, save, in this order; and what saves a step unless it is saved already."""
    plan, config, roles = session.plan, session.config, session.plan.roles("training")
    saved: set[int] = set()

    def save(t: int, state: TrainState) -> None:
        if t not in saved:
            with log.pause():
                measured = dict(session.history()).get(t)
                session.checkpoints.save(t, state, measured, {"window": log.window()})
            saved.add(t)

    def evaluate(t: int, state: TrainState, metrics: Any) -> bool:
        with log.pause():
            values = session.evaluate_all(state, roles)
            log.say(f"step {t}  " + "  ".join(f"{k} {v:.4f}" for k, v in values.items()))
        if session.has_improved():
            save(t, state)
        return session.has_stopped()

    hooks: list[Hook] = [session.checkpoints.watch, log]
    if roles:
        n = max(1, plan.to_steps(config.evaluation.every))
        hooks.append(every(n, evaluate, last=plan.steps))
    period = max(1, plan.to_steps(config.checkpoint.every))

    def save_if_moved(t: int, state: TrainState, metrics: Any) -> None:
        # In a row of skipped steps, the checkpoints from before it are those that will be needed.
        if log.moves():
            save(t, state)

    return [*hooks, every(period, save_if_moved)], save


def _compiled(session: Session, state: TrainState) -> tuple[Step, float]:
    clock, begun = time.perf_counter(), session.step_of(state)
    starts = [start for start, _ in session.plan.phases]
    ends = [*starts[1:], session.plan.steps]
    phases = []
    for (start, step), end in zip(session.plan.phases, ends, strict=True):
        if end > begun and start < session.plan.steps:
            program, spec = session.program(step)
            phases.append((start, compile_step(program, state).lower(state, spec).compile()))
    seconds = time.perf_counter() - clock
    if session.leads:
        print(f"compiled the step in {seconds:.1f} s", flush=True)
    starts = lambda: (chunk.start for chunk in session.step_chunks(begun))
    step = refreshing(
        piecewise(phases, starts()),
        session.plan.refreshes,
        starts(),
        session.measurements,
        session.examples,
    )
    return step, seconds


def conclude(session: Session, state: TrainState) -> dict[str, Any]:
    """Measure the final weights on the splits of the end, else validation; keep their outputs.

    Returns:
        Entries for the manifest: of each split, the form of its outputs and its examples' digest.
    """
    plan, weights, roles = session.plan, session.weights(state), final_roles(session.plan)
    kept: dict[str, dict[str, str]] = {}
    for role in roles:
        form = "drawn"
        if not plan.held[role].sampler:
            rows, kept[role] = _keep_outputs(session, state, weights, role)
            form = kept[role]["form"]
            if role == roles[0] and role in ("test", "validation"):
                _keep_predictions(session, role, weights, rows)
        elif session.unmeasured(int(state.step), [role]):
            _say_final(session, session.evaluate(state, role, weights))
        if session.leads and (line := note(role, form, session.config.evaluation.outputs_limit)):
            print(line)
    return {"outputs": kept}


def _say_final(session: Session, values: dict[str, float]) -> None:
    if session.leads and values:
        print("final  " + "  ".join(f"{k} {v:.4f}" for k, v in values.items()), flush=True)


def _keep_outputs(
    session: Session, state: TrainState, weights: tuple[PyTree, PyTree], role: str
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Measure a split and keep its outputs; returns these, and the manifest's entries of them."""
    plan, step, fingerprint = session.plan, int(state.step), Fingerprint()
    metrics = with_rows(session.config, plan, role)
    measure = make_evaluate(plan.held[role].objective, metrics, plan.mesh)
    values = measure(*weights, session.whole(role, fingerprint))
    rows, (values, matrices) = values.pop(ROWS), plan.by_name(role, values)
    digest = merged(hosts.gather(f"digest of {role}", fingerprint.text))
    if role in plan.roles("end") and session.unmeasured(step, [role]):
        session.record(step, role, values, matrices)
        _say_final(session, values)
    form = "none"
    if session.leads:
        form = save_outputs(session.workdir, role, rows, digest)
    return rows, {"form": form, "digest": digest}


def _keep_predictions(
    session: Session, role: str, weights: tuple[PyTree, PyTree], rows: dict[str, np.ndarray]
) -> None:
    """Write `predictions.npz`, what a report shows of the outputs."""
    plan = session.plan
    if plan.unit == "example" and plan.target.kind == "classes" and session.leads:
        predictions = {name: rows[name] for name in ("label", "prediction", "confidence")}
        split = dataclasses.replace(plan.splits[role], num_classes=plan.target.size)
        with directory.drawing(f"examples of '{role}'"):
            directory.save_predictions(session.workdir, split, role, predictions)
    elif plan.unit == "pixel":
        index = np.unique(np.linspace(0, len(plan.splits[role]) - 1, MAPS_KEPT).astype(int))
        objective = plan.held[role].objective
        some = plan.splits[role].examples(index)
        some["label"] = some[plan.target_name]
        maps = predict_maps(objective, plan.mesh, *weights, some)
        if session.leads:
            with directory.writing(session.workdir):
                file = session.workdir / "predictions.npz"
                np.savez_compressed(file, **maps, index=index, split=role)


def _introduce(session: Session, state: TrainState, changes: list[str]) -> None:
    if not session.leads:
        return
    plan, config = session.plan, session.config
    sizes = "  ".join(f"{role} {len(split):,}" for role, split in plan.splits.items())
    done = f", {int(state.step):,} of them done" if int(state.step) else ""
    print(f"jaxdl  {config.model.name}, {tree.count(state.params):,} parameters")
    print(summary(config))
    print(f"  {'examples':<15} {sizes}")
    for role, split in plan.splits.items():
        for line in split.source.remarks():
            print(f"  {role}: {line}")
    for line in notices(config, plan, state):
        print(f"  {line}")
    if held := frozen.in_words(config, state):
        print(f"  {'frozen':<15} {held}")
    print(f"  {'devices':<15} {plan.mesh.size} x {jax.devices()[0].device_kind}")
    if plan.mesh.size > 1:
        sizes = " x ".join(f"{axis} {n}" for axis, n in plan.mesh.shape.items() if n > 1)
        first, *rows = placed(state)
        print(f"  {'mesh':<15} {sizes}\n  {'state':<15} {first}")
        print("\n".join(f"    {row}" for row in rows))
    print(f"  {'steps':<15} {plan.steps:,}{done}")
    for line in session.begin.lines if session.begin else ():
        print(f"  {'begins with':<15} {line}")
    oracles = [key for key in score(config.evaluation.monitor).keys if key.startswith("oracle")]
    if oracles and plan.roles("training"):
        print(f"  {'judged by':<15} an oracle, {', '.join(oracles)}: labels no task has")
    for change in changes:
        print(f"  changed since the last start: {change}")
    print(f"  {'workdir':<15} {session.workdir}", flush=True)
