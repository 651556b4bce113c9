"""Parameters and multiply-adds of every model at its own input and number of classes.

    python -m jaxdl.perf.sizes      # writes jaxdl/models/sizes.json

Counting them all takes a minute, so the table is kept; what is not in it, such as a model of a
user's own, is counted when it is asked for.
"""

import functools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import jax

from jaxdl import models, registry, tree
from jaxdl.perf.flops import macs

TABLE = Path(models.__file__).with_name("sizes.json")


class Size(NamedTuple):
    """Cost of a model.

    Attributes:
        parameters: numbers that training moves.
        macs: multiply-adds of one example's forward pass.
        shape: of the example, (h, w, c) or (t,).
    """

    parameters: int
    macs: int
    shape: tuple[int, ...]


def count(name: str) -> Size:
    """Traced, not computed."""
    model, shape = models.create(name, models.usual_classes(name)), models.input_shape(name)
    inputs = models.input_specs(model, shape)
    variables = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    return Size(tree.count(variables["params"]), macs(model.apply, variables, *inputs), shape)


@functools.cache
def kept() -> dict[str, Size]:
    """The table: name to size."""
    table = json.loads(TABLE.read_text()) if TABLE.is_file() else {}
    return {name: Size(p, m, tuple(shape)) for name, (p, m, shape) in table.items()}


def size(name: str) -> Size:
    """From the table, or counted."""
    return kept().get(name) or count(name)


def column(names: Iterable[str]) -> list[str]:
    """'25.56 M    4.089 G  224x224x3  ' for each: parameters, multiply-adds, input."""
    cells = [
        (f"{s.parameters / 1e6:.2f} M", f"{s.macs / 1e9:.3f} G", "x".join(map(str, s.shape)))
        for s in map(size, names)
    ]
    return [f"{p:>8}  {m:>9}  {shape:<11}  " for p, m, shape in cells]


def write() -> None:
    """Count every model of the package anew."""
    names = [e.name for e in registry.entries("models") if e.module.startswith("jaxdl.")]
    lines = [f"  {json.dumps(name)}: {json.dumps(count(name))}" for name in names]
    TABLE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    write()
