"""Equations and outputs of each module of a model: a trace in which module calls are marked.

The scope of a call and the arrays that it returns are named in the jaxpr, so that what the modules
make is read where loops, maps and branches stand as they run.
"""

import itertools
import re
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name

from jaxdl.perf import flops
from jaxdl.types import PyTree


class Made(NamedTuple):
    """Outputs of the modules of a model, by path; '' is the model itself.

    Attributes:
        kinds: classes, in the order of first calls.
        outputs: shapes that the last call returned.
        macs: multiply-adds outside of inner modules, of all calls.
        activation_bytes: of new arrays, returned by modules that have none inside, of all calls.
        sizes: the same, call by call in the order of the program.
    """

    kinds: dict[str, str]
    outputs: dict[str, list[tuple[int, ...]]]
    macs: Counter[str]
    activation_bytes: Counter[str]
    sizes: list[int]


def trace(module: nn.Module, variables: PyTree, *inputs: jax.ShapeDtypeStruct) -> Made:
    """Trace the outputs of each module when `module` is applied; nothing is computed."""
    calls = _Calls()
    with nn.intercept_methods(calls.mark), _marked(object()):
        jaxpr = flops.trace(module.apply, variables, *inputs)
    paths = list(calls.kinds)
    made = Made(calls.kinds, {}, Counter(), Counter(), [])
    for equation, times, scope in flops.walk(jaxpr):
        owners = re.findall(r"@(\d+)@", scope)
        owner = paths[int(owners[-1])] if owners else ""
        made.macs[owner] += times * flops.products(equation)
        mark = re.fullmatch(r"@(\d+)@(\d+)@(\w+)", str(equation.params.get("name", "")))
        if not mark:
            continue
        path, x = paths[int(mark[1])], equation.outvars[0].aval
        if mark[2] == "0":
            made.outputs[path] = []
        made.outputs[path].append(x.shape)
        if mark[3] == "passed":
            continue
        if mark[3] == "0":
            made.sizes.append(0)
        made.sizes[-1] += nbytes(x)
        made.activation_bytes[path] += times * nbytes(x)
    return made


def nbytes(x: Any) -> int:
    """Bytes of an array, or of its shape and type."""
    return x.size * x.dtype.itemsize


# A module traced before and found in a cache would not be marked: each summary has its own traces.
_marked = jax.make_user_context(None)


class _Calls:
    """Marks, while a model is traced, whose each equation is and what each module returns."""

    def __init__(self) -> None:
        self.kinds: dict[str, str] = {}  # path to class, in the order of first calls
        self._open: list[list[Any]] = []  # [path, whether another module was called inside]

    def mark(self, call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        """A Linen interceptor: names the scope of the call, and what it returns."""
        module = context.module
        if module.scope is None or context.method_name == "setup":
            return call(*args, **kwargs)
        path = "/".join(module.path)
        self.kinds.setdefault(path, type(module).__name__)
        index = list(self.kinds).index(path)
        if any(path == above for above, _ in self._open):  # a helper of the module's own
            return call(*args, **kwargs)
        if self._open:
            self._open[-1][1] = True
        self._open.append([path, False])
        try:
            with jax.named_scope(f"@{index}@"):
                outputs = call(*args, **kwargs)
        finally:
            _, has_inner = self._open.pop()
        # What is handed through, as by dropout in inference, is not a new array.
        known = {id(x) for x in jax.tree.leaves((args, kwargs))}
        position, serial = itertools.count(), itertools.count()

        def name(x: Any) -> Any:
            if not isinstance(x, jax.Array):
                return x
            new = "passed" if has_inner or id(x) in known else next(serial)
            return checkpoint_name(x, f"@{index}@{next(position)}@{new}")

        return jax.tree.map(name, outputs)
