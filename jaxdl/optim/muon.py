"""Muon: momentum whose matrices are made orthogonal, so that every direction in them moves alike.

"Muon: An optimizer for hidden layers in neural networks", Jordan, Jin, Boza, You, Cesista,
Newhouse, Bernstein 2024, https://kellerjordan.github.io/posts/muon/; the scale
'match_rms_adamw' is from "Muon is Scalable for LLM Training", Liu, Su et al. 2025,
https://arxiv.org/abs/2502.16982, section 2.2

Kernels of hidden layers go to Muon, a convolution's as the matrix (h w c_in, c_out), layers that
are stacked and projections of an attention each by itself. Biases, norms, embeddings and the head
go to AdamW, with a learning rate of its own that is a part of Muon's.

What differs from the post: the iteration runs in the parameters' float32, not in bfloat16, and the
first convolution of a network that has no `embed` in its name goes to Muon, since nothing in its
name tells it from a hidden one; `matrices` can leave it out. Optax's Muon corrects a bias of the
momentum, which the authors' does not have, and leaves convolutions to Adam.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import optax

from jaxdl import tree
from jaxdl.config import Count, NonNegative, Positive, Rate
from jaxdl.optim.arguments import DECAYED, LearningRate, add_weight_decay, chosen, in_float32
from jaxdl.optim.matrices import STACKED, axes_of, join, layered, split
from jaxdl.registry import register
from jaxdl.types import Array, PyTree

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the post's quintic, which is steep at 0 and takes singular values to about 0.7 to 1.2."""

MATRICES = r"(?!(.*/)?head/)(?!.*embed)(.*/)?kernel"
"""Kernels but for the head's and those that embed patches or tokens."""


Scaling = Literal["original", "match_rms_adamw"]


def orthogonal(x: Array, iterations: int) -> Array:
    """About U V^T of x = U S V^T, for each matrix of a batch: (..., m, n) -> (..., m, n).

    Singular values that are not far smaller than the largest come out between about 0.7 and 1.2
    after 5 iterations; a matrix of zeros stays one.
    """
    a, b, c = COEFFICIENTS
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (jnp.sqrt(jnp.sum(jnp.square(x), axis=(-2, -1), keepdims=True)) + 1e-7)
    for _ in range(iterations):
        # A = X X^T;  X = a X + (b A + c A A) X
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


def length(inputs: int, outputs: int, scale: Scaling) -> float:
    """Factor of an orthogonalised update, from its numbers of inputs and outputs."""
    if scale == "original":
        # sqrt(max(1, outputs / inputs))
        return max(1.0, outputs / inputs) ** 0.5
    # 0.2 sqrt(max(inputs, outputs)): entries as large as those of AdamW's steps
    return 0.2 * max(inputs, outputs) ** 0.5


ADAMW = {"original": 0.015, "match_rms_adamw": 1.0}
"""AdamW's part of the learning rate: the authors' 3e-4 beside 0.02, and one rate for both."""


def orthogonalize(scale: Scaling, iterations: int, stacked: str) -> optax.GradientTransformation:
    """Replace every matrix by an orthogonal one of the length that its shape asks for."""
    layers = layered(stacked)

    def one(name: str, u: Array, stack: bool) -> Array:
        axes = axes_of(name, u.ndim, stack)
        parts = split(u, axes)
        matrix = parts.reshape(len(parts), -1, parts.shape[-1])
        moved = orthogonal(matrix, iterations) * length(*matrix.shape[1:], scale)
        return join(moved.reshape(parts.shape), axes, u.shape)

    def update(updates: PyTree, params: PyTree | None = None) -> PyTree:
        return jax.tree.map(one, tree.names(updates), updates, layers(updates))

    return optax.stateless(update)


@register("optimizers")
def muon(
    learning_rate: LearningRate,
    *,
    momentum: Rate = 0.95,
    iterations: Count = 5,
    scale: Scaling = "original",
    weight_decay: NonNegative = 0.0,
    adamw: Positive | None = None,
    b1: Rate = 0.9,
    b2: Rate = 0.95,
    eps: Positive = 1e-10,
    matrices: str = MATRICES,
    stacked: str = STACKED,
    decay: str = DECAYED,
) -> optax.GradientTransformation:
    """Orthogonal steps for the matrices of hidden layers, AdamW for all else.

    Args:
        learning_rate: step size of the matrices; a number or a schedule of the step count. The
            post's is 0.02; with 'match_rms_adamw' it is AdamW's.
        momentum: of the matrices' gradients, with Nesterov's look ahead.
        iterations: of Newton and Schulz.
        scale: 'original' multiplies a matrix by sqrt(max(1, outputs / inputs)),
            'match_rms_adamw' by 0.2 sqrt(max(inputs, outputs)).
        weight_decay: a step shrinks a weight by this part of itself times its learning rate.
        adamw: AdamW's learning rate as a part of `learning_rate`; by default 0.015, or 1 with
            'match_rms_adamw'.
        b1: AdamW's decay rate of the mean of gradients.
        b2: AdamW's decay rate of the mean of squared gradients.
        eps: added to the root of AdamW's second moment.
        matrices: regular expression on the path of the leaves that are made orthogonal, of those
            that have two axes or more.
        stacked: the same of the leaves that hold many layers along their first axis.
        decay: the same of the leaves to decay.
    """
    factor = ADAMW[scale] if adamw is None else adamw
    mask, layers = chosen("matrices", matrices, MATRICES), layered(stacked)

    def is_matrix(name: str, w: Array, wanted: bool, stack: bool) -> bool:
        return wanted and len(axes_of(name, w.ndim, stack).groups) >= 2

    def hidden(params: PyTree) -> PyTree:
        return jax.tree.map(is_matrix, tree.names(params), params, mask(params), layers(params))

    def label(params: PyTree) -> PyTree:
        return jax.tree.map(lambda m: "muon" if m else "adamw", hidden(params))

    def others(params: PyTree) -> PyTree:
        return jax.tree.map(lambda m: not m, hidden(params))

    by_label = {
        "muon": optax.chain(
            # v = momentum * v + g;  u = g + momentum * v
            optax.trace(momentum, nesterov=True),
            # u = length * U V^T of u = U S V^T
            orthogonalize(scale, iterations, stacked),
        ),
        # m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2
        # u = m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)
        "adamw": optax.scale_by_adam(b1, b2, eps),
    }
    return in_float32(
        optax.chain(
            optax.partition(by_label, label),
            # w = w - learning_rate * (factor if AdamW's else 1) * (u + weight_decay * w)
            add_weight_decay(weight_decay, decay),
            optax.masked(optax.scale(factor), others),
            optax.scale_by_learning_rate(learning_rate),
        )
    )
