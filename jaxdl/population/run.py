"""The story of a population: assemble, train all members at once, let each leave its directory."""

import json
from pathlib import Path
from typing import Any

import jax

from jaxdl import frozen, tree
from jaxdl import run as single
from jaxdl.assemble import assemble
from jaxdl.cluster import hosts
from jaxdl.cluster.signals import Interrupted, Stopping, stop_signals
from jaxdl.cluster.watchdog import watchdog
from jaxdl.config import Config
from jaxdl.data.fingerprint import Fingerprint
from jaxdl.data.identity import names_of
from jaxdl.data_defaults import with_data_defaults
from jaxdl.errors import UserError
from jaxdl.evaluation import ROWS, final_roles, with_rows
from jaxdl.init_from import read_beginning
from jaxdl.metadata import run_metadata
from jaxdl.notices import data_changes, notices, trained_data
from jaxdl.perf.memory import ran_out
from jaxdl.population.members import check, members_of, standing, table
from jaxdl.population.session import Population
from jaxdl.population.stacked import mesh_of
from jaxdl.report import write_report
from jaxdl.rundir import directory
from jaxdl.rundir.outputs import note, save_outputs
from jaxdl.rundir.writer import only_writer
from jaxdl.train.state import TrainState


def run(config: Config, workdir: Path) -> list[dict[str, Any]]:
    """Train all members in `workdir`, going on where they were stopped.

    Returns:
        A row for each member, the best first: its name, values, steps and last measurements.

    Raises:
        UserError: the config, the data or the directory cannot be used.
        Interrupted: a signal came; all states are saved and the same call goes on from them.
    """
    check(config)
    members = members_of(config)
    first = members[0]
    then = trained_data(workdir, workdir / "members" / first.name)
    plan = assemble(first.config, mesh=mesh_of(1), names=names_of(then))
    config = with_data_defaults(config, plan.splits["train"])
    first = members_of(config)[0]
    single.check_patterns(first.config, plan)
    begin = read_beginning(config, plan, workdir)
    changed = data_changes(first.config, plan, then)
    with stop_signals() as stop, only_writer(workdir):
        changes = [*directory.claim(workdir, config, plan.steps), *changed]
        data = run_metadata(plan, first.config)["data"]
        manifest = directory.Manifest(workdir, members=len(members), steps=plan.steps, data=data)
        with Population(config, plan, workdir, stop, begin) as population:
            state, extra = population.start()
            _introduce(population, state, changes)
            try:
                with watchdog(config.watchdog_seconds, hosts.name()) as stop.heartbeat:
                    state, _ = single.train(population, state, extra)
                    while population.step_of(state) < plan.steps:
                        state = population.prune(state)
                        state, _ = single.train(population, state, {})
                    rows = conclude(population, state)
                unsaved = population.checkpoints.unsaved()
                stop.end()
            except Stopping:
                end = single.interrupted(population, stop, population.step_of(state))
                manifest.update(status=str(end))
                raise end from None
            except Interrupted as end:
                manifest.update(status=str(end))
                raise
            except jax.errors.JaxRuntimeError as error:
                if not ran_out(error):
                    raise
                raise UserError(
                    f"out of memory with {len(population.alive)} members at once: take fewer of "
                    "them (config.population), or a smaller config.data.batch_size"
                ) from error
        manifest.update(status=unsaved or "finished")
    print("\n".join(table(rows)))
    print(f"run directories  {workdir / 'members'}")
    with directory.writing(workdir), directory.drawing("report"):
        print(f"report           {write_report(workdir)}  (open it in a browser)")
    if unsaved:
        raise UserError(unsaved)
    return rows


def _introduce(population: "Population", state: TrainState, changes: list[str]) -> None:
    config, plan, n = population.config, population.single, len(population.alive)
    total = tree.count(state.params)
    print(f"jaxdl  {config.model.name}, {n} members of {total // n:,} parameters")
    for member in (population.members[i] for i in population.alive):
        values = "  ".join(f"{path}={value:g}" for path, value in member.values.items())
        print(f"  {member.name}  seed {member.config.seed}  {values}".rstrip())
    for line in population.begin.lines if population.begin else ():
        print(f"  begins with {line}")
    if held := frozen.in_words(config, state):
        print(f"  frozen {held}")
    for line in notices(population.members[0].config, plan, state):
        print(f"  {line}")
    for change in changes:
        print(f"  changed since the last start: {change}")
    print(f"  steps {plan.steps:,}, {population.step_of(state):,} of them done", flush=True)


def conclude(population: Population, state: TrainState) -> list[dict[str, Any]]:
    """Measure the members that are left at their end, and let each leave what it has.

    Returns:
        A row for each member, the best first.
    """
    plan, evaluation = population.single, population.config.evaluation
    kept: dict[str, dict[str, str]] = {}
    for role in final_roles(plan):
        form = "drawn"
        if not plan.held[role].sampler:
            kept[role] = _keep_outputs(population, state, role)
            form = kept[role]["form"]
        elif role in plan.roles("end"):
            population.evaluate(state, role)
        if line := note(role, form, evaluation.outputs_limit):
            print(line)
    population.leave(state, population.alive, "finished", outputs=kept)
    lines = [j.lines for j in population.journals]
    rows = standing(population.members, lines, evaluation.monitor, evaluation.mode)
    directory.replace(population.workdir / "members.json", json.dumps(rows, indent=2) + "\n")
    return rows


def _keep_outputs(population: Population, state: TrainState, role: str) -> dict[str, str]:
    """Measure a split, write each member's outputs; the form and the digest, the same for all."""
    plan, fingerprint = population.single, Fingerprint()
    measure = population.measures(role, with_rows(population.config, plan, role))
    values = population.measured(state, role, measure, fingerprint)
    rows = [one.pop(ROWS) for one in values]
    if role in plan.roles("end"):
        population.record_members(state, role, values)
    form = "none"
    for i, own in zip(population.alive, rows, strict=True):
        form = save_outputs(population.folders[i], role, own, fingerprint.text)
    return {"form": form, "digest": fingerprint.text}
