"""Numbers that are not finite: in a pixel, a parameter, a layer, the loss, the gradient.

    python -m tests.chaos numbers [--n 200] [--seed 0]

A step that meets one changes nothing but its own number, bit for bit, and is counted; or it was
harmless (a ReLU swallows minus infinity), and then what the step leaves is finite. In eight
settings: precisions, accumulation, SAM, averages, optimizers, eight devices, split parameters.
"""

import argparse
import collections
import dataclasses
import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxdl import assemble as house
from jaxdl import tree
from jaxdl.assemble import Plan
from jaxdl.config import Config, Data, Gradient, Mesh, part
from jaxdl.data.pipeline import open_split
from jaxdl.session import first_state
from jaxdl.train.nonfinite import first_nonfinite
from jaxdl.train.sharding import batch_sharding
from jaxdl.train.state import TrainState
from jaxdl.train.step import compile_step, make_step
from jaxdl.types import Objective

VALUES = (np.nan, np.inf, -np.inf, 3e38, 1e25)
STEPS = 5
BATCH = 16
NONE, LOSS, GRADIENT = -1, -2, -3
SPLIT = ((".*dense.*/kernel|.*conv.*/kernel", (None, "fsdp")),)
SPIKES = part("skip_spikes", deviations=50.0, warmup=2)

BASE = Config(
    data=Data(batch_size=BATCH, validation=None, test=None),
    model=part("cnn", widths=[8, 8], drop_rate=0.1),
    average=part("ema", decay=0.9),
    duration=100,
    preprocess=(),
)


def _set(**fields: Any) -> Config:
    return dataclasses.replace(BASE, **fields)


SETTINGS = {
    "float32, 8 devices": BASE,
    "bfloat16, accumulated": _set(precision=part("bfloat16"), gradient=Gradient(accumulate=2)),
    "float16": _set(precision=part("float16", interval=3)),
    "float16, accumulated": _set(precision=part("float16"), gradient=Gradient(accumulate=2)),
    "SAM, clipped": _set(
        wrappers=(part("sam"),), gradient=Gradient(transforms=(part("clip_norm"),))
    ),
    "fsdp": _set(mesh=Mesh(data=2, fsdp=4, rules=SPLIT)),
    "lion, spikes skipped": _set(
        optimizer=part("lion", learning_rate=1e-4), gradient=Gradient(transforms=(SPIKES,))
    ),
    "fsdp, bfloat16, SGD, SWA": _set(
        mesh=Mesh(data=4, fsdp=2), precision=part("bfloat16"), average=part("swa"),
        optimizer=part("sgd", learning_rate=0.1, momentum=0.9, nesterov=True),
    ),
}  # fmt: skip


class Trial(NamedTuple):
    """Where one number goes wrong."""

    kind: str
    """'pixel', 'parameter', 'layer', 'loss' or 'gradient'"""
    value: float
    step: int
    place: int
    """which pixel, parameter or layer"""


def poisoned(objective: Objective, layers: list[str]) -> Objective:
    """The same loss, but where a batch's `place` and `value` say so."""

    def loss(params: Any, variables: Any, batch: Any, key: jax.Array):
        place, value = batch["place"][0], jnp.asarray(VALUES, jnp.float32)[batch["value"][0]]
        rest = {k: v for k, v in batch.items() if k not in ("place", "value")}
        layers.clear()

        def spoil(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
            out = call(*args, **kwargs)
            if context.method_name == "__call__" and isinstance(out, jax.Array):
                mine = place == len(layers)
                layers.append("/".join(context.module.path))
                at = (0,) * out.ndim
                out = out.at[at].set(jnp.where(mine, value.astype(out.dtype), out[at]))
            return out

        with nn.intercept_methods(spoil):
            total, aux = objective.loss(params, variables, rest, key)
        total = total + jnp.where(place == LOSS, value, 0.0)
        # Of sqrt(0 w) the value is 0, and the gradient 0 / 0.
        first = jax.tree.leaves(params)[0].reshape(-1)[0]
        total += jnp.sqrt(jnp.where(place == GRADIENT, 0 * first, 1.0)) - (place != GRADIENT)
        return total, aux

    return objective._replace(loss=loss)


@dataclasses.dataclass
class Bench:
    """One setting, compiled: a state, its step, and good batches."""

    plan: Plan
    step: Callable[..., Any]
    state: TrainState
    layers: list[str]
    objective: Objective

    def batch(self, t: int, trial: Trial | None) -> dict[str, jax.Array]:
        """Batch t, with what a trial does to it."""
        rng = np.random.default_rng(t)
        image = rng.normal(size=(BATCH, 8, 8, 1)).astype(np.float32)
        place, value = NONE, 0
        if trial and trial.kind == "pixel":
            image.reshape(-1)[trial.place % image.size] = trial.value
        elif trial and trial.kind != "parameter":
            place = {"layer": trial.place, "loss": LOSS, "gradient": GRADIENT}[trial.kind]
            value = VALUES.index(trial.value)
        batch = {
            "image": image,
            "label": rng.integers(0, 10, BATCH).astype(np.int32),
            "place": np.full(BATCH, place, np.int32),
            "value": np.full(BATCH, value, np.int32),
        }
        return jax.device_put(batch, batch_sharding(self.plan.mesh))


def bench(config: Config) -> Bench:
    """The parts of a run, its data floats, its objective open to harm."""
    random_batch = lambda split: {
        "image": np.zeros((64, 8, 8, 1), np.float32), "label": np.arange(64) % 10,
        "place": np.zeros(64, np.int32), "value": np.zeros(64, np.int32),
    }  # fmt: skip
    splits = {"train": open_split(random_batch, "train", memory=2**30)}
    layers: list[str] = []
    made: list[Objective] = []

    def spoilt(objective: Objective, **rest: Any) -> Any:
        made.append(poisoned(objective, layers))
        return make_step(made[-1], **rest)

    with mock.patch.object(house, "make_step", spoilt):
        plan = house.assemble(config, splits)
    state = first_state(config, plan)
    step = compile_step(plan.step, state)
    return Bench(plan, step, state, layers, made[-1])


def copied(state: TrainState) -> dict[str, np.ndarray]:
    """Every leaf but the step and the loss scale, which move by themselves."""
    kept = state.replace(key=jax.random.key_data(state.key), step=None, loss_scale=None)
    return {name: np.array(leaf) for name, leaf in tree.flatten(kept).items()}


def spoil_parameter(state: TrainState, trial: Trial) -> TrainState:
    """One number of one parameter replaced."""
    leaves, treedef = jax.tree.flatten(state.params)
    i = trial.place % len(leaves)
    spoilt = np.array(leaves[i])
    spoilt.reshape(-1)[trial.place % spoilt.size] = trial.value
    leaves[i] = jax.device_put(spoilt, leaves[i].sharding)
    return state.replace(params=jax.tree.unflatten(treedef, leaves))


def attempt(made: Bench, trial: Trial) -> tuple[str, str]:
    """('skipped' or 'harmless' or what went wrong, details) of a short run with one bad number."""
    state = jax.tree.map(jnp.copy, made.state)
    for t in range(STEPS):
        hit = t == trial.step
        if hit and trial.kind == "parameter":
            state = spoil_parameter(state, trial)
        before = copied(state)
        known = {k for k, v in before.items() if v.dtype.kind == "f" and not np.isfinite(v).all()}
        state, metrics = made.step(state, made.batch(t, trial if hit else None))
        after, skipped = copied(state), float(metrics["skipped"][0])
        if int(state.step) != t + 1:
            return "step not counted", str(trial)
        changed = [k for k in after if after[k].tobytes() != before[k].tobytes()]
        if skipped and changed:
            return "a skipped step changed", f"{changed[0]} in {trial}"
        counted = {k for k, v in metrics.items() if v[0]} - {"skipped", "loss_scale"}
        if skipped and counted:
            return "a skipped step was measured", str(trial)
        bad = [k for k, v in after.items() if v.dtype.kind == "f" and not np.isfinite(v).all()]
        if not skipped and set(bad) - known:
            return "not finite, and not skipped", f"{bad[0]} in {trial}"
        if skipped and not (hit or trial.kind == "parameter"):
            return "skipped for nothing", f"step {t} of {trial}"
        if not skipped and not changed:
            return "a sound step changed nothing", f"step {t} of {trial}"
        if hit:
            outcome = "skipped" if skipped else "harmless"
            if trial.kind == "parameter":
                return outcome, ""  # it stays where it is: nothing more to be learnt
    return outcome, ""


def named(made: Bench, trial: Trial, config: Config) -> str | None:
    """What `culprit` says of a trial."""
    state = jax.tree.map(jnp.copy, made.state)
    if trial.kind == "parameter":
        state = spoil_parameter(state, trial)
    batch = made.batch(0, trial)
    n = config.gradient.accumulate
    return first_nonfinite(made.objective, made.plan.tx, state, batch, 0, micro_batches=n)


def trials(rng: random.Random, layers: int) -> Iterator[Trial]:
    """Without end."""
    while True:
        kind = rng.choice(["pixel", "pixel", "parameter", "layer", "layer", "loss", "gradient"])
        place = rng.randrange(layers) if kind == "layer" else rng.randrange(10**6)
        yield Trial(kind, rng.choice(VALUES), rng.randrange(STEPS), place)


def experiment(
    n: int, seed: int, settings: list[str]
) -> tuple[collections.Counter, list[tuple[str, str, str]]]:
    """Outcomes of n trials by (kind, outcome), and what went wrong: (setting, outcome, details)."""
    found: collections.Counter = collections.Counter()
    wrong = []
    for i, name in enumerate(settings):
        rng = random.Random(f"{seed} {name}")
        made = bench(SETTINGS[name])
        jax.eval_shape(made.plan.step, made.state, made.batch(0, None))  # counts the layers
        source = trials(rng, len(made.layers))
        for _ in range(n // len(settings) + (i < n % len(settings))):
            trial = next(source)
            outcome, details = attempt(made, trial)
            found[trial.kind, outcome] += 1
            if outcome not in ("skipped", "harmless"):
                wrong.append((name, outcome, details))
        jax.clear_caches()
    return found, wrong


def main(argv: list[str]) -> int:
    """The full form: 200 trials over all settings, and the layer named in each setting."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos numbers", description=__doc__)
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    jax.config.update("jax_num_cpu_devices", 8)
    found, wrong = experiment(options.n, options.seed, list(SETTINGS))
    for (kind, outcome), count in sorted(found.items()):
        print(f"{kind:<10} {outcome:<10} {count}")
    for line in wrong:
        print("WRONG", *line)
    return int(bool(wrong))
