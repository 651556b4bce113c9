"""Learning-rate range test: raise the rate step by step, see where the loss falls and diverges.

Cyclical Learning Rates for Training Neural Networks. Smith 2015. https://arxiv.org/abs/1506.01186
(section 3.3). The rate grows by the same factor at each step, and the loss is smoothed, as in
https://arxiv.org/abs/1803.09820 and fastai.
"""

import contextlib
import dataclasses
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxdl.assemble import Plan, assemble
from jaxdl.config import Config, Part
from jaxdl.errors import UserError
from jaxdl.perf.memory import explained
from jaxdl.session import first_state, training_batches
from jaxdl.train.loop import fit
from jaxdl.train.step import compile_step

DIVERGED = 4.0
"""The test ends when the smoothed loss exceeds this multiple of its minimum."""

SETTLED = 10
"""First losses to ignore: the running mean is still noisy."""


class RangeTest(NamedTuple):
    """Result of the range test."""

    rates: np.ndarray
    """(t,) learning rates, rising"""
    losses: np.ndarray
    """(t,) training losses at them, smoothed"""

    @property
    def steepest(self) -> float:
        """The rate at which the loss falls fastest on its way down: a rate to train with."""
        slope = np.gradient(self.losses, np.log(self.rates))
        end = max(int(np.argmin(self.losses)), 1)
        begin = min(SETTLED, end // 2)
        return float(self.rates[begin + int(np.argmin(slope[begin:end]))])

    @property
    def lowest(self) -> float:
        """The rate at which the loss is least: a tenth of it is the other usual choice."""
        return float(self.rates[int(np.argmin(self.losses))])


def find_learning_rate(
    config: Config,
    *,
    low: float = 1e-6,
    high: float = 10.0,
    steps: int = 100,
    smoothing: float = 0.9,
) -> RangeTest:
    """Train from the start with a rate that rises from `low` to `high`, and keep nothing.

    Args:
        config: of the run; its schedule, duration and average are left out.
        low: first learning rate.
        high: learning rate of the last step, unless the loss flies before.
        steps: of the test.
        smoothing: decay rate of the running mean of losses.

    Raises:
        UserError: no range to test, or a loss that never falls in it.
    """
    if not 0 < low < high < math.inf:
        raise UserError(f"the range of rates {low} to {high} does not rise from above 0")
    if steps < 10:
        raise UserError(f"{steps} steps are too few to see a loss fall: take 10 or more")
    optimizer = Part(config.optimizer.name, {**config.optimizer.args, "learning_rate": high})
    config = dataclasses.replace(
        config,
        optimizer=optimizer,
        schedule=Part("range_test", {"low": low / high}),
        duration=steps,
        average=None,
    )
    plan = assemble(config)
    with explained(config, plan):
        losses = _smoothed_losses(config, plan, smoothing)
    if not losses:
        raise UserError("the loss is not finite before a first step is taken")
    if len(losses) < 3 or min(losses) == losses[0]:
        raise UserError(f"the loss never falls below its first: begin below a rate of {low:g}")
    rates = np.asarray([float(plan.schedule(t)) for t in range(len(losses))])
    return RangeTest(rates, np.asarray(losses))


def _smoothed_losses(config: Config, plan: Plan, smoothing: float) -> list[float]:
    """The running mean of losses, step by step, up to where it flies; all of them finite."""
    state = first_state(config, plan)
    step = compile_step(plan.step, state)
    losses: list[float] = []
    running = 0.0
    with contextlib.closing(training_batches(config, plan, 0, plan.steps)) as batches:
        for _, metrics in fit(state, step, batches):
            total, count = metrics["loss"]
            loss = float(total) / float(count) if count else math.nan
            if not math.isfinite(loss):
                break
            # m = s m + (1 - s) l,  and m / (1 - s^t) is the mean of t losses
            running = smoothing * running + (1 - smoothing) * loss
            losses.append(running / (1 - smoothing ** (len(losses) + 1)))
            least = min(losses)
            if losses[-1] > least + (DIVERGED - 1) * abs(least):
                break
    return losses


def plot(test: RangeTest, file: Path) -> None:
    """Loss over rate, with the two rates that one would take; png, svg or pdf by suffix.

    The file's folder is made.
    """
    from matplotlib.figure import Figure  # imported here: it takes a while

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(test.rates, test.losses)
    axes.axvline(test.steepest, linestyle="--", label=f"steepest {test.steepest:.2g}")
    axes.axvline(test.lowest / 10, linestyle=":", label=f"lowest / 10 {test.lowest / 10:.2g}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss, smoothed")
    axes.legend()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file)
