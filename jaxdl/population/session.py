"""Many runs in one program: each seed with each combination of values, as members of a population.

The step is that of a single run under `vmap`; members lie side by side along axis 0 of the state,
and over the devices where there are several. A member's numbers are those of the run that it would
be alone, up to rounding. What a value decides is traced anew with the value as an argument, so any
number that a part takes can vary, unless it decides how the program is built.

Each member leaves a run directory of its own in `members/`, which everything later can read.
"""

import contextlib
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxdl import tree
from jaxdl.assemble import Plan, assemble
from jaxdl.data.fingerprint import Fingerprint
from jaxdl.data.multistep import multistep_batches, multistep_spec
from jaxdl.data.pipeline import evaluation_batches
from jaxdl.data.prefetch import Batches
from jaxdl.errors import UserError, at
from jaxdl.held import order_of
from jaxdl.init_from import filled
from jaxdl.metadata import run_metadata
from jaxdl.metrics.base import Metric
from jaxdl.population.members import (
    Member,
    better_half,
    median,
    members_of,
    survivors,
    varied,
)
from jaxdl.population.progress import MembersLog
from jaxdl.population.stacked import fresh_members, mesh_of, over_members, places, rows_of
from jaxdl.rundir import directory
from jaxdl.rundir.checkpoint import Checkpoints, Restored
from jaxdl.rundir.constants import share
from jaxdl.rundir.journal import MetricLog
from jaxdl.rundir.matrices import save_matrices
from jaxdl.rundir.progress import TrainLog
from jaxdl.session import Session
from jaxdl.train.evaluate import Totals, lagged
from jaxdl.train.sharding import replicated
from jaxdl.train.state import TrainState, new_state, replaced
from jaxdl.train.step import Step, multi_step
from jaxdl.types import CONSTANT, Array, Batch, Metrics, PyTree, mask_of

MeasureMembers = tuple[Mapping[str, Metric], Callable[[TrainState, Batch], tuple[PyTree, Array]]]
"""Metrics by name, and (states, batch) -> what they give for each member, and the mask."""


class Population(Session):
    """A plan at work for many members; what `run.train` asks of a session, it answers for all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.members = members_of(self.config)
        self.alive = list(range(len(self.members)))
        self.single = self.plan
        """The plan of one member."""
        halving = self.config.population.successive_halving
        with at("config.population.successive_halving"):
            period = self.plan.steps if halving is None else self.plan.to_steps(halving)
        self.rounds = range(max(1, period), self.single.steps, max(1, period))
        if self.rounds and not self.plan.roles("training"):
            raise UserError(
                "config.population.successive_halving needs a split in config.data.validation"
            )
        self.folders = [self.workdir / "members" / m.name for m in self.members]
        self.manifests: dict[int, directory.Manifest] = {}
        self.journals: list[MetricLog] = []

    def __exit__(self, *_: Any) -> None:
        for writer in (self.checkpoints, *self.journals):
            writer.close()

    def start(self) -> Restored:
        """The newest sound checkpoint of all members that were left then, or else fresh states."""
        monitor, mode = self.config.evaluation.monitor, self.config.evaluation.mode
        rundirs = zip(self.folders, self.members, strict=True)
        for folder, member in rundirs:
            directory.claim(folder, member.config)
        histories = [MetricLog(f, step=2**62, writes=False).series(monitor) for f in self.folders]

        def like(step: int) -> TrainState:
            self.alive = survivors(histories, self.rounds, step, mode)
            return self._abstract()

        found = self.checkpoints.restore_newest(like)
        if found is None:
            self.alive = list(range(len(self.members)))
            found = Restored(self._first(), {})
        step = int(found.state.step[0])
        self.alive = survivors(histories, self.rounds, step, mode)
        sinks = self.plan.parts.many("log.sinks")
        self.journals = [MetricLog(folder, step=step, sinks=sinks) for folder in self.folders]
        count = tree.count(found.state.params) // len(self.alive)
        for i in self.alive:
            about = run_metadata(self.single, self.members[i].config)
            self.manifests[i] = directory.Manifest(self.folders[i], **about, parameters=count)
        # A round that ends here has not been judged yet.
        self.plan = self._plan(step - 1)
        return found

    def step_of(self, state: TrainState) -> int:
        """Steps done, the same for all members."""
        return int(state.step[0])

    def _plan(self, step: int) -> Plan:
        """Of the round that follows a step."""
        ends = [end for end in self.rounds if end > step] if len(self.alive) > 1 else []
        phases = [(start, self._together(i)) for i, (start, _) in enumerate(self.single.phases)]
        end = min(ends, default=self.single.steps)
        return self.single._replace(steps=end, phases=tuple(phases), mesh=self._mesh())

    def _mesh(self) -> Mesh:
        return mesh_of(len(self.alive))

    def _values(self) -> dict[str, np.ndarray]:
        """Path to the values of the members that are left, (n,) float32."""
        return {
            path: np.asarray([self.members[i].values[path] for i in self.alive], np.float32)
            for path in self.config.population.grid
        }

    def _seeds(self) -> list[int]:
        return [self.members[i].config.seed for i in self.alive]

    def _planned(self, values: Mapping[str, Array]) -> Plan:
        """The plan of a member whose values are traced."""
        config = varied(self.members[0].config, values)
        return assemble(config, self.single.splits, self.single.mesh)

    @contextlib.contextmanager
    def _one_program(self) -> Iterator[None]:
        try:
            yield
        except jax.errors.ConcretizationTypeError as error:
            raise UserError(
                f"a value of {', '.join(self.config.population.grid)} decides how the program is "
                "built, and cannot vary within one: vary it by `jaxdl trials`"
            ) from error

    def _all_fresh(self, begin: Mapping[str, Array] | None = None) -> TrainState:
        """First states of all members, which may begin with the same weights by name."""

        def one(values: Mapping[str, Array], seed: Array) -> TrainState:
            plan = self._planned(values)
            state = new_state(*plan.first(seed)[:4], plan.state_spec)
            weights = begin and filled(begin, state.params, state.all_variables)
            return replaced(state, plan.tx, *weights) if weights else state

        with self._one_program():
            return fresh_members(one, self._values(), np.asarray(self._seeds(), np.uint32))

    def _first(self) -> TrainState:
        shapes = jax.eval_shape(self._all_fresh)
        fresh = jax.jit(self._all_fresh, out_shardings=places(shapes, self._mesh()))
        return fresh(self.begin and self.begin.values)

    def _abstract(self) -> TrainState:
        shapes = jax.eval_shape(self._all_fresh)
        return jax.tree.map(
            lambda s, place: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=place),
            shapes,
            places(shapes, self._mesh()),
        )

    def _orders(self) -> tuple[list[int], np.ndarray | None]:
        """Seeds of the orders of examples, and which of them each member follows; None: the one."""
        seeds = self._seeds()
        orders = sorted(set(seeds))
        return orders, np.asarray([orders.index(s) for s in seeds]) if len(orders) > 1 else None

    def _together(self, phase: int) -> Step:
        """The step of all members: batches have an order of examples a row."""
        values, (_, which) = self._values(), self._orders()

        def step(states: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
            def one(state: TrainState, own: Mapping[str, Array], order: Array | None):
                mine = jax.tree.map(lambda x: x[0 if order is None else order], batch)
                return self._planned(own).phases[phase][1](state, mine)

            axes = (0, 0, None if which is None else 0)
            with self._one_program():
                return over_members(one, states, values, which, in_axes=axes)

        return step

    def program(self, step: Step) -> tuple[Callable[..., Any], PyTree]:
        """Several steps of all members, and the shapes of what they are called with."""
        return multi_step(step), multistep_spec(**self._multistep())

    def batches(self, start: int) -> Batches:
        """Batches for the program, from step `start` to the end of the round."""
        return multistep_batches(
            **self._multistep(), runs=self.step_chunks(start), prefetch=self.config.data.prefetch
        )

    def _multistep(self) -> dict[str, Any]:
        whole = replicated(self._mesh())
        return super()._multistep() | {"sharding": whole, "seed": self._orders()[0]}

    def train_log(
        self, begun: int, extra: Mapping[str, Any], waited: Callable[[], float]
    ) -> MembersLog:
        """A log for each member that is left."""
        windows = extra.get("window") or [None] * len(self.alive)
        journals = [self.journals[i] for i in self.alive]
        facts = self.log_facts(begun, waited)
        logs = [
            TrainLog(
                journal,
                **facts | {"schedule": self._schedule(self.members[i]), "shows": False},
                window=window,
                max_skipped=sys.maxsize,
            )
            for i, journal, window in zip(self.alive, journals, windows, strict=True)
        ]
        return MembersLog(
            logs, journals, every=facts["every"], end=facts["total"], total=self.single.steps
        )

    def _schedule(self, member: Member) -> Callable[[int], float]:
        return assemble(member.config, self.single.splits, self.single.mesh).schedule

    def evaluate(
        self, state: TrainState, role: str, weights: tuple[PyTree, PyTree] | None = None
    ) -> dict[str, float]:
        """Measure a split for each member, write it to its journal; quartiles of each metric."""
        if role not in self._evaluators:
            self._evaluators[role] = self.measures(role, self.single.metrics_of(role))
        values = self.measured(state, role, self._evaluators[role])
        rows = self.record_members(state, role, values)
        return {f"{key} (median)": median([r[key] for r in rows]) for key in rows[0]}

    def measured(
        self,
        state: TrainState,
        role: str,
        measure: MeasureMembers,
        fingerprint: Fingerprint | None = None,
    ) -> list[dict[str, Any]]:
        """Values of a split by metric, of each member that is left.

        Args:
            state: of these members.
            role: an evaluation split.
            measure: of that split, from `measures`.
            fingerprint: takes in the examples, which are numbered then.
        """
        data, split = self.config.data, self.single.splits[role]
        batches = evaluation_batches(
            split,
            order=order_of(self.config, role, self.single.held[role], split),
            batch_size=data.evaluation_batch_size,
            sharding=replicated(self._mesh()),
            prefetch=data.prefetch,
            threads=data.threads,
            fingerprint=fingerprint,
        )
        metrics, program = measure
        totals = [Totals(metrics) for _ in self.alive]
        with contextlib.closing(batches):
            results = (program(state, batch) for batch in self.stop.between(batches))
            for found, mask in lagged(results):
                for i, total in enumerate(totals):
                    total.add(jax.tree.map(lambda x, i=i: x[i], found), mask)
        return [total.values() for total in totals]

    def record_members(
        self, state: TrainState, role: str, values: Sequence[dict[str, Any]]
    ) -> list[dict[str, float]]:
        """Write what `measured` gave to the members' journals and files; their numbers by key."""
        rows = []
        for i, own in zip(self.alive, values, strict=True):
            numbers, matrices = self.single.by_name(role, own)
            self.journals[i].write(self.step_of(state), numbers)
            save_matrices(self.folders[i], role, matrices)
            rows.append(numbers)
        return rows

    def measures(self, role: str, metrics: Mapping[str, Metric]) -> MeasureMembers:
        """The metrics of a split, and the program that measures a batch for all members."""

        @jax.jit
        def measured(states: TrainState, values: Mapping[str, Array], batch: Batch):
            def one(state: TrainState, own: Mapping[str, Array]) -> PyTree:
                params, variables = state.weights(self.config.evaluation.average)
                outputs = self._planned(own).held[role].objective.predict(params, variables, batch)
                return {name: metric.sums(outputs, batch) for name, metric in metrics.items()}

            with self._one_program():
                return over_members(one, states, values), mask_of(batch)

        return metrics, lambda states, batch: measured(states, self._values(), batch)

    def has_stopped(self) -> bool:
        """Never: members are pruned between rounds."""
        return False

    def has_improved(self) -> bool:
        """Only the newest checkpoints of a population are kept."""
        return False

    def lines(self) -> list[dict[str, Any]]:
        """Lines of the metric logs so far, of all members that are left."""
        return [line for i in self.alive for line in self.journals[i].lines]

    def history(self) -> list[tuple[int, float]]:
        """No one number is monitored."""
        return []

    def prune(self, state: TrainState) -> TrainState:
        """Leave the worse half behind, as they are; the others' state, over devices anew."""
        step, judged = self.step_of(state), self.config.evaluation
        values = [dict(j.series(judged.monitor)).get(step, math.nan) for j in self.journals]
        kept = better_half(self.alive, values, judged.mode)
        self.leave(state, [i for i in self.alive if i not in kept], f"pruned at step {step}")
        rows = np.asarray([self.alive.index(i) for i in kept])
        self.alive = kept
        state = jax.device_put(rows_of(state, rows), places(state, self._mesh()))
        self.plan = self._plan(step)
        return state

    def leave(self, state: TrainState, which: Sequence[int], status: str, **entries: Any) -> None:
        """Write members' states into their own directories, and entries into their manifests."""
        step, keep = self.step_of(state), self.config.checkpoint
        for i in which:
            member, row = self.members[i], self.alive.index(i)
            own = rows_of(state, row)
            share(self.workdir / CONSTANT, self.folders[i] / CONSTANT)
            with Checkpoints(self.folders[i] / "checkpoints", keep_latest=keep.keep_latest) as c:
                if step not in c.steps():
                    c.save(step, own, None, {})
            self.manifests[i].update(status=status, values=member.values, **entries)
