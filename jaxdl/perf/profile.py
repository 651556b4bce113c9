"""Profile of a training step: a trace of some steps, read op by op.

The profiler writes planes of lines of events (https://openxla.org/xprof/terminology). Ops are:

    on TPU   the line 'XLA Ops' of each plane '/device:TPU:0', named by their HLO instruction
    on GPU   the lines 'Stream ...' of each plane '/device:GPU:0': kernels, `hlo_op` says of which
    on CPU   in plane '/host:CPU', whatever has an `hlo_op`, on the lines of XLA's threads

What an instruction is, and which module of the model it comes from, is read in the compiled
program. An op's time is its own: that of ops inside it, as of a loop's body, is taken off.
"""

import contextlib
import dataclasses
import re
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxdl.assemble import assemble
from jaxdl.config import Config
from jaxdl.errors import UserError
from jaxdl.perf.table import aligned
from jaxdl.session import first_state, training_batches
from jaxdl.train.step import compile_step

WARM_UP = 2  # steps before the clock: the first allocates, and the reader begins to run ahead

# In order: the first one of which an instruction, or anything fused into it, has an opcode.
CATEGORIES = {
    "collective": r"(all-(reduce|gather|to-all)|reduce-scatter|collective-\w+)(-start|-done)?",
    "convolution": r"convolution",
    "matmul": r"dot|ragged-dot",
    "rng": r"rng(-\w+)*",
    "reduce": r"reduce|reduce-window|select-and-scatter|sort|topk",
    "copy, transpose": r"copy(-start|-done)?|transpose|reshape|reverse|broadcast|concatenate|pad"
    r"|slice|dynamic-(update-)?slice|gather|scatter",
}
ELEMENTWISE, OTHER = "elementwise, fusion", "other"
# A library's kernel is known by what is called.
TARGETS = {"convolution": r"conv", "matmul": r"gemm|matmul|cublas|dot", "rng": r"rng|threefry"}
# What arranges or names numbers, and does not compute with them.
_PLAIN = re.compile(
    r"parameter|constant|iota|bitcast|tuple|get-tuple-element|" + CATEGORIES["copy, transpose"]
)
# Who runs other instructions, and takes no time of its own but to do so.
_CONTROL = ("while", "conditional", "call")


class Instruction(NamedTuple):
    """One instruction of a compiled program."""

    opcode: str
    op_name: str
    """JAX's name stack, the primitive last; '' where XLA made the instruction"""
    target: str
    """of a custom call"""
    calls: str
    """the computation that a fusion is made of"""
    operands: tuple[str, ...] = ()


class Op(NamedTuple):
    """One op of the trace, all its calls together."""

    name: str
    category: str
    module: str
    """path in the model, such as 'backbone/stage1_block1/conv1'; '' where it has none"""
    primitive: str
    pass_: str
    """'forward', 'backward', or '' for the rest of the step"""
    seconds: float
    calls: int


@dataclasses.dataclass(frozen=True)
class Profile:
    """Time of some steps, by op.

    Attributes:
        ops: of all devices, the costliest first.
        steps: traced, and as many timed before.
        step_seconds: of one step, without the profiler.
        waited: fraction of that time in which the devices waited for a batch, in [0, 1].
        traced_seconds: of one step while it was traced.
        trace: the file.
    """

    ops: tuple[Op, ...]
    steps: int
    step_seconds: float
    waited: float
    traced_seconds: float
    trace: Path

    @property
    def seconds(self) -> float:
        """Of all ops."""
        return sum(op.seconds for op in self.ops)

    def fractions(self, key: str) -> dict[str, float]:
        """Fraction of the ops' time by one of their fields, the largest first."""
        sums: Counter[str] = Counter()
        for op in self.ops:
            sums[getattr(op, key)] += op.seconds
        return {name: value / self.seconds for name, value in sums.most_common()}


def profile(config: Config, out: Path, steps: int = 10) -> Profile:
    """Train some steps of a config, and as many again under the profiler.

    Args:
        config: of the run; the step is the one that it ends with.
        out: directory of the trace, which TensorBoard's profiler and Perfetto read too.
        steps: traced.

    Raises:
        UserError: the config cannot be used, or the directory not be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write '{out}': {error.strerror}") from error
    plan = assemble(config)
    state = first_state(config, plan)
    spec = plan.batch_spec(config.data.batch_size)
    step = compile_step(plan.step, state).lower(state, spec).compile()
    with contextlib.closing(training_batches(config, plan, 0, WARM_UP + 2 * steps)) as batches:

        def timed(n: int) -> tuple[float, float]:
            nonlocal state
            clock, waited = time.perf_counter(), batches.waited
            for _ in range(n):
                # With nothing in flight, to wait for a batch is to leave the devices idle.
                state, _ = jax.block_until_ready(step(state, next(batches)))
            return time.perf_counter() - clock, batches.waited - waited

        timed(WARM_UP)
        seconds, waited = timed(steps)
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # each Python call would be an event, and slow the loop
        with jax.profiler.trace(out, profiler_options=options):
            traced, _ = timed(steps)
    trace = max(out.rglob("*.xplane.pb"), key=lambda file: file.stat().st_mtime)
    return Profile(
        ops=ops_of(jax.profiler.ProfileData.from_file(str(trace)), step.as_text()),
        steps=steps,
        step_seconds=seconds / steps,
        waited=waited / seconds,
        traced_seconds=traced / steps,
        trace=trace,
    )


# Reading


def ops_of(data: Any, program: str) -> tuple[Op, ...]:
    """Ops of a trace, the costliest first.

    Args:
        data: a `jax.profiler.ProfileData`.
        program: the text of the compiled program that was traced.
    """
    instructions, computations = read_program(program)
    seconds: defaultdict[str, float] = defaultdict(float)
    calls: Counter[str] = Counter()
    with warnings.catch_warnings():
        # jaxlib 0.12 warns while it reads; where warnings are errors, that aborts the interpreter.
        warnings.simplefilter("ignore", DeprecationWarning)
        lines = list(_lines(data))
    for events in lines:
        for name, own in _own_times(events):
            seconds[name] += own / 1e9
            calls[name] += 1
    found = []
    for name, total in seconds.items():
        known = instructions.get(name, Instruction("", "", "", ""))
        category = _category(name, known, computations)
        found.append(Op(name, category, *_origin(known.op_name), total, calls[name]))
    return tuple(sorted(found, key=lambda op: -op.seconds))


Event = tuple[float, float, str]
"""Start and end in nanoseconds, and the name of an instruction."""


def _lines(data: Any) -> Iterator[list[Event]]:
    """The events that are ops, line by line."""
    for plane in data.planes:
        if re.search(r"/device:TPU:\d+$", plane.name):
            wanted, needs_stat = r"XLA Ops$", False
        elif "/device:GPU:" in plane.name:
            wanted, needs_stat = r"Stream", False
        elif plane.name.endswith("/host:CPU"):
            wanted, needs_stat = r"", True
        else:
            continue
        for line in plane.lines:
            if re.match(wanted, line.name):
                named = ((e, _instruction_name(e, needs_stat)) for e in line.events)
                yield [(e.start_ns, e.start_ns + e.duration_ns, n) for e, n in named if n]


def _instruction_name(event: Any, needs_stat: bool) -> str | None:
    """The HLO instruction that an event ran; None where it ran none of a device."""
    for key, value in event.stats:
        if key == "hlo_op":
            return str(value).lstrip("%")
    # '%fusion.3 = f32[8]{0} fusion(...)' on TPU; a kernel that XLA did not name on GPU
    return None if needs_stat else event.name.partition(" = ")[0].lstrip("%")


def _own_times(events: Iterable[Event]) -> Iterator[tuple[str, float]]:
    """(name, nanoseconds without those of events inside it) of each event of one line."""
    stack: list[list[Any]] = []  # [end, name, own time]
    for start, end, name in sorted(events, key=lambda e: (e[0], -e[1])):
        while stack and stack[-1][0] <= start:
            _, done, own = stack.pop()
            yield done, own
        if stack:
            stack[-1][2] -= min(end, stack[-1][0]) - start
        stack.append([end, name, end - start])
    for _, name, own in stack:
        yield name, own


_RESULT = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*)")
_OPCODE = re.compile(r"(?:^|\s)([a-z][\w\-]*)\(")
_OPERANDS = re.compile(r"%([\w.\-]+)")
_FIELDS = {
    "op_name": re.compile(r'op_name="([^"]*)"'),
    "target": re.compile(r'custom_call_target="([^"]*)"'),
    "calls": re.compile(r"\bcalls=%?([\w.\-]+)"),
}


def read_program(text: str) -> tuple[dict[str, Instruction], dict[str, list[str]]]:
    """Instructions by name, and the names of those that each computation is made of."""
    instructions: dict[str, Instruction] = {}
    computations: dict[str, list[str]] = {}
    body: list[str] = []
    for line in text.splitlines():
        if line.endswith("{") and not line[:1].isspace():
            name = line.removeprefix("ENTRY ").lstrip("%").split()[0]
            body = computations.setdefault(name.partition("(")[0], [])
            continue
        result = _RESULT.match(line)
        opcode = _OPCODE.search(result[2]) if result else None
        if opcode:
            fields = {k: pattern.search(result[2]) for k, pattern in _FIELDS.items()}
            said = {k: match[1] if match else "" for k, match in fields.items()}
            operands = tuple(_OPERANDS.findall(result[2][opcode.end() :].partition(")")[0]))
            instructions[result[1]] = Instruction(opcode[1], **said, operands=operands)
            body.append(result[1])
    opcodes = {k: [instructions[i].opcode for i in v] for k, v in computations.items()}
    return _named(instructions, computations), opcodes


def _named(
    instructions: dict[str, Instruction], computations: dict[str, list[str]]
) -> dict[str, Instruction]:
    """The same, those that XLA made without a name called as what is inside, or reads them."""
    names = {name: known.op_name for name, known in instructions.items()}
    for name, known in instructions.items():
        inner = [names[i] for i in computations.get(known.calls, ()) if names[i]]
        names[name] = names[name] or (inner[-1] if inner else "")
    unnamed = {name for name, op_name in names.items() if not op_name}
    for name, known in reversed(instructions.items()):  # readers stand below what they read
        for operand in unnamed.intersection(known.operands):
            # A gradient is read by the optimizer too: the reader in the model says whose it is.
            if not names[operand] or "jvp(" not in names[operand] and "jvp(" in names[name]:
                names[operand] = names[name]
    return {name: known._replace(op_name=names[name]) for name, known in instructions.items()}


def _category(name: str, known: Instruction, computations: dict[str, list[str]]) -> str:
    if known.target or not known.opcode:
        said = (known.target or name).lower()
        copies = "copy, transpose" if re.match(r"memcpy|memset", said) else OTHER
        return next((c for c, pattern in TARGETS.items() if re.search(pattern, said)), copies)
    if known.opcode in _CONTROL:
        return OTHER
    opcodes = computations.get(known.calls) or [known.opcode]
    for category, pattern in list(CATEGORIES.items())[:-1]:
        if any(re.fullmatch(pattern, o) for o in opcodes):
            return category
    if re.search(r"threefry|random_bits|rng_bit", known.op_name):
        return "rng"
    return "copy, transpose" if all(map(_PLAIN.fullmatch, opcodes)) else ELEMENTWISE


def _origin(op_name: str) -> tuple[str, str, str]:
    """(module, primitive, pass) of a name stack such as 'jit(step)/jvp(Net)/backbone/conv1/add'.

    Of ops that were merged, 'jit(step)/(a/add:b/add)', the first one's.
    """
    if not op_name:
        return "", "", ""
    *scopes, primitive = re.sub(r"/\(([^:]*):.*\)$", r"/\1", op_name).split("/")
    # A gradient is a transposed linearisation, and linearised operations are the forward pass.
    backward = any(s.startswith("transpose(") for s in scopes)
    forward = any(s.startswith("jvp(") for s in scopes)
    # Modules are names; transformations have brackets, methods a dot, loops are these.
    loops = ("while", "body", "cond", "closed_call", "checkpoint", "rematted_computation")
    path = [s for s in scopes if re.fullmatch(r"\w+", s) and s not in loops]
    pass_ = "backward" if backward else "forward" if forward else ""
    return "/".join(path), primitive, pass_


# Telling


def text(result: Profile, top: int = 15) -> str:
    """Fractions by category and by pass, the costliest ops, and the time that waited for input."""
    ms, fraction = lambda s: f"{1e3 * s / result.steps:.3f} ms", lambda s: f"{100 * s:.1f} %"
    calls = Counter({op.category: 0 for op in result.ops})
    for op in result.ops:
        calls[op.category] += op.calls
    categories = [("category", "a step", "fraction", "calls")] + [
        (name, ms(part * result.seconds), fraction(part), f"{calls[name] / result.steps:.0f}")
        for name, part in result.fractions("category").items()
    ]
    ops = [("op", "category", "a step", "fraction", "calls", "pass", "module", "primitive")] + [
        (
            op.name,
            op.category,
            ms(op.seconds),
            fraction(op.seconds / result.seconds),
            f"{op.calls / result.steps:.0f}",
            op.pass_,
            op.module,
            op.primitive,
        )
        for op in result.ops[:top]
    ]
    passes = {name or "the rest of the step": p for name, p in result.fractions("pass_").items()}
    said = "  ".join(f"{name} {fraction(part)}" for name, part in passes.items())
    return "\n".join(
        [
            f"{result.steps} steps of {1e3 * result.step_seconds:.2f} ms "
            f"(traced {1e3 * result.traced_seconds:.2f} ms), waiting for input "
            f"{fraction(result.waited)}",
            "",
            *aligned(categories, "<>>>"),
            said,
            "",
            *aligned(ops, "<<>>><<<"),
            "",
            f"trace  {result.trace}",
        ]
    )
