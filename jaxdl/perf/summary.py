"""Summary of a model: shape, parameters, multiply-adds and memory of each layer.

One trace in inference mode, nothing is computed. Each product and each parameter belongs to the
innermost module that makes it, so the rows add up to the model. Activations are what the innermost
modules return: what is computed between them, and not fused by the compiler, comes on top.
"""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Sequence

import flax.linen as nn
import jax

from jaxdl import models, tree
from jaxdl.config import Part
from jaxdl.errors import UserError
from jaxdl.perf.modules import nbytes, trace
from jaxdl.perf.table import aligned, amount
from jaxdl.types import PyTree

IMAGE = (224, 224, 3)
"""Input shape where neither the caller nor the model gives one."""

Spec = jax.ShapeDtypeStruct


@dataclasses.dataclass(frozen=True)
class Row:
    """One module, without the modules inside it.

    Attributes:
        path: of its parameters, such as 'backbone/conv1'; '' is the model, 'input' what goes in.
        kind: its class.
        outputs: shapes of what it returns; empty if it is not called in inference.
        parameters: numbers of its own.
        macs: multiply-adds of its own, of all its calls.
        activation_bytes: of what it returns, of all its calls; 0 if other modules are inside.
    """

    path: str
    kind: str
    outputs: tuple[tuple[int, ...], ...]
    parameters: int = 0
    macs: int = 0
    activation_bytes: int = 0


@dataclasses.dataclass(frozen=True)
class Summary:
    """A model's rows, in the order in which they are first called, and what they need together.

    Attributes:
        rows: the input, the model and all modules inside it.
        batch_size: of the shapes, multiply-adds and activations.
        weight_bytes: of the parameters.
        state_bytes: of all other variables, such as running statistics.
        inference_bytes: of the activations: the two largest that follow each other. Shortcuts
            that are kept while others are computed come on top.
    """

    rows: tuple[Row, ...]
    batch_size: int
    weight_bytes: int
    state_bytes: int
    inference_bytes: int

    @property
    def parameters(self) -> int:
        """Numbers that training moves."""
        return sum(row.parameters for row in self.rows)

    @property
    def macs(self) -> int:
        """Multiply-adds of a forward pass of the batch."""
        return sum(row.macs for row in self.rows)

    @property
    def training_bytes(self) -> int:
        """All activations, which the backward pass reads again; without gradients and optimizer."""
        return sum(row.activation_bytes for row in self.rows)

    def at_depth(self, depth: int) -> "Summary":
        """The same sums, with modules deeper than `depth` added to those that hold them."""
        whole = {row.path: row for row in self.rows}
        merged: dict[str, Row] = {}
        for row in self.rows:
            path = "/".join(row.path.split("/")[:depth])
            sofar = merged.get(path) or dataclasses.replace(
                whole.get(path, row), path=path, parameters=0, macs=0, activation_bytes=0
            )
            merged[path] = dataclasses.replace(
                sofar,
                parameters=sofar.parameters + row.parameters,
                macs=sofar.macs + row.macs,
                activation_bytes=sofar.activation_bytes + row.activation_bytes,
            )
        return dataclasses.replace(self, rows=tuple(merged.values()))

    def totals(self) -> dict[str, int]:
        """Name to sum: what a program reads."""
        return {
            "batch_size": self.batch_size,
            "parameters": self.parameters,
            "macs": self.macs,
            "weight_bytes": self.weight_bytes,
            "state_bytes": self.state_bytes,
            "inference_bytes": self.inference_bytes,
            "training_bytes": self.training_bytes,
        }


def summary(
    model: str | Part | nn.Module,
    image: Sequence[int] | None = None,
    num_classes: int | None = None,
    batch_size: int = 1,
) -> Summary:
    """The summary of a model, registered or built.

    Args:
        model: a registered name, a `Part` for one with arguments, or a module.
        image: (h, w, c), or (t,) tokens; without it, what a registered model was made for, else
            224x224x3.
        num_classes: of a registered model; without it, those it was made for.
        batch_size: examples in the batch.

    Raises:
        UserError: for an unknown name, or an image that the model does not take.
    """
    if isinstance(model, str):
        model = Part(model)
    if isinstance(model, Part):
        image = image or models.input_shape(model.name)
        classes = num_classes or models.usual_classes(model.name)
        model = models.create(model.name, classes, **model.args)
    shape = image or IMAGE
    try:
        return of_module(model, *models.input_specs(model, shape, batch_size))
    except (TypeError, ValueError, ZeroDivisionError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        size = "x".join(map(str, shape))
        raise UserError(f"the model does not take an image of {size}: {said[0]}") from error


def of_module(module: nn.Module, *inputs: Spec) -> Summary:
    """The summary of any Linen module called with `inputs`, the batch first in each shape."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    variables = jax.eval_shape(module.init, key, *inputs)
    parameters = variables.get("params", {})
    made = trace(module, variables, *inputs)
    numbers = _own_parameters(parameters, set(made.kinds))
    rows = [
        Row(
            path,
            made.kinds.get(path, ""),
            tuple(made.outputs.get(path, ())),
            parameters=numbers[path],
            macs=made.macs[path],
            activation_bytes=made.activation_bytes[path],
        )
        for path in dict.fromkeys([*made.kinds, *numbers])
    ]
    given = _total_bytes(inputs)
    entry = Row("input", "", tuple(x.shape for x in inputs), activation_bytes=given)
    pairs = itertools.pairwise([given, *made.sizes])
    return Summary(
        rows=(entry, *rows),
        batch_size=inputs[0].shape[0],
        weight_bytes=_total_bytes(parameters),
        state_bytes=_total_bytes(variables) - _total_bytes(parameters),
        inference_bytes=max(map(sum, pairs), default=given),
    )


def text(shown: Summary) -> str:
    """A line a row, then the totals; rows with nothing of their own are left out."""
    layers = [
        (
            row.path or "(model)",
            row.kind,
            " ".join("x".join(map(str, shape)) for shape in row.outputs),
            f"{row.parameters:,}",
            amount(row.macs),
            amount(row.activation_bytes, "B"),
        )
        for row in shown.rows
        if row.parameters or row.macs or row.activation_bytes
    ]
    totals = [
        ("parameters", f"{shown.parameters:,}", ""),
        ("weights", amount(shown.weight_bytes, "B"), ""),
        ("running statistics", amount(shown.state_bytes, "B"), ""),
        ("multiply-adds", amount(shown.macs), "of a forward pass; two FLOPs each"),
        (
            "activations, inference",
            amount(shown.inference_bytes, "B"),
            "the two largest that follow each other",
        ),
        (
            "activations, training",
            amount(shown.training_bytes, "B"),
            "all of them; gradients and the optimizer's state come on top",
        ),
    ]
    header = ("layer", "kind", "output", "parameters", "multiply-adds", "activations")
    lines = aligned([header, *layers], "<<<>>>")
    said = f"for a batch of {shown.batch_size}; a MB is 10^6 bytes"
    return "\n".join([*lines, "", said, *aligned(totals, "<><")])


def _own_parameters(parameters: PyTree, called: set[str]) -> Counter[str]:
    """Numbers by path; those of a module that inference leaves out have its path."""
    numbers: Counter[str] = Counter()
    leaves = tree.flatten(parameters)
    for name, leaf in leaves.items():
        parts = name.split("/")
        prefixes = ["/".join(parts[:n]) for n in range(len(parts) + 1)]
        depth = max(n for n, prefix in enumerate(prefixes) if prefix in called)
        inner = prefixes[depth + 1]
        # A wrapper's parameter may stand below another's, as 'kernel/scale' of a weight norm does.
        numbers[prefixes[depth] if inner in leaves else inner] += leaf.size
    return numbers


def _total_bytes(variables: PyTree) -> int:
    return sum(map(nbytes, jax.tree.leaves(variables)))
