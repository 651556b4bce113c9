"""One training run: its state, data, metric log and checkpoints."""

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdl import judging
from jaxdl.assemble import Plan
from jaxdl.cluster.signals import Stop
from jaxdl.config import Config
from jaxdl.data.fingerprint import Fingerprint
from jaxdl.data.multistep import multistep_batches, multistep_spec
from jaxdl.data.pipeline import stream_batches
from jaxdl.data.prefetch import Batches
from jaxdl.errors import UserError
from jaxdl.evaluation import evaluator, whole_split
from jaxdl.held import GIB
from jaxdl.init_from import Beginning, first_state
from jaxdl.rundir.checkpoint import Checkpoints, Restored
from jaxdl.rundir.journal import MetricLog
from jaxdl.rundir.matrices import save_matrices
from jaxdl.rundir.progress import Diverged, TrainLog
from jaxdl.rundir.weights import best_step
from jaxdl.train import nonfinite, stopping
from jaxdl.train.evaluate import Evaluate
from jaxdl.train.loop import step_chunks
from jaxdl.train.sharding import batch_sharding
from jaxdl.train.state import TrainState
from jaxdl.train.step import Step, multi_step
from jaxdl.types import Batch, PyTree

ROLLED_BACK = "train/rolled_back_to"
"""Key of the metric log: the step whose weights training resumed from."""

TIMINGS = ("/images_per_second", "/data_wait")
"""Suffixes of keys whose values differ from run to run."""


@dataclasses.dataclass
class Session:
    """One training run in a run directory."""

    config: Config
    plan: Plan
    workdir: Path
    stop: Stop = dataclasses.field(default_factory=Stop)
    begin: Beginning | None = None
    """Weights of a new state."""

    def __post_init__(self) -> None:
        keep, mode = self.config.checkpoint, self.config.evaluation.mode
        self.leads = jax.process_index() == 0
        self.checkpoints = Checkpoints(
            self.workdir / "checkpoints",
            keep_latest=keep.keep_latest,
            keep_best=keep.keep_best,
            mode=mode,
        )
        self._evaluators: dict[str, Evaluate] = {}

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: Any) -> None:
        self.checkpoints.close()
        if hasattr(self, "journal"):
            self.journal.close()

    def start(self) -> Restored:
        """The newest intact checkpoint, or else a new state; opens the metric log at its step."""
        restored = restored_state(self.config, self.plan, self.checkpoints)
        restored = restored or Restored(first_state(self.config, self.plan, self.begin), {})
        self.journal = MetricLog(
            self.workdir,
            step=int(restored.state.step),
            sinks=self.plan.parts.many("log.sinks"),
            writes=self.leads,
        )
        return restored

    def step_of(self, state: TrainState) -> int:
        """Steps done."""
        return int(state.step)

    def train_log(
        self, begun: int, extra: Mapping[str, Any], waited: Callable[[], float]
    ) -> TrainLog:
        """The training log, which shows progress and writes averaged metrics.

        Args:
            begun: steps done.
            extra: what was saved beside the state.
            waited: seconds spent waiting for batches so far.
        """
        return TrainLog(
            self.journal,
            **self.log_facts(begun, waited),
            window=extra.get("window"),
            max_skipped=self.config.gradient.max_skipped,
        )

    def log_facts(self, begun: int, waited: Callable[[], float]) -> dict[str, Any]:
        """Arguments of `TrainLog` that describe the run."""
        plan, config = self.plan, self.config
        return {
            "every": max(1, plan.to_steps(config.log.every)),
            "start": begun,
            "total": plan.steps,
            "batch_size": config.data.batch_size,
            "examples": len(plan.splits["train"]),
            "schedule": plan.schedule,
            "waited": waited,
            "shows": self.leads,
        }

    def step_chunks(self, start: int) -> Iterator[range]:
        """Steps of each call of the program, from step `start` to the end of the run."""
        plan, config = self.plan, self.config
        due = [config.log.every, config.evaluation.every, config.checkpoint.every]
        due = [max(1, plan.to_steps(period)) for period in due] + [n for n, _ in plan.phases if n]
        due += [refresh.every for refresh in plan.refreshes.values()]
        return step_chunks(start, plan.steps, config.steps_per_execution, due)

    def batches(self, start: int) -> Batches:
        """Batches for the program, from step `start` to the end of the run."""
        plan, config = self.plan, self.config
        if config.steps_per_execution == 1:
            return training_batches(config, plan, start, plan.steps)
        return multistep_batches(
            **self._multistep(),
            seed=config.seed,
            runs=self.step_chunks(start),
            prefetch=config.data.prefetch,
        )

    def program(self, step: Step) -> tuple[Callable[..., Any], PyTree]:
        """The program of a step, or of several in one call, and the shapes of its batches.

        Raises:
            UserError: the examples are not in memory, and several steps need them on the device.
        """
        if self.config.steps_per_execution == 1:
            return step, self.plan.batch_spec(self.config.data.batch_size)
        return multi_step(step), multistep_spec(**self._multistep())

    def _multistep(self) -> dict[str, Any]:
        return {
            "streams": self.plan.streams,
            "longest": self.config.steps_per_execution,
            "sharding": batch_sharding(self.plan.mesh),
        }

    def evaluate(
        self, state: TrainState, role: str, weights: tuple[PyTree, PyTree] | None = None
    ) -> dict[str, float]:
        """Measure a split and write it to the metric log: 'role/metric' to value.

        Args:
            state: whose step the values are of.
            role: 'train' or an evaluation split.
            weights: what `weights(state)` gave, where that is known already.
        """
        weights = weights or self.weights(state)
        values, matrices = self._measure(weights, role)
        if role == "validation" and self.config.evaluation.generalization_gap:
            fitted, _ = self._measure(weights, "train", len(self.plan.splits[role]))
            values |= {f"train_eval/{k.partition('/')[2]}": v for k, v in fitted.items()}
            values |= gaps(values)
        self.record(int(state.step), role, values, matrices)
        return values

    def record(
        self, step: int, role: str, values: dict[str, float], matrices: dict[str, np.ndarray]
    ) -> None:
        """Write numbers, by key, to the metric log, and the matrices of a split to their files."""
        if values:  # a split may have matrices alone
            self.journal.write(step, values)
        if self.leads:
            save_matrices(self.workdir, role, matrices)

    def _measure(
        self, weights: tuple[PyTree, PyTree], role: str, examples: int | None = None
    ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Numbers by key, 'role/metric', and matrices by metric."""
        with contextlib.closing(whole_split(self.config, self.plan, role, examples)) as batches:
            evaluate = self._evaluators.setdefault(role, evaluator(self.plan, role))
            found = evaluate(*weights, self.stop.between(batches))
        return self.plan.by_name(role, found)

    def weights(self, state: TrainState) -> tuple[PyTree, PyTree]:
        """(params, variables) to evaluate, with recomputed batch statistics if asked for."""
        return weights_of(self.config, self.plan, state, self.stop.between)

    def whole(self, role: str, fingerprint: Fingerprint) -> Iterator[Batch]:
        """A split's batches for evaluation, with the number of each example."""
        batches = whole_split(self.config, self.plan, role, fingerprint=fingerprint)
        return self.stop.between(batches)

    def measurements(self) -> list[dict[str, Any]]:
        """Lines of the log so far, without what differs from run to run."""
        return [
            {key: value for key, value in line.items() if not key.endswith(TIMINGS)}
            for line in self.lines()
        ]

    def examples(self, role: str) -> Iterator[Batch]:
        """Batches of a split in its order, each example once."""
        with contextlib.closing(whole_split(self.config, self.plan, role)) as batches:
            yield from self.stop.between(batches)

    def history(self) -> list[tuple[int, float]]:
        """(step, value) of the monitored metric."""
        return self.journal.series(self.config.evaluation.monitor)

    def evaluate_all(self, state: TrainState, roles: Sequence[str]) -> dict[str, float]:
        """Measure several splits with the same weights: 'role/metric' to value."""
        again = self.config.evaluation.norm_batches and len(roles) > 1
        weights = self.weights(state) if again else None
        found: dict[str, float] = {}
        for role in roles:
            found |= self.evaluate(state, role, weights)
        return found

    def owed(self, step: int) -> list[str]:
        """Splits whose evaluation at this step is due but was interrupted by a signal."""
        n = max(1, self.plan.to_steps(self.config.evaluation.every))
        if not (step and (step % n == 0 or step == self.plan.steps)):
            return []
        return self.unmeasured(step, self.plan.roles("training"))

    def unmeasured(self, step: int, roles: Iterable[str]) -> list[str]:
        """Splits without a measurement at a step."""
        made = {k.partition("/")[0] for line in self.lines() if line["step"] == step for k in line}
        return [role for role in roles if role not in made]

    def lines(self) -> list[dict[str, Any]]:
        """Lines of the metric log so far."""
        return self.journal.lines

    def rollback_candidates(self, trouble: Diverged) -> list[int]:
        """Steps whose checkpoints `rollback_state` may take, ascending."""
        taken = self.journal.series(ROLLED_BACK)
        if len(taken) >= self.config.gradient.rollback:
            return []
        newest = trouble.began
        if taken and taken[-1][0] == trouble.began:
            newest = int(taken[-1][1]) - 1
        period = max(1, self.plan.to_steps(self.config.checkpoint.every))
        return [s for s in self.checkpoints.steps() if s <= newest and s % period == 0]

    def rollback_state(self, trouble: Diverged) -> TrainState | None:
        """State to resume from after divergence: an older checkpoint's weights at the current step.

        They are those of the newest sound checkpoint from before it, so training goes on with the
        batches after those that were skipped. Where that one led to nothing but another trouble,
        they are older still. None where the config allows no more of this, or there is none.

        Checkpoints that a signal caused are passed over, so that it does not matter to the result
        whether there was one.
        """
        like = self.plan.abstract_state(self.config.seed)
        for step in reversed(self.rollback_candidates(trouble)):
            try:
                state = self.checkpoints.restore(step, like).state
            except UserError as error:
                warnings.warn(f"{error}; going back further", stacklevel=2)
                continue
            self.journal.write(trouble.step, {ROLLED_BACK: step})
            return state.replace(step=jax.device_put(np.int32(trouble.step), state.step.sharding))
        return None

    def first_nonfinite(self, state: TrainState, step: int) -> str | None:
        """The first value that was not finite when this state took step `step`, in words."""
        return first_nonfinite(self.config, self.plan, state, step)

    def has_stopped(self) -> bool:
        """True if early stopping ends the run."""
        early, values = self.config.early_stopping, [v for _, v in self.history()]
        return early is not None and stopping.should_stop(
            values,
            patience=early.patience,
            min_delta=early.min_delta,
            mode=self.config.evaluation.mode,
        )

    def has_improved(self) -> bool:
        """True if the last evaluation is the best so far."""
        values = [v for _, v in self.history()]
        best = judging.best(values, self.config.evaluation.mode)
        return best is not None and best == len(values) - 1

    def best(self, state: TrainState) -> TrainState:
        """The best weights if early stopping restores them, else the last."""
        step = best_step(self.config, self.checkpoints.steps(), self.history())
        return state if step is None else self.checkpoints.restore(step, _abstract(state)).state


def gaps(values: dict[str, float]) -> dict[str, float]:
    """'generalization_gap/metric': of the training examples less that of the validation split.

    Both are measured alike: without augmentation, without dropout. A gap far from 0 asks for more
    regularisation; none, where the training examples are not fitted either, for less.
    """
    both = [k.removeprefix("train_eval/") for k in values if k.startswith("train_eval/")]
    both = [k for k in both if f"validation/{k}" in values]
    return {
        f"generalization_gap/{k}": values[f"train_eval/{k}"] - values[f"validation/{k}"]
        for k in both
    }


def weights_of(
    config: Config,
    plan: Plan,
    state: TrainState,
    between: Callable[[Iterable[Batch]], Iterable[Batch]] = iter,
) -> tuple[PyTree, PyTree]:
    """(params, variables) to evaluate: averaged if the run averages and the config asks for it.

    With `evaluation.norm_batches`, batch statistics of averaged weights are recomputed from that
    many training batches, the first of the run.
    """
    params, variables = state.weights(config.evaluation.average)
    n, averaged = config.evaluation.norm_batches, params is not state.params
    if not (n and averaged and "batch_stats" in variables):
        return params, variables
    with contextlib.closing(training_batches(config, plan, 0, n)) as batches:
        return params, plan.reestimate(params, variables, between(batches), state.key)


def training_batches(config: Config, plan: Plan, start: int, stop: int) -> Batches:
    """Training batches from step `start` to `stop`."""
    data = config.data
    return stream_batches(
        plan.streams,
        seed=config.seed,
        start=start,
        stop=stop,
        sharding=batch_sharding(plan.mesh),
        prefetch=data.prefetch,
        threads=data.threads,
        device_memory=int(data.device_memory * GIB),
    )


def first_nonfinite(config: Config, plan: Plan, state: TrainState, step: int) -> str | None:
    """First value that is not finite in a step from this state; see `train.nonfinite`."""
    examples = {
        name: stream.split.numbers(stream.order(config.seed, name)(step))
        for name, stream in plan.streams.items()
    }
    with contextlib.closing(training_batches(config, plan, step, step + 1)) as batches:
        return nonfinite.first_nonfinite(
            plan.objective,
            plan.tx,
            state,
            plan.told(next(batches), step),
            step,
            micro_batches=config.gradient.accumulate,
            examples=examples,
        )


def restored_state(config: Config, plan: Plan, checkpoints: Checkpoints) -> Restored | None:
    """The newest intact checkpoint, or None."""
    return checkpoints.restore_newest(lambda step: plan.abstract_state(config.seed))


def final_state(config: Config, plan: Plan, workdir: Path) -> TrainState:
    """Final state of a run: the best one if early stopping restores it, else the last.

    Raises:
        UserError: the directory has no finished checkpoint.
    """
    if not (workdir / "checkpoints").is_dir():
        raise UserError(f"'{workdir}' has no checkpoints")
    history = MetricLog(workdir, step=plan.steps, writes=False).series(config.evaluation.monitor)
    with Checkpoints(workdir / "checkpoints", writes=False) as checkpoints:
        step = best_step(config, checkpoints.steps(), history)
        if step is not None:
            return checkpoints.restore(step, plan.abstract_state(config.seed)).state
        restored = restored_state(config, plan, checkpoints)
    if restored is None:
        raise UserError(f"'{workdir}' has no finished checkpoint")
    return restored.state


def _abstract(state: TrainState) -> TrainState:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
