"""Writes schedules_torch.json: what torch.optim.lr_scheduler makes of a learning rate of 1.

Run with a Python that has PyTorch: python tests/references/make_schedules_torch.py
Made with torch 2.13.0. The cases are those of test_schedules.py and test_plateau.py.
"""

import json
from pathlib import Path

import torch
from torch.optim import lr_scheduler as by

STEPS = 40
CYCLE = {"base_lr": 0.25, "max_lr": 1.0, "step_size_up": 5, "cycle_momentum": False}
ONE_CYCLE = {
    "max_lr": 1.0,
    "total_steps": STEPS,
    "pct_start": 0.3,
    "div_factor": 25.0,
    "final_div_factor": 1e3,
    "cycle_momentum": False,
}
CASES = {
    "warmup": (by.LinearLR, {"start_factor": 1 / 8, "total_iters": 7}),
    "cosine": (by.CosineAnnealingLR, {"T_max": STEPS - 1, "eta_min": 0.1}),
    "polynomial": (by.PolynomialLR, {"total_iters": STEPS - 1, "power": 0.9}),
    "step": (by.StepLR, {"step_size": 7, "gamma": 0.5}),
    "exponential": (by.ExponentialLR, {"gamma": 0.9}),
    "triangular": (by.CyclicLR, {**CYCLE, "mode": "triangular"}),
    "triangular2": (by.CyclicLR, {**CYCLE, "mode": "triangular2"}),
    "exp_range": (by.CyclicLR, {**CYCLE, "mode": "exp_range", "gamma": 0.95}),
    "restarts": (by.CosineAnnealingWarmRestarts, {"T_0": 7, "eta_min": 0.1}),
    "restarts_doubled": (
        by.CosineAnnealingWarmRestarts,
        {"T_0": 5, "T_mult": 2, "eta_min": 0.1},
    ),
    "one_cycle": (by.OneCycleLR, ONE_CYCLE),
    "one_cycle_linear": (by.OneCycleLR, {**ONE_CYCLE, "anneal_strategy": "linear"}),
    "one_cycle_three_phase": (
        by.OneCycleLR,
        {**ONE_CYCLE, "anneal_strategy": "linear", "three_phase": True},
    ),
}

# Means of a loss that falls, rests, falls a little, jumps and rests again.
MEANS = [3.0, 2.5, 2.5, 2.6, 2.4999, 2.7, 2.0, 2.0, 2.1, 2.2, 1.99, 5.0, *[2.0] * 12]
PLATEAUS = {
    "plain": {"factor": 0.5, "patience": 2},
    "impatient": {"factor": 0.5, "patience": 0},
    "cooldown": {"factor": 0.1, "patience": 1, "cooldown": 3},
    "floor": {"factor": 0.3, "patience": 1, "min_lr": 0.2},
    "absolute": {"factor": 0.5, "patience": 1, "threshold": 0.3, "threshold_mode": "abs"},
    "relative": {"factor": 0.5, "patience": 1, "threshold": 0.2},
}


def optimizer() -> torch.optim.Optimizer:
    """Plain descent of one weight, at a rate of 1."""
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)


def schedule(make: type, arguments: dict) -> list[float]:
    """The rate at each step."""
    descent = optimizer()
    scheduler = make(descent, **arguments)
    rates = []
    for _ in range(STEPS):
        rates.append(scheduler.get_last_lr()[0])
        descent.step()
        scheduler.step()
    return rates


def plateau(arguments: dict) -> list[float]:
    """The rate after each window's mean."""
    descent = optimizer()
    scheduler = by.ReduceLROnPlateau(descent, **arguments)
    rates = []
    for mean in MEANS:
        scheduler.step(mean)
        rates.append(descent.param_groups[0]["lr"])
    return rates


if __name__ == "__main__":
    figures = {name: schedule(*case) for name, case in CASES.items()}
    figures |= {f"plateau_{name}": plateau(case) for name, case in PLATEAUS.items()}
    figures["plateau_means"] = MEANS
    lines = [
        f'"{name}": {json.dumps([round(float(rate), 10) for rate in rates])}'
        for name, rates in figures.items()
    ]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    Path(__file__).with_name("schedules_torch.json").write_text(text)
