"""Parameters, multiply-adds and memory of a plain convolutional network, in closed form.

The exercise of Hands-On Machine Learning (Géron 2019, chapter 14) for any chain of convolutions,
poolings and dense layers. Differs from the book's solution, which takes all activations and the
parameters as what training needs: that is a lower bound, and gradients and the optimizer's state
are told apart from it.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Literal

from jaxdl.errors import UserError
from jaxdl.perf.table import aligned, amount

Shape = tuple[int, ...]
Padding = Literal["SAME", "VALID"] | int
"""SAME: ceil(n / stride) outputs. VALID: full windows only. A number: that many on each side."""


@dataclasses.dataclass(frozen=True)
class Conv:
    """A square convolution: (h, w, c) -> (h', w', features)."""

    features: int
    kernel: int = 3
    stride: int = 1
    padding: Padding = "SAME"
    groups: int = 1
    bias: bool = True


@dataclasses.dataclass(frozen=True)
class Pool:
    """A square pooling, whose stride is its kernel unless given: (h, w, c) -> (h', w', c)."""

    kernel: int = 2
    stride: int | None = None
    padding: Padding = "VALID"


@dataclasses.dataclass(frozen=True)
class Dense:
    """A dense layer on all that comes in, flattened: any shape -> (features,)."""

    features: int
    bias: bool = True


@dataclasses.dataclass(frozen=True)
class Row:
    """One layer, for one example.

    Attributes:
        layer: its specification, or None for the input.
        shape: of its output.
        parameters: weights and biases.
        macs: multiply-adds; every tap counts, also where it reads padding.
    """

    layer: Conv | Pool | Dense | None
    shape: Shape
    parameters: int = 0
    macs: int = 0

    @property
    def activations(self) -> int:
        """Numbers in the output."""
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True)
class Calculation:
    """The input and the layers, in order; what they need together, in bytes.

    Attributes:
        rows: the input, then a row a layer.
        batch_size: examples held at once.
        itemsize: bytes of a number; 4 is float32.
        slots: numbers that the optimizer keeps for each parameter; 2 for Adam, 1 for momentum.
    """

    rows: tuple[Row, ...]
    batch_size: int = 1
    itemsize: int = 4
    slots: int = 2

    @property
    def parameters(self) -> int:
        """Weights and biases of all layers."""
        return sum(row.parameters for row in self.rows)

    @property
    def macs(self) -> int:
        """Multiply-adds of a forward pass of one example."""
        return sum(row.macs for row in self.rows)

    @property
    def parameter_bytes(self) -> int:
        """Of the parameters."""
        return self.parameters * self.itemsize

    @property
    def activation_bytes(self) -> int:
        """Of all activations of the batch, its input with them."""
        return sum(row.activations for row in self.rows) * self.batch_size * self.itemsize

    @property
    def inference_bytes(self) -> int:
        """The parameters, and the two largest activations that follow each other."""
        sizes = [row.activations for row in self.rows]
        largest = max(map(sum, itertools.pairwise(sizes)), default=sizes[0])
        return self.parameter_bytes + largest * self.batch_size * self.itemsize

    @property
    def training_bytes_lower_bound(self) -> int:
        """The parameters and all activations, which the backward pass reads again."""
        return self.parameter_bytes + self.activation_bytes

    @property
    def gradient_bytes(self) -> int:
        """A number a parameter."""
        return self.parameter_bytes

    @property
    def optimizer_bytes(self) -> int:
        """`slots` numbers a parameter."""
        return self.slots * self.parameter_bytes

    @property
    def training_bytes(self) -> int:
        """Parameters, activations, gradients and the optimizer's state; no workspace."""
        return self.training_bytes_lower_bound + self.gradient_bytes + self.optimizer_bytes

    def __str__(self) -> str:
        header = ("layer", "shape", "parameters", "activations", "bytes", "multiply-adds")
        layers = [
            (
                type(row.layer).__name__ if row.layer else "input",
                "x".join(map(str, row.shape)),
                f"{row.parameters:,}",
                f"{row.activations:,}",
                f"{row.activations * self.itemsize:,}",
                amount(row.macs),
            )
            for row in self.rows
        ]
        totals = [
            ("parameters", f"{self.parameters:,}", amount(self.parameter_bytes, "B")),
            ("multiply-adds", f"{self.macs:,}", "of one example"),
            ("prediction", f"{self.inference_bytes:,} B", "parameters, two layers' activations"),
            (
                "training, at least",
                f"{self.training_bytes_lower_bound:,} B",
                "parameters, all activations",
            ),
            ("gradients", f"{self.gradient_bytes:,} B", "on top"),
            ("optimizer", f"{self.optimizer_bytes:,} B", f"on top: {self.slots} a parameter"),
            ("training", f"{self.training_bytes:,} B", "all of these"),
        ]
        said = f"memory of a batch of {self.batch_size}"
        table = aligned([header, *layers], "<<>>>>")
        return "\n".join([*table, "", said, *aligned(totals, "<><")])


def calculate(
    layers: Sequence[Conv | Pool | Dense],
    image: Shape,
    *,
    batch_size: int = 1,
    itemsize: int = 4,
    slots: int = 2,
) -> Calculation:
    """Cost of a chain of layers on an image (h, w, c); see `Calculation` for the numbers.

    Raises:
        UserError: for a layer that its input does not fit.
    """
    rows = [Row(None, tuple(image))]
    for number, layer in enumerate(layers, start=1):
        try:
            rows.append(_row(layer, rows[-1].shape))
        except UserError as error:
            raise UserError(f"layer {number}, {type(layer).__name__}: {error}") from error
    return Calculation(tuple(rows), batch_size, itemsize, slots)


def _row(layer: Conv | Pool | Dense, shape: Shape) -> Row:
    if isinstance(layer, Dense):
        # k = n m + m
        weights = math.prod(shape) * layer.features
        return Row(layer, (layer.features,), weights + layer.bias * layer.features, weights)
    if len(shape) != 3:
        raise UserError(f"needs a map (h, w, c), not {shape}")
    *size, channels = shape
    stride = layer.kernel if layer.stride is None else layer.stride
    size = [_out(n, layer.kernel, stride, layer.padding) for n in size]
    if isinstance(layer, Pool):
        return Row(layer, (*size, channels))
    if channels % layer.groups or layer.features % layer.groups:
        raise UserError(f"{channels} -> {layer.features} channels make no {layer.groups} groups")
    # k = kh kw c/g m + m
    weights = layer.kernel**2 * channels // layer.groups * layer.features
    return Row(
        layer,
        (*size, layer.features),
        weights + layer.bias * layer.features,
        weights * math.prod(size),
    )


def _out(n: int, kernel: int, stride: int, padding: Padding) -> int:
    """Length of an output axis from that of its input."""
    if padding == "SAME":
        return -(-n // stride)
    padded = n + 2 * (0 if padding == "VALID" else padding)
    if padded < kernel:
        raise UserError(f"its window of {kernel} is larger than its map of {padded}")
    return (padded - kernel) // stride + 1
