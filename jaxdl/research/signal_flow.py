"""Do signals reach the end of a network, and gradients its beginning?

Understanding the difficulty of training deep feedforward neural networks. Glorot, Bengio 2010.
https://proceedings.mlr.press/v9/glorot10a.html

`compare_activations` sends normal noise through a deep stack of dense layers; `layer_gradients` and
`verdict` look at any objective.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl import registry, tree
from jaxdl.config import Part
from jaxdl.perf.table import aligned
from jaxdl.types import Array, Batch, Objective, PyTree

VANISHING, EXPLODING = 1e-3, 1e3


class Flow(NamedTuple):
    """Statistics of one activation at the end of a deep stack, forward and backward.

    Attributes:
        activation: its name.
        mean: of the last layer's outputs, over their spread: 0 is zero-centred.
        spread: standard deviation of the last layer's outputs over that of the input.
        saturated: fraction of all outputs where the slope is below a hundredth of the steepest.
        dead: fraction of the units of all layers whose slope is 0 for every example.
        gradient: norm of the gradient at the first layer's output over that at the last's.
    """

    activation: str
    mean: float
    spread: float
    saturated: float
    dead: float
    gradient: float

    @property
    def verdict(self) -> str:
        """'vanishing', 'exploding' or 'steady' gradients."""
        return verdict([self.gradient, 1.0])


def compare_activations(
    names: Sequence[str | Part],
    *,
    initializer: str | Part = "he",
    depth: int = 20,
    width: int = 256,
    examples: int = 512,
    seed: int = 0,
) -> list[Flow]:
    """Each activation in the same stack of dense layers, drawn by the same key.

    Args:
        names: of `activations`, or parts with arguments.
        initializer: of the kernels; there are no biases.
        depth: layers.
        width: units of each layer, and numbers of each example.
        examples: rows of normal noise.
        seed: of noise and kernels.
    """
    as_part = lambda name: Part(name) if isinstance(name, str) else name
    draw = registry.bind("initializers", as_part(initializer))
    noise, key = jax.random.split(jax.random.key(seed))
    x = jax.random.normal(noise, (examples, width))
    kernels = [draw(k, (width, width), jnp.float32) for k in jax.random.split(key, depth)]
    found = []
    for part in map(as_part, names):
        act = registry.bind("activations", part)
        found.append(_flow(part.name, act, x, kernels))
    return found


def _flow(name: str, act: Callable[[Array], Array], x: Array, kernels: list[Array]) -> Flow:
    slope = jax.vmap(jax.vmap(jax.grad(act)))

    @jax.jit
    def run(x: Array):
        h, slopes = x, []
        for kernel in kernels:
            z = h @ kernel
            h = act(z)
            slopes.append(slope(z))
        # d h_last / d h_first, transposed, applied to noise
        back = first = jax.random.normal(jax.random.key(1), h.shape)
        for kernel, s in zip(kernels[:0:-1], slopes[:0:-1], strict=True):
            back = (back * s) @ kernel.T
        return h, jnp.stack(slopes), jnp.linalg.norm(back) / jnp.linalg.norm(first)

    h, slopes, gradient = map(np.asarray, run(x))
    return Flow(
        name,
        mean=float(h.mean() / max(h.std(), 1e-30)),
        spread=float(h.std() / x.std()),
        saturated=float((np.abs(slopes) < 0.01 * np.abs(slopes).max()).mean()),
        dead=float((slopes == 0).all(axis=1).mean()),
        gradient=float(gradient),
    )


def text(flows: Sequence[Flow]) -> str:
    """The flows as a table."""
    head = ("activation", "mean", "spread", "saturated", "dead", "gradient", "")
    rows = [
        (
            f.activation,
            f"{f.mean:.2f}",
            f"{f.spread:.2e}",
            f"{f.saturated:.0%}",
            f"{f.dead:.0%}",
            f"{f.gradient:.2e}",
            f.verdict,
        )
        for f in flows
    ]
    return "\n".join(aligned([head, *rows], "<>>>>><"))


def layer_gradients(
    objective: Objective, params: PyTree, variables: PyTree, batch: Batch, key: Array
) -> dict[str, float]:
    """Root mean square of the loss's gradient, kernel by kernel, in the order of the names.

    Layers that are stacked along axis 0 come as `name[0]`, `name[1]`, ...
    """
    take = jax.jit(jax.grad(objective.loss, has_aux=True))
    gradients = tree.flatten(take(params, variables, batch, key)[0])
    kernels = {n: np.asarray(g) for n, g in gradients.items() if n.endswith("/kernel")}
    natural = sorted(kernels, key=lambda n: [int(t) if t.isdigit() else t for t in _parts(n)])
    rms = lambda x: float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))
    found = {}
    for name in natural:
        if "/blocks/" in name:
            found |= {f"{name}[{i}]": rms(g) for i, g in enumerate(kernels[name])}
        else:
            found[name] = rms(kernels[name])
    return found


def _parts(name: str) -> list[str]:
    return re.split(r"(\d+)", name)


def verdict(gradients: Sequence[float]) -> str:
    """'vanishing', 'exploding' or 'steady', by the first layer's gradient over the last's."""
    first, last = gradients[0], gradients[-1]
    if not np.isfinite(gradients).all():
        return "exploding"
    ratio = first / last if last else np.inf
    return "vanishing" if ratio < VANISHING else "exploding" if ratio > EXPLODING else "steady"
