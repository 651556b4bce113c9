"""The learning rate of a run before it is run: numbers, and a figure of one config or several.

Neither a model nor an optimizer is built, and no example is decoded but what a source reads to
know its length.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl import registry
from jaxdl.assemble import durations, import_user_module, learning_rate
from jaxdl.config import Config
from jaxdl.data.arrays import from_arrays
from jaxdl.errors import UserError, choices

SUFFIXES = ("pdf", "png", "svg")


class Curve(NamedTuple):
    """The learning rate of a run, step by step."""

    steps: np.ndarray
    """(t,) int: 0 to the last"""
    rates: np.ndarray
    """(t,) float32"""
    warmup: int
    """steps of the warm-up, the last of them at the peak; 0 is none"""

    @property
    def peak(self) -> tuple[int, float]:
        """The highest rate, and the first step that has it."""
        top = int(np.argmax(self.rates))
        return top, float(self.rates[top])


def curve(config: Config, examples: int | None = None) -> Curve:
    """The learning rate of every step of a run, without wrappers such as reduce_on_plateau.

    Args:
        config: of the run.
        examples: size of its training split; None asks the source.
    """
    for name in config.imports:
        import_user_module(name)
    total, in_steps = durations(config, examples or _examples(config))
    bound = registry.bind("schedules", config.schedule)
    schedule = registry.in_steps(bound, in_steps, "config.schedule")
    rate = learning_rate(registry.bind("optimizers", config.optimizer), schedule, total)
    warmup = schedule.keywords.get("warmup", 0)
    steps = np.arange(total)
    rates = jax.jit(jax.vmap(lambda step: jnp.float32(rate(step))))(steps)
    return Curve(steps, np.asarray(rates), warmup)


def _examples(config: Config) -> int:
    build = registry.bind("sources", config.data.source)
    source = registry.supply(build, split=config.data.train)
    return len(from_arrays(source) if isinstance(source, Mapping) else source)


def plot(configs: Mapping[str, Config], file: Path, examples: int | None = None) -> Path:
    """Draw the learning rate of each config into one figure.

    A dot marks the peak, and a dotted line the end of the warm-up.

    Args:
        configs: label to config, as the legend says them.
        file: what to write, .png, .svg or .pdf; its folder is made.
        examples: size of the training split of them all; None asks their sources.

    Returns:
        The file.

    Raises:
        UserError: nothing to draw, or a file of another kind.
    """
    if not configs:
        raise UserError("no config to plot")
    suffix = file.suffix.removeprefix(".").lower()
    if suffix not in SUFFIXES:
        raise UserError(f"cannot draw '{file}': {choices(suffix, SUFFIXES)}")
    curves = {label: curve(config, examples) for label, config in configs.items()}

    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "jaxdl", "font.size": 10}):
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.add_subplot()
        for label, one in curves.items():
            _draw(axes, one, label)
        axes.set_xlabel("step")
        axes.set_ylabel("learning rate")
        axes.set_ylim(bottom=0)
        axes.grid(axis="y", linewidth=0.5, alpha=0.5)
        axes.spines[["top", "right"]].set_visible(False)
        # Below, where it covers no curve, and where peaks at one place do not cover each other.
        figure.legend(loc="outside lower left", frameon=False, fontsize=9)
        file.parent.mkdir(parents=True, exist_ok=True)
        # A date would make two figures of one config differ.
        dated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}
        figure.savefig(file, dpi=150, metadata=dated.get(suffix))
    return file


def _draw(axes, one: Curve, label: str) -> None:
    at, rate = one.peak
    said = f"{label}: peak {rate:.3g} at step {at}"
    if one.warmup > 1:
        said += f", warm-up to step {one.warmup - 1}"
    (line,) = axes.plot(one.steps, one.rates, linewidth=1.4, label=said)
    axes.plot(at, rate, "o", markersize=5, color=line.get_color())
    if one.warmup > 1:
        axes.axvline(one.warmup - 1, color=line.get_color(), linewidth=0.9, linestyle=":")
