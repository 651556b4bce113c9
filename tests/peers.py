"""One training step of five networks, beside PyTorch and plain Flax: `python -m tests.peers`.

    python -m tests.peers --torch-python PATH [--cores 0] [--repeats 9] [--json FILE]
    python -m tests.peers --torch-python PATH --wall --cores 0 1 2 3      # on an idle machine
    python -m tests.peers --torch-python PATH --device cuda               # bfloat16, 224x224

A step is forward, backward and SGD with momentum, on one batch that stays where it is. Each column
is a process of its own, and they take turns: A B C D A B C D. A figure is the median of the
repeats, a ratio the median of the repeats' own ratios to the first column. By default it is CPU
time on one pinned core, both libraries with one thread, since wall clock says little on a machine
that others use. The PyTorch columns need torch, torchvision and timm, here or in the interpreter
that `--torch-python` names. Plain Flax is our network with every convolution `lax`'s, and a step
that does nothing else: no norms, no check that the gradient is finite.
"""

import argparse
import contextlib
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]


class Network(NamedTuple):
    """What is trained: our name with its arguments, the peer's, and the batch."""

    title: str
    ours: str
    peer: str
    side: int
    batch_size: int
    classes: int = 1000


CPU = (
    Network("ResNet-20", "resnet20", "resnet20", 32, 128, 10),
    Network("ResNet-18", "resnet18", "torchvision:resnet18", 64, 32),
    Network("ResNet-50", "resnet50", "torchvision:resnet50", 64, 32),
    Network("EfficientNet-B0", "efficientnet_b0", "torchvision:efficientnet_b0", 64, 32),
    Network("ViT-S/16", "vit_small_patch16_224", "timm:vit_small_patch16_224", 64, 32),
)
CUDA = (
    Network("ResNet-50", "resnet50", "torchvision:resnet50", 224, 256),
    Network("EfficientNet-B0", "efficientnet_b0", "torchvision:efficientnet_b0", 224, 256),
    Network("ViT-B/16", "vit_base_patch16_224", "timm:vit_base_patch16_224", 224, 256),
)


class Column(NamedTuple):
    """Who trains, and how."""

    title: str
    library: str
    dtype: str = "float32"
    compile: bool = False


COLUMNS = {
    "torch": Column("PyTorch eager f32", "torch"),
    "torch-bf16": Column("PyTorch eager bf16", "torch", "bfloat16"),
    "torch-compile": Column("PyTorch compile f32", "torch", compile=True),
    "torch-compile-bf16": Column("PyTorch compile bf16", "torch", "bfloat16", True),
    "flax": Column("plain Flax f32", "flax"),
    "flax-bf16": Column("plain Flax bf16", "flax", "bfloat16"),
    "jaxdl": Column("jaxdl f32", "jaxdl"),
    "jaxdl-bf16": Column("jaxdl bf16", "jaxdl", "bfloat16"),
}
"""On a GPU the PyTorch ones are channels_last too, and bf16 is autocast everywhere."""
USUAL = {
    "cpu": ("torch", "torch-bf16", "flax", "jaxdl"),
    "cuda": ("torch-bf16", "torch-compile-bf16", "flax-bf16", "jaxdl-bf16"),
}

Run = Callable[[int], float]
"""Trains so many steps, and when they are done returns the loss of the last."""


# A column's process: reads commands, answers each in one line of JSON.


def work(column: Column, device: str, cores: list[int]) -> None:
    """Answer {'load': network} and {'run': steps} until the input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints is no answer
    build = {"torch": torch_step, "flax": plain_step, "jaxdl": own_step}[column.library]
    run: Run = lambda steps: 0.0
    for line in sys.stdin:
        command = json.loads(line)
        clock = time.perf_counter()
        if "load" in command:
            run = lambda steps: 0.0  # what was trained before goes first
            run = build(Network(**command["load"]), column, device, cores)
            run(2)
            package = "torch" if column.library == "torch" else "jax"
            answer = {
                "seconds": time.perf_counter() - clock,
                "version": f"{package} {importlib.metadata.version(package)}",
            }
        else:
            cpu = time.process_time()
            run(command["run"])
            answer = {"wall": time.perf_counter() - clock, "cpu": time.process_time() - cpu}
        print(json.dumps(answer), file=answers)


def torch_step(network: Network, column: Column, device: str, cores: list[int]) -> Run:
    """PyTorch's own networks and its own SGD."""
    import torch

    torch.set_num_threads(len(cores))
    torch.manual_seed(0)
    shape, layout = (network.batch_size, 3, network.side, network.side), torch.contiguous_format
    if device == "cuda":
        layout = torch.channels_last
        torch.backends.cudnn.benchmark = True
    place = {"device": device, "memory_format": layout}
    model = torch_model(network).to(**place).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    image = torch.randn(shape).to(**place)
    label = torch.arange(network.batch_size, device=device) % network.classes
    mixed = column.dtype == "bfloat16"

    def loss() -> Any:
        with torch.autocast(device, torch.bfloat16, enabled=mixed):
            logits = model(image)
        return torch.nn.functional.cross_entropy(logits.float(), label)

    loss = torch.compile(loss) if column.compile else loss

    def run(steps: int) -> float:
        for _ in range(steps):
            optimizer.zero_grad()
            last = loss()
            last.backward()
            optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()
        return float(last.detach())

    return run


def torch_model(network: Network) -> Any:
    """The publisher's network, or the CIFAR ResNet that none of them has."""
    library, _, name = network.peer.rpartition(":")
    if not library:
        return torch_resnet20(network.classes)
    import torch

    with contextlib.suppress(RuntimeError):
        # Where torch is built for the CPU alone, torchvision looks for operators that it lacks.
        for operator in ("nms", "qnms"):
            LIBRARIES.append(torch.library.Library("torchvision", "FRAGMENT"))
            schema = f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            LIBRARIES[-1].define(schema)
    if library == "torchvision":
        import torchvision

        return torchvision.models.get_model(name, weights=None, num_classes=network.classes)
    import timm

    return timm.create_model(name, img_size=network.side, num_classes=network.classes)


LIBRARIES: list[Any] = []  # what they define is gone when they are


def torch_resnet20(classes: int) -> Any:
    """He et al. 2015, section 4.2: three stages of three blocks, shortcuts of option A."""
    import torch
    from torch import nn
    from torch.nn.functional import pad, relu

    class Block(nn.Module):
        def __init__(self, before: int, width: int):
            super().__init__()
            self.stride, self.added = width // before, width - before
            self.conv1 = nn.Conv2d(before, width, 3, self.stride, 1, bias=False)
            self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
            self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.norm2(self.conv2(relu(self.norm1(self.conv1(x)))))
            x = x[:, :, :: self.stride, :: self.stride]
            half = self.added // 2
            return relu(y + pad(x, (0, 0, 0, 0, half, self.added - half)))

    widths = [16] * 4 + [32] * 3 + [64] * 3
    blocks = [Block(a, b) for a, b in zip(widths, widths[1:], strict=False)]
    stem = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes)]
    return nn.Sequential(*stem, *blocks, *head)


def _plan(network: Network, column: Column) -> tuple[Any, Any, Any]:
    from jaxdl.assemble import assemble
    from jaxdl.config import Part
    from jaxdl.perf.bench import config_of
    from jaxdl.session import first_state, training_batches

    size = (network.side, network.side, 3)
    config = config_of(Part(network.ours), network.batch_size, size, column.dtype)
    plan = assemble(config)
    with contextlib.closing(training_batches(config, plan, 0, 1)) as batches:
        return plan, first_state(config, plan), next(batches)


def own_step(network: Network, column: Column, device: str, cores: list[int]) -> Run:
    """The step of a run of ours, as the program prepares and compiles it."""
    from jaxdl.cluster.allocator import keep_memory
    from jaxdl.verbs.parsing import prepare_jax

    keep_memory()
    prepare_jax()
    import jax

    from jaxdl.train.step import compile_step

    plan, state, batch = _plan(network, column)
    step = compile_step(plan.step, state).lower(state, batch).compile()

    def run(steps: int) -> float:
        nonlocal state
        for _ in range(steps):
            state, metrics = step(state, batch)
        jax.block_until_ready((state, metrics))
        total, count = metrics["loss"]
        return float(total) / float(count)

    return run


def plain_step(network: Network, column: Column, device: str, cores: list[int]) -> Run:
    """The same network as anyone would write it: `lax` convolutions, Optax's SGD, nothing more."""
    import jax
    import optax

    from jaxdl.nn import conv

    plan, state, batch = _plan(network, column)
    tx = optax.sgd(1e-3, 0.9)
    carried = (state.params, state.variables, tx.init(state.params), state.key)

    def step(carried: Any, batch: Any) -> tuple[Any, jax.Array]:
        params, variables, opt_state, key = carried
        key, now = jax.random.split(key)
        take = jax.value_and_grad(plan.objective.loss, has_aux=True)
        (loss, aux), grads = take(params, variables, batch, now)
        updates, opt_state = tx.update(grads, opt_state)
        return (optax.apply_updates(params, updates), aux.variables, opt_state, key), loss

    with conv.target("gpu" if device == "cuda" else "tpu"):  # where nothing is rewritten
        step = jax.jit(step, donate_argnums=0).lower(carried, batch).compile()

    def run(steps: int) -> float:
        nonlocal carried
        for _ in range(steps):
            carried, loss = step(carried, batch)
        jax.block_until_ready((carried, loss))
        return float(loss)

    return run


# The other side: starts the columns, lets them take turns, tells the ratios.


@contextlib.contextmanager
def workers(
    columns: list[str], python: dict[str, str], device: str, cores: list[int]
) -> Iterator[dict[str, Callable[[dict], dict]]]:
    """A function for each column that sends its process a command and returns the answer."""
    # Threads are as many as cores, from before any library is imported.
    count = str(len(cores))
    environment = {**os.environ, "OMP_NUM_THREADS": count, "PYTHONPATH": str(ROOT)}
    if device == "cpu":
        environment["JAX_PLATFORMS"] = "cpu"
    else:  # all columns are on one device at a time, and JAX would take most of it
        environment["XLA_PYTHON_CLIENT_MEM_FRACTION"] = "0.3"
    started: dict[str, subprocess.Popen] = {}
    try:
        for name in columns:
            interpreter = python["torch" if COLUMNS[name].library == "torch" else "jax"]
            said = ["--work", name, "--device", device, "--cores", *map(str, cores)]
            started[name] = subprocess.Popen(
                [interpreter, str(Path(__file__).resolve()), *said],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
            )  # fmt: skip
        yield {name: partial(_ask, process) for name, process in started.items()}
    finally:
        for process in started.values():
            process.kill()
            process.wait()


def _ask(process: subprocess.Popen, command: dict) -> dict:
    print(json.dumps(command), file=process.stdin, flush=True)
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"{process.args} ended with status {process.wait()}")
    return json.loads(line)


def measure(
    network: Network,
    ask: dict[str, Callable[[dict], dict]],
    repeats: int,
    clock: str,
    seconds: float = 0.5,
) -> tuple[dict[str, list[float]], dict[str, dict]]:
    """Seconds of a step by column, one figure a repeat, the columns in turn; and what loading said.

    Args:
        network: that each column builds.
        ask: from `workers`.
        repeats: of the turns.
        clock: 'cpu' or 'wall'.
        seconds: that each column trains in one turn, or one step.
    """
    steps, loaded = {}, {}
    for name, column in ask.items():
        loaded[name] = column({"load": network._asdict()})
        steps[name] = max(1, round(seconds / max(column({"run": 1})["wall"], 1e-6)))
    times: dict[str, list[float]] = {name: [] for name in ask}
    for _ in range(repeats):
        for name, column in ask.items():
            times[name].append(column({"run": steps[name]})[clock] / steps[name])
    return times, loaded


def ratios(times: dict[str, list[float]]) -> dict[str, tuple[float, float, float]]:
    """Quartiles (25, 50, 75 %) of the repeats' own ratios to the first column, by column."""
    first = next(iter(times.values()))
    paired = lambda column: [b / a for a, b in zip(first, column, strict=True)]
    quartiles = partial(statistics.quantiles, n=4, method="inclusive")
    return {name: tuple(quartiles(paired(column))) for name, column in times.items()}


def row(network: Network, times: dict[str, list[float]]) -> str:
    """One line of a Markdown table: milliseconds, and the ratio with its quartiles."""
    cells = [f"{network.title}, {network.side}x{network.side}, batch {network.batch_size}"]
    for name, (low, mid, high) in ratios(times).items():
        ms = f"{1e3 * statistics.median(times[name]):,.4g} ms"
        cells.append(f"{ms} ({mid:.2f}; {low:.2f} to {high:.2f})")
    return "| " + " | ".join(cells) + " |"


def main(argv: list[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("networks", nargs="*", help="such as resnet20; default: all")
    parser.add_argument("--torch-python", default=sys.executable, help="interpreter with torch")
    parser.add_argument("--columns", nargs="+", choices=COLUMNS, help="the first is 1.00")
    parser.add_argument("--cores", nargs="+", type=int, default=[0], help="to pin processes to")
    parser.add_argument("--wall", action="store_true", help="wall clock, not CPU time")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", type=Path, help="write every repeat of every column")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    cores = options.cores
    if options.work:
        if options.device == "cpu":
            os.sched_setaffinity(0, cores)  # before any library counts the processors
        work(COLUMNS[options.work], options.device, cores)
        return
    columns = options.columns or list(USUAL[options.device])
    networks = CPU if options.device == "cpu" else CUDA
    known = [network.ours for network in networks]
    if not set(options.networks) <= set(known):
        parser.error(f"networks are {', '.join(known)}")
    clock = "wall" if options.wall or options.device == "cuda" else "cpu"
    python = {"torch": options.torch_python, "jax": sys.executable}
    print("| | " + " | ".join(COLUMNS[c].title for c in columns) + " |")
    print("|---" * (len(columns) + 1) + "|", flush=True)
    found = []
    with workers(columns, python, options.device, cores) as ask:
        for network in networks:
            if options.networks and network.ours not in options.networks:
                continue
            times, loaded = measure(network, ask, options.repeats, clock)
            print(row(network, times), flush=True)
            told = {"seconds": times, "ratios": ratios(times), "loaded": loaded}
            found.append({**network._asdict(), **told})
    said = {"cpu": "CPU time", "wall": "wall clock"}[clock]
    print(f"{said} of a step, processors {cores}, {options.repeats} interleaved repeats")
    if options.json:
        settings = {"clock": clock, "cores": cores, "device": options.device, "command": sys.argv}
        options.json.write_text(json.dumps({**settings, "rows": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
