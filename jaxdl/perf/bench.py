"""Benchmark of models: cost, and speed on this machine: `jaxdl bench`.

Training is the step of a run: normalised images, forward, backward, SGD with momentum, the norms
that are logged. Inference is what evaluation calls. Programs are compiled without the cache on
disk, then called in turn, so that what else the machine does falls on all of them alike.

FLOPs are the model's, not the program's: two a multiply-add, and a training step has three times
those of the forward pass, as in PaLM's model FLOPs utilisation (Chowdhery et al. 2022,
https://arxiv.org/abs/2204.02311, appendix B). What a network computes again is not counted.
"""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from jaxdl import models, tree
from jaxdl.assemble import Plan, assemble
from jaxdl.config import Checkpoint, Config, Data, Part, part
from jaxdl.config_file import in_words
from jaxdl.errors import UserError
from jaxdl.perf.flops import macs
from jaxdl.perf.memory import activation_bytes, ran_out
from jaxdl.perf.roofline import CLOCKS, Clock, Roofline
from jaxdl.perf.table import aligned, amount
from jaxdl.rundir.directory import environment
from jaxdl.session import first_state, training_batches
from jaxdl.train.state import TrainState
from jaxdl.train.step import Step, compile_step
from jaxdl.types import Batch, PyTree

Mode = Literal["train", "infer"]

ROUND_SECONDS = 0.25  # of one program in one round
MOST_CALLS = 50  # in one round
WARM_UP = 2  # calls before the clock


class Cost(NamedTuple):
    """Cost of a program, known before it runs."""

    model: str
    mode: Mode
    image: tuple[int, ...]
    batch_size: int
    dtype: str
    devices: int
    parameters: int
    macs: int
    """of a forward pass of the batch"""
    activation_bytes: int | None
    """that the forward pass of the batch keeps for the backward pass; None in inference"""
    init_seconds: float
    """compiling and running the model's initialisation"""
    lower_seconds: float
    """tracing, and lowering to StableHLO"""
    compile_seconds: float
    """XLA's compilation"""
    program_bytes: int
    """memory on each device: arguments, results and temporaries"""
    traffic_bytes: int
    """that each device cannot but move: arguments and results, and activations out and in again"""

    @property
    def flops(self) -> int:
        """Of one call on one device."""
        return 2 * self.macs * (3 if self.mode == "train" else 1) // self.devices


class Round(NamedTuple):
    """Some calls of a program."""

    seconds: float
    """of a call among calls that do not wait for each other"""
    latencies: tuple[float, ...]
    """of calls that are waited for, each"""


class Program(NamedTuple):
    """A compiled program, and what calls it once more."""

    cost: Cost
    call: Callable[[], PyTree]


def config_of(
    model: Part, batch_size: int, image: Sequence[int] | None = None, precision: str = "auto"
) -> Config:
    """The run whose step is measured.

    Args:
        model: with its arguments.
        batch_size: examples in a step.
        image: (h, w, c); without it, what the model was made for.
        precision: a registered one.
    """
    size, classes = image or models.input_shape(model.name), models.usual_classes(model.name)
    source = part("fake", size=list(size), num_classes=classes, examples=batch_size)
    return Config(
        data=Data(source, validation=None, test=None, batch_size=batch_size),
        model=model,
        optimizer=part("sgd", learning_rate=1e-3, momentum=0.9),
        schedule=part("constant"),
        duration="1000 steps",
        precision=Part(precision),
        checkpoint=Checkpoint(every="1000 steps"),
    )


def bench(
    configs: Sequence[Config],
    modes: Sequence[Mode] = ("train", "infer"),
    *,
    repeats: int = 10,
    clock: Literal["wall", "cpu"] = "wall",
) -> list[tuple[Cost, list[Round]]]:
    """Compile every program, then time them round after round, each in turn.

    Args:
        configs: from `config_of`.
        modes: of each.
        repeats: rounds.
        clock: a key of `CLOCKS`.

    Raises:
        UserError: a config that cannot be used, or programs that do not fit together.
    """
    plans = [assemble(config) for config in configs]  # a mistake in the last is told first
    try:
        programs = [
            compiled(config, plan, mode, CLOCKS[clock])
            for (config, plan), mode in itertools.product(zip(configs, plans, strict=True), modes)
        ]
        return _timed(programs, repeats, CLOCKS[clock])
    except jax.errors.JaxRuntimeError as error:
        if not ran_out(error):
            raise
        raise UserError("out of memory: take fewer models at once, or a smaller batch") from error


def compiled(config: Config, plan: Plan, mode: Mode, clock: Clock = time.perf_counter) -> Program:
    """One program, compiled as if for the first time, on a batch of its config's data."""
    jax.clear_caches()  # what was traced for another mode would be found again
    with _uncached():
        state, init_seconds = _seconds(clock, first_state, config, plan)
        with contextlib.closing(training_batches(config, plan, 0, 1)) as batches:
            batch = next(batches)
        weights = (state.params, state.all_variables)
        if mode == "train":
            lower = lambda: compile_step(plan.step, state).lower(state, batch)
        else:
            logits = lambda *args: plan.objective.predict(*args)["logits"]
            lower = lambda: jax.jit(logits).lower(*weights, batch)
        lowered, lower_seconds = _seconds(clock, lower)
        program, compile_seconds = _seconds(clock, lowered.compile)
    kept = None
    if mode == "train":
        spec = plan.batch_spec(config.data.batch_size)
        kept = int(activation_bytes(plan.objective, state, spec) * config.data.batch_size)
    sizes = program.memory_analysis()
    # What is donated is given back in the same place, but read and written all the same.
    boundary = sizes.argument_size_in_bytes + sizes.output_size_in_bytes
    precision = plan.parts.one("precision", plan.to_steps)()
    cost = Cost(
        model=in_words(config.model),
        mode=mode,
        image=tuple(batch["image"].shape[1:]),
        batch_size=config.data.batch_size,
        dtype=str(precision.dtype),
        devices=plan.mesh.size,
        parameters=tree.count(state.params),
        macs=macs(plan.objective.predict, *weights, batch),
        activation_bytes=kept,
        init_seconds=init_seconds,
        lower_seconds=lower_seconds,
        compile_seconds=compile_seconds,
        program_bytes=boundary - sizes.alias_size_in_bytes + sizes.temp_size_in_bytes,
        traffic_bytes=boundary + 2 * (kept or 0) // plan.mesh.size,
    )
    if mode == "infer":
        return Program(cost, lambda: program(*weights, batch))
    return Program(cost, _stepping(program, state, batch))


def _stepping(step: Step, state: TrainState, batch: Batch) -> Callable[[], PyTree]:
    """Calls that train on the same batch again; each gives the metrics."""

    def call() -> PyTree:
        nonlocal state
        state, metrics = step(state, batch)
        return metrics

    return call


@contextlib.contextmanager
def _uncached() -> Iterator[None]:
    """Nothing is read from the cache of programs on disk, nor written to it."""
    from jax.experimental.compilation_cache import compilation_cache

    enabled = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # whether there is a cache is asked once
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", enabled)
        compilation_cache.reset_cache()


def _seconds(clock: Clock, function: Callable[..., Any], *args: Any) -> tuple[Any, float]:
    start = clock()
    found = jax.block_until_ready(function(*args))
    return found, clock() - start


def _timed(
    programs: Sequence[Program], repeats: int, clock: Clock
) -> list[tuple[Cost, list[Round]]]:
    calls = []
    for program in programs:
        for _ in range(WARM_UP):
            jax.block_until_ready(program.call())
        once = _round(program.call, 1, time.perf_counter).seconds
        calls.append(int(np.clip(ROUND_SECONDS / 2 / max(once, 1e-9), 1, MOST_CALLS)))
    rounds: list[list[Round]] = [[] for _ in programs]
    for _ in range(repeats):
        for program, n, found in zip(programs, calls, rounds, strict=True):
            found.append(_round(program.call, n, clock))
    return [(p.cost, found) for p, found in zip(programs, rounds, strict=True)]


def _round(call: Callable[[], PyTree], n: int, clock: Clock) -> Round:
    latencies = []
    for _ in range(n):
        start = clock()
        jax.block_until_ready(call())
        latencies.append(clock() - start)
    start = clock()
    for _ in range(n):
        found = call()
    jax.block_until_ready(found)
    return Round((clock() - start) / n, tuple(latencies))


def report(
    measurements: Sequence[tuple[Cost, Sequence[Round]]], roofline: Roofline, clock: str
) -> dict[str, Any]:
    """All of it as JSON: versions, hardware and command; the roofline; a record a program.

    Args:
        measurements: from `bench`.
        roofline: of one device, by the same clock.
        clock: that it was measured by.
    """
    stats = jax.local_devices()[0].memory_stats() or {}
    return {
        "environment": environment(),
        "clock": clock,
        "roofline": roofline._asdict(),
        # of the process, whose models are there together
        "device_peak_bytes": stats.get("peak_bytes_in_use"),
        "results": [_record(cost, rounds, roofline) for cost, rounds in measurements],
    }


def _record(cost: Cost, rounds: Sequence[Round], roofline: Roofline) -> dict[str, Any]:
    seconds = [r.seconds for r in rounds]
    low, median, high = np.percentile(seconds, (25, 50, 75))
    latencies = [s for r in rounds for s in r.latencies]
    p50, p99 = np.percentile(latencies, (50, 99))
    speed = cost.flops / median
    best = roofline.attainable(cost.flops, cost.traffic_bytes, cost.dtype)
    return {
        **cost._asdict(),
        "flops": cost.flops,
        "p50_seconds": float(p50),
        "p99_seconds": float(p99),
        "latencies": len(latencies),
        "step_seconds": float(median),
        "step_quartiles": [float(low), float(high)],
        "examples_per_second": float(cost.batch_size / median),
        "share_of_peak": float(speed / roofline.flops[cost.dtype]),
        "share_of_roofline": float(speed / best),
        "rounds": [float(f"{s:.6g}") for s in seconds],
    }


def text(summary: dict[str, Any]) -> str:
    """Two tables, of costs and of times, from `report`."""
    results, roofline = summary["results"], summary["roofline"]
    costs = [("model", "image", "batch", "type", "parameters", "multiply-adds", "activations")]
    times = [
        ("model", "", "init s", "lower s", "compile s", "memory", "p50 ms", "p99 ms", "of calls")
        + ("step ms", "quartiles", "examples/s", "of peak", "of roofline")
    ]
    for r in results:
        kept = r["activation_bytes"]
        row = (
            r["model"],
            "x".join(map(str, r["image"])),
            str(r["batch_size"]),
            r["dtype"],
            f"{r['parameters']:,}",
            amount(r["macs"]),
            "" if kept is None else amount(kept, "B"),
        )
        if row[:-1] != costs[-1][:-1]:
            costs.append(row)
        low, high = (100 * (q / r["step_seconds"] - 1) for q in r["step_quartiles"])
        times.append(
            (
                r["model"],
                r["mode"],
                *(f"{r[f'{k}_seconds']:.2f}" for k in ("init", "lower", "compile")),
                amount(r["program_bytes"], "B"),
                *(f"{1e3 * r[f'{k}_seconds']:.4g}" for k in ("p50", "p99")),
                str(r["latencies"]),
                f"{1e3 * r['step_seconds']:.4g}",
                f"{low:+.1f} {high:+.1f} %",
                f"{r['examples_per_second']:,.4g}",
                *(f"{100 * r[f'share_of_{k}']:.1f} %" for k in ("peak", "roofline")),
            )
        )
    peaks = ", ".join(f"{dtype} {amount(f, 'FLOP/s')}" for dtype, f in roofline["flops"].items())
    clock = {"wall": "wall clock", "cpu": "CPU time of all cores together"}[summary["clock"]]
    lines = [
        *aligned(costs, "<<><>>>"),
        "",
        *aligned(times, "<<" + ">" * 12),
        "",
        f"step: of calls that do not wait for each other, median of {len(results[0]['rounds'])} "
        f"interleaved rounds; {clock}",
        f"{roofline['device']}, measured: {peaks}, memory {amount(roofline['bandwidth'], 'B/s')}",
        "FLOPs: two a multiply-add, three forward passes a training step",
    ]
    if summary["device_peak_bytes"]:
        lines.append(f"device memory, all models: {amount(summary['device_peak_bytes'], 'B')}")
    return "\n".join(lines)
