"""The story of a run: assemble, fit, report."""

import contextlib
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdl import tree
from jaxdl.assemble import GIB, Plan, assemble
from jaxdl.config import Config, Part, summary
from jaxdl.data.pipeline import evaluation_batches, train_batches
from jaxdl.data.prefetch import Batches
from jaxdl.errors import UserError
from jaxdl.hub.load import transfer
from jaxdl.report import write_report
from jaxdl.train import rundir, stopping
from jaxdl.train.checkpoint import Checkpoints, Restored
from jaxdl.train.evaluate import make_evaluate, make_predict, predict_maps
from jaxdl.train.hooks import TrainLog
from jaxdl.train.journal import Journal
from jaxdl.train.loop import Hook, every, fit, run_hooks
from jaxdl.train.precision import compute_dtype
from jaxdl.train.sharding import batch_sharding
from jaxdl.train.signals import Interrupted, stop_signals
from jaxdl.train.state import TrainState, abstract_state, init_state, with_weights
from jaxdl.train.step import Step, compile_step

MAPS_KEPT = 12  # examples whose predicted label maps are kept to be looked at


def run(config: Config, workdir: Path) -> dict[str, float]:
    """Train, evaluate and report one run in `workdir`, going on where it was stopped.

    Returns:
        The last value of each metric, such as 'test/accuracy'.

    Raises:
        UserError: the config, the data or the directory cannot be used.
        Interrupted: a signal came; the state is saved and the same call goes on from it.
    """
    plan = assemble(config)
    changes = rundir.claim(workdir, config)
    manifest = rundir.Manifest(workdir, **_facts(plan, config))
    with Session(config, plan, workdir) as session:
        state, extra = session.start()
        _introduce(session, state, changes)
        manifest.update(parameters=tree.count(state.params))
        clock = time.perf_counter()
        try:
            state, outcome = train(session, state, extra)
            state = session.best(state)
            conclude(session, state)
        except Interrupted as stop:
            manifest.update(status=str(stop))
            raise
        manifest.update(seconds=time.perf_counter() - clock, **outcome)
        if session.leads:
            report = write_report(workdir)
            print(f"run directory  {workdir}\nreport         {report}  (open it in a browser)")
    return {k: v for line in session.journal.lines for k, v in line.items() if "/" in k}


@dataclasses.dataclass
class Session:
    """A plan at work in a run directory."""

    config: Config
    plan: Plan
    workdir: Path

    def __post_init__(self) -> None:
        keep, mode = self.config.checkpoint, self.config.evaluation.mode
        self.leads = jax.process_index() == 0
        self.checkpoints = Checkpoints(
            self.workdir / "checkpoints",
            keep_latest=keep.keep_latest,
            keep_best=keep.keep_best,
            mode=mode,
        )
        self._evaluate = make_evaluate(self.plan.objective, self.plan.metrics, self.plan.mesh)

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: Any) -> None:
        self.checkpoints.close()
        if hasattr(self, "journal"):
            self.journal.close()

    def start(self) -> Restored:
        """The newest sound checkpoint, or else a fresh state; opens the journal at its step."""
        restored = restored_state(self.config, self.plan, self.checkpoints)
        restored = restored or Restored(first_state(self.config, self.plan), {})
        self.journal = Journal(
            self.workdir,
            step=int(restored.state.step),
            tensorboard=self.config.log.tensorboard,
            writes=self.leads,
        )
        return restored

    def batches(self, start: int) -> Batches:
        """Training batches from step `start` to the end of the run."""
        plan, data = self.plan, self.config.data
        return train_batches(
            plan.splits["train"],
            batch_size=data.batch_size,
            seed=self.config.seed,
            start=start,
            stop=plan.steps,
            sharding=batch_sharding(plan.mesh),
            prefetch=data.prefetch,
            threads=data.threads,
            device_memory=int(data.device_memory * GIB),
        )

    def evaluate(self, state: TrainState, role: str) -> dict[str, float]:
        """Measure a split, write it to the journal: 'role/metric' to value."""
        weights = state.weights(self.config.evaluation.ema)
        found = self._evaluate(*weights, self.whole(role))
        values = {f"{role}/{k}": float(v) for k, v in found.items() if np.ndim(v) == 0}
        self.journal.write(int(state.step), values)
        return values

    def whole(self, role: str) -> Batches:
        """A split's batches for evaluation."""
        return whole_split(self.config, self.plan, role)

    def history(self) -> list[tuple[int, float]]:
        """(step, value) of the monitored metric."""
        return self.journal.series(self.config.evaluation.monitor)

    def has_stopped(self) -> bool:
        """Whether early stopping has had enough."""
        early, values = self.config.early_stopping, [v for _, v in self.history()]
        return early is not None and stopping.should_stop(
            values,
            patience=early.patience,
            min_delta=early.min_delta,
            mode=self.config.evaluation.mode,
        )

    def has_improved(self) -> bool:
        """Whether the last evaluation is the best so far."""
        values = [v for _, v in self.history()]
        best = stopping.best(values, self.config.evaluation.mode)
        return best is not None and best == len(values) - 1

    def best(self, state: TrainState) -> TrainState:
        """The best weights that were kept where early stopping asks for them, else the last."""
        early = self.config.early_stopping
        kept = set(self.checkpoints.steps())
        history = [(s, v) for s, v in self.history() if s in kept]
        position = stopping.best([v for _, v in history], self.config.evaluation.mode)
        if position is None or not (early and early.restore_best):
            return state
        return self.checkpoints.restore(history[position][0], _abstract(state)).state


def whole_split(config: Config, plan: Plan, role: str) -> Batches:
    """A split's batches for evaluation, whole rows on every device, padding masked."""
    mesh, data = plan.mesh, config.data
    return evaluation_batches(
        plan.splits[role],
        batch_size=-(-data.evaluation_batch_size // mesh.size) * mesh.size,
        sharding=batch_sharding(mesh),
        prefetch=data.prefetch,
        threads=data.threads,
    )


def first_state(config: Config, plan: Plan) -> TrainState:
    """The state before the first step: fresh, or with the published weights of `init_from`."""
    state = init_state(*_state_of(config, plan), **_state_options(config))
    return begin_with(config.init_from, config.model, plan, state) if config.init_from else state


def restored_state(config: Config, plan: Plan, checkpoints: Checkpoints) -> Restored | None:
    """The newest sound checkpoint, or None where there is none yet."""
    like = abstract_state(*_state_of(config, plan), **_state_options(config))
    return checkpoints.restore_newest(like)


def _state_of(config: Config, plan: Plan) -> tuple[Any, ...]:
    return plan.objective, plan.tx, jax.random.key(config.seed), plan.batch_spec(1), plan.mesh


def _state_options(config: Config) -> dict[str, Any]:
    return {"ema": config.ema_decay is not None, "rules": config.mesh.rules}


def begin_with(source: str, model: Part, plan: Plan, state: TrainState) -> TrainState:
    """A first state that holds published weights of a registered model; see `hub.transfer`."""
    if not {"backbone", "head"} <= set(state.params):
        raise UserError("config.init_from fills one model, and this objective trains several")
    params, variables = transfer(source, model.name, state.params, state.variables, args=model.args)
    return with_weights(state, plan.tx, params, variables)


def train(
    session: Session, state: TrainState, extra: dict[str, Any]
) -> tuple[TrainState, dict[str, Any]]:
    """Step to the end, or until early stopping: the state, and what the manifest should know.

    Raises:
        Interrupted: a signal came; the state is saved.
    """
    plan, begun = session.plan, int(state.step)
    if session.has_stopped():
        return state, {"status": f"stopped early at step {begun}"}
    if begun >= plan.steps:
        return state, {"status": "finished"}
    step, seconds = _compiled(session, state)
    outcome = {"status": "finished", "compile_seconds": seconds}
    batches = session.batches(begun)
    with stop_signals() as caught, contextlib.closing(batches):
        log = _train_log(session, begun, extra, lambda: batches.waited)
        hooks, save = _hooks(session, log)
        t = begun
        steps = fit(state, step, batches)
        for state, metrics in steps:
            t += 1
            if run_hooks(hooks, t, state, metrics):
                outcome["status"] = f"stopped early at step {t}"
                break
            if caught:
                break
        save(t, state)
        log.close()
        if caught and t < plan.steps:
            raise Interrupted(caught[0], t)
    return state, outcome


def _hooks(session: Session, log: TrainLog) -> tuple[list[Hook], Callable[[int, TrainState], None]]:
    """Log, evaluate, save, in this order; and what saves a step unless it is saved already."""
    plan, config = session.plan, session.config
    saved: set[int] = set()

    def save(t: int, state: TrainState) -> None:
        if t not in saved:
            with log.pause():
                measured = dict(session.history()).get(t)
                session.checkpoints.save(t, state, measured, {"window": log.window()})
            saved.add(t)

    def evaluate(t: int, state: TrainState, metrics: Any) -> bool:
        with log.pause():
            values = session.evaluate(state, "validation")
            log.say(f"step {t}  " + "  ".join(f"{k} {v:.4f}" for k, v in values.items()))
        if session.has_improved():
            save(t, state)
        return session.has_stopped()

    hooks: list[Hook] = [log]
    if "validation" in plan.splits:
        n = max(1, plan.to_steps(config.evaluation.every))
        hooks.append(every(n, evaluate, last=plan.steps))
    period = max(1, plan.to_steps(config.checkpoint.every))
    return [*hooks, every(period, lambda t, state, metrics: save(t, state))], save


def _compiled(session: Session, state: TrainState) -> tuple[Step, float]:
    clock = time.perf_counter()
    spec = session.plan.batch_spec(session.config.data.batch_size)
    step = compile_step(session.plan.step, state).lower(state, spec).compile()
    seconds = time.perf_counter() - clock
    if session.leads:
        print(f"compiled the step in {seconds:.1f} s", flush=True)
    return step, seconds


def _train_log(
    session: Session, begun: int, extra: dict[str, Any], waited: Callable[[], float]
) -> TrainLog:
    plan, config = session.plan, session.config
    return TrainLog(
        session.journal,
        every=max(1, plan.to_steps(config.log.every)),
        start=begun,
        total=plan.steps,
        batch_size=config.data.batch_size,
        examples=len(plan.splits["train"]),
        schedule=plan.schedule,
        waited=waited,
        window=extra.get("window"),
        shows=session.leads,
    )


def conclude(session: Session, state: TrainState) -> None:
    """Measure the final weights on the test split (else validation) and keep its predictions."""
    plan, config = session.plan, session.config
    role = next((r for r in ("test", "validation") if r in plan.splits), None)
    if role is None:
        return
    known = [line for line in session.journal.lines if line["step"] == int(state.step)]
    if role == "test" and not any(key.startswith("test/") for line in known for key in line):
        values = session.evaluate(state, role)
        if session.leads:
            print("final  " + "  ".join(f"{k} {v:.4f}" for k, v in values.items()), flush=True)
    weights = state.weights(config.evaluation.ema)
    if plan.each == "example":
        predictions = make_predict(plan.objective, plan.mesh)(*weights, session.whole(role))
        if session.leads:
            rundir.save_predictions(session.workdir, plan.splits[role], role, predictions)
    elif plan.each == "pixel":
        index = np.unique(np.linspace(0, len(plan.splits[role]) - 1, MAPS_KEPT).astype(int))
        maps = predict_maps(plan.objective, plan.mesh, *weights, plan.splits[role].examples(index))
        if session.leads:
            file = session.workdir / "predictions.npz"
            np.savez_compressed(file, **maps, index=index, split=role)


def _abstract(state: TrainState) -> TrainState:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def _facts(plan: Plan, config: Config) -> dict[str, Any]:
    train_split = plan.splits["train"]
    return {
        "precision": str(compute_dtype(config.precision)),
        "seed": config.seed,
        "mesh": dict(plan.mesh.shape),
        "steps": plan.steps,
        "data": {
            "source": config.data.source.name,
            **{role: len(split) for role, split in plan.splits.items()},
            "num_classes": train_split.num_classes,
            "class_names": list(train_split.class_names),
        },
    }


def _introduce(session: Session, state: TrainState, changes: list[str]) -> None:
    if not session.leads:
        return
    plan, config = session.plan, session.config
    sizes = "  ".join(f"{role} {len(split):,}" for role, split in plan.splits.items())
    done = f", {int(state.step):,} of them done" if int(state.step) else ""
    print(f"jaxdl  {config.model.name}, {tree.count(state.params):,} parameters")
    print(summary(config))
    print(f"  {'examples':<15} {sizes}")
    print(f"  {'devices':<15} {plan.mesh.size} x {jax.devices()[0].device_kind}")
    print(f"  {'steps':<15} {plan.steps:,}{done}")
    for change in changes:
        print(f"  changed since the last start: {change}")
    print(f"  {'workdir':<15} {session.workdir}", flush=True)
