"""Writes optim_torch.json: what torch.optim makes of fixed gradients, in float64.

Run with a Python that has PyTorch: python tests/references/make_optim_torch.py
Made with torch 2.13.0. `wave` and `SHAPES` are those of trajectories.py, the step sizes are those
of test_optim.py.
"""

import json
import unittest.mock
from pathlib import Path

import numpy as np
import torch

STEPS = 10
SHAPES = {
    "conv/bias": (6,),
    "conv/kernel": (3, 3, 4, 6),
    "dense/kernel": (5, 3),
    "wide/kernel": (130, 140),
}


class Muon(torch.optim.Optimizer):
    """torch.optim.Muon on kernels as matrices (out, in), AdamW on biases, in float64 throughout."""

    def __init__(self, params: list, **arguments):
        super().__init__(params, {"lr": arguments["lr"]})
        kernels, biases = self.param_groups
        self.kernels = kernels["params"]
        self.matrices = [
            torch.nn.Parameter(p.detach().reshape(-1, p.shape[-1]).T.contiguous())
            for p in self.kernels
        ]
        decay = {"weight_decay": kernels.get("weight_decay", 0.0)}
        self.muon = torch.optim.Muon(self.matrices, **arguments, **decay)
        self.share = 1.0 if "adjust_lr_fn" in arguments else 0.015
        self.adamw = torch.optim.AdamW(biases["params"], betas=(0.9, 0.95), eps=1e-10)
        self.adamw.param_groups[0]["weight_decay"] = 0.0

    def step(self) -> None:
        """One step; the iteration's rounding to bfloat16, no part of the rule, is taken out."""
        rate = self.param_groups[0]["lr"]
        self.muon.param_groups[0]["lr"] = rate
        self.adamw.param_groups[0]["lr"] = self.share * rate
        for p, matrix in zip(self.kernels, self.matrices, strict=True):
            matrix.grad = p.grad.reshape(-1, p.shape[-1]).T.contiguous()
        with unittest.mock.patch.object(torch.Tensor, "bfloat16", torch.Tensor.clone):
            self.muon.step()
        self.adamw.step()
        for p, matrix in zip(self.kernels, self.matrices, strict=True):
            p.data.copy_(matrix.detach().T.reshape(p.shape))


CASES = {
    "sgd": (torch.optim.SGD, {"lr": 0.1}, {}),
    "sgd_momentum": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}, {"weight_decay": 0.1}),
    "sgd_nesterov": (
        torch.optim.SGD,
        {"lr": 0.1, "momentum": 0.9, "nesterov": True},
        {"weight_decay": 0.1},
    ),
    "adam": (torch.optim.Adam, {"lr": 0.01, "betas": (0.8, 0.95)}, {"weight_decay": 0.1}),
    "adamw": (torch.optim.AdamW, {"lr": 0.01}, {"weight_decay": 0.5}),
    "rmsprop": (
        torch.optim.RMSprop,
        {"lr": 0.01, "alpha": 0.9, "eps": 0.01},
        {"weight_decay": 0.1},
    ),
    "rmsprop_momentum": (
        torch.optim.RMSprop,
        {"lr": 0.01, "alpha": 0.9, "eps": 1e-8, "momentum": 0.9},
        {},
    ),
    "adagrad": (torch.optim.Adagrad, {"lr": 0.1}, {"weight_decay": 0.1}),
    "adagrad_eps": (torch.optim.Adagrad, {"lr": 0.1, "eps": 0.1}, {}),
    "adafactor": (
        torch.optim.Adafactor,
        {"lr": 0.05, "eps": (1e-30, 1e-3)},
        {"weight_decay": 0.5},
    ),
    "nadam": (torch.optim.NAdam, {"lr": 0.01}, {"weight_decay": 0.1}),
    "nadam_psi": (
        torch.optim.NAdam,
        {"lr": 0.01, "betas": (0.8, 0.95), "momentum_decay": 0.5},
        {},
    ),
    "radam": (torch.optim.RAdam, {"lr": 0.01}, {"weight_decay": 0.1}),
    "radam_b2": (torch.optim.RAdam, {"lr": 0.01, "betas": (0.8, 0.9), "eps": 1e-3}, {}),
    "muon": (Muon, {"lr": 0.02}, {"weight_decay": 0.5}),
    "muon_match_rms_adamw": (
        Muon,
        {"lr": 0.01, "momentum": 0.8, "adjust_lr_fn": "match_rms_adamw"},
        {"weight_decay": 0.1},
    ),
}


def wave(shape: tuple[int, ...], phase: float) -> np.ndarray:
    """Numbers in [-1, 1] that need no generator."""
    return np.sin(np.arange(np.prod(shape)) ** 1.5 + phase).reshape(shape).astype(np.float32)


def fingerprint(x: np.ndarray) -> list[float]:
    """First, middle and last entry, and the sum of squares."""
    flat = x.reshape(-1)
    return [flat[0], flat[flat.size // 2], flat[-1], float(np.sum(flat * flat))]


def run(make: type, arguments: dict, decay: dict) -> list[dict[str, list[float]]]:
    """Fingerprints of the parameters after each step; the learning rate falls unless it rests."""
    params = {
        name: torch.nn.Parameter(torch.tensor(wave(shape, 7.0), dtype=torch.float64))
        for name, shape in SHAPES.items()
    }
    kernels = [p for name, p in params.items() if name.endswith("kernel")]
    groups = [
        {"params": kernels, **decay},
        {"params": [params["conv/bias"]], "weight_decay": 0.0},
    ]
    optimizer = make(groups, **arguments)
    # PyTorch's RMSprop has its learning rate outside the velocity: comparable while it rests.
    rests = make is torch.optim.RMSprop and "momentum" in arguments
    trace = []
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = arguments["lr"] * (1.0 if rests else 1 - step / 20)
        for name, p in params.items():
            p.grad = torch.tensor(wave(SHAPES[name], 0.5 * step), dtype=torch.float64)
        optimizer.step()
        trace.append({name: fingerprint(p.detach().numpy()) for name, p in params.items()})
    return trace


if __name__ == "__main__":
    figures = {name: run(*case) for name, case in CASES.items()}
    lines = [
        f'"{name}": [\n' + ",\n".join(json.dumps(step) for step in trace) + "\n]"
        for name, trace in figures.items()
    ]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    Path(__file__).with_name("optim_torch.json").write_text(text)
