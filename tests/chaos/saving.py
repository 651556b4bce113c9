"""Saving: what seals and digests cost beside Orbax alone, for a ResNet-50 with AdamW.

    taskset -c 0 python -m tests.chaos saving --n 15
    python -m tests.chaos saving --n 5 --megabytes 10 100 1000       # how a save grows

Both save the same state in turn. CPU time is the process's, of one core; the clock's is only worth
something on an idle machine.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp

from jaxdl import tree
from jaxdl.models import resnet  # noqa: F401, registers it
from jaxdl.registry import find
from jaxdl.rundir.checkpoint import Checkpoints
from jaxdl.rundir.digest import digests


def resnet50_state() -> dict:
    """Parameters and AdamW's moments of a ResNet-50; all random, as zeros compress to nothing."""
    model = find("models", "resnet50").build(1000)
    image = jnp.zeros((1, 32, 32, 3))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), image))
    shapes = (shapes, jax.eval_shape(optax.adamw(1e-3).init, shapes["params"]))
    leaves, treedef = jax.tree.flatten(shapes)
    draws = [
        jax.random.normal(jax.random.key(i), s.shape).astype(s.dtype) for i, s in enumerate(leaves)
    ]
    return jax.block_until_ready(jax.tree.unflatten(treedef, draws))


def plain_state(megabytes: int) -> dict:
    """Random leaves of 4 MB."""
    draw = lambda i: jax.random.normal(jax.random.key(i), (1000, 1000))
    return jax.block_until_ready({f"leaf{i}": draw(i) for i in range(max(1, megabytes // 4))})


def orbax_alone(folder: Path) -> tuple[Callable, Callable, Callable]:
    """(save, wait, close)"""
    manager = ocp.CheckpointManager(folder)
    save = lambda step, state: manager.save(
        step, args=ocp.args.Composite(state=ocp.args.StandardSave(state))
    )
    return save, manager.wait_until_finished, manager.close


def ours(folder: Path) -> tuple[Callable, Callable, Callable]:
    """(save, wait, close)"""
    checkpoints = Checkpoints(folder, keep_latest=1)
    save = lambda step, state: checkpoints.save(step, state, 0.5, {"window": {}})
    return save, checkpoints.settle, checkpoints.close


def measured(make: Callable, state: dict, folder: Path) -> dict[str, float]:
    """Seconds that one save takes: until it returns, and until it is done."""
    save, wait, close = make(folder)
    before = time.process_time(), time.perf_counter()
    save(1, state)
    returned = time.process_time(), time.perf_counter()
    wait()
    done = time.process_time(), time.perf_counter()
    close()
    shutil.rmtree(folder)
    names = ("blocking CPU", "blocking clock", "whole CPU", "whole clock")
    taken = [to[i] - before[i] for to in (returned, done) for i in (0, 1)]
    return dict(zip(names, taken, strict=True))


def ratios(state: dict, n: int) -> dict[str, tuple[float, float, float]]:
    """What is measured to (Orbax alone, ours, median of the paired ratios)."""
    pairs = []
    with tempfile.TemporaryDirectory() as folder:
        for i in range(n + 1):
            makers = (orbax_alone, ours) if i % 2 else (ours, orbax_alone)
            pair = {f: measured(f, state, Path(folder) / f.__name__) for f in makers}
            pairs.append((pair[orbax_alone], pair[ours]))
    pairs = pairs[1:]  # the first one compiled
    median = statistics.median
    return {
        key: (
            median(a[key] for a, _ in pairs),
            median(b[key] for _, b in pairs),
            median(b[key] / a[key] for a, b in pairs),
        )
        for key in pairs[0][0]
    }


def main(argv: list[str]) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="saving")
    parser.add_argument("--n", type=int, default=15)
    parser.add_argument("--megabytes", type=int, nargs="+", help="states to save, not ResNet-50's")
    options = parser.parse_args(argv)
    for megabytes in options.megabytes or ():
        found = ratios(plain_state(megabytes), options.n)
        blocking, whole = found["blocking clock"][1], found["whole clock"][1]
        rate = megabytes / 1e3 / whole
        print(f"{megabytes:>6} MB  returns after {blocking:6.3f} s, done after {whole:6.3f} s")
        print(
            f"           {rate:.2f} GB/s, {found['whole clock'][2]:.3f} of Orbax alone", flush=True
        )
    if options.megabytes:
        return 0
    state = resnet50_state()
    size = sum(x.nbytes for x in jax.tree.leaves(state)) / 1e6
    print(f"{len(tree.flatten(state))} leaves, {size:.0f} MB, {options.n} pairs, medians")
    begun = time.process_time()
    digests(state)
    print(f"digests for the first time (compiling)  {time.process_time() - begun:.2f} s CPU")
    for key, (alone, own, ratio) in ratios(state, options.n).items():
        print(f"{key:<15} Orbax alone {1e3 * alone:7.1f} ms  ours {1e3 * own:7.1f} ms  {ratio:.3f}")
    return 0
