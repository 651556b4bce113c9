"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner.

"SOAP: Improving and Stabilizing Shampoo using Adam", Vyas, Morwani, Zhao, Kwun, Shapira,
Brandfonbrener, Janson, Kakade, https://arxiv.org/abs/2409.11321 (algorithms 3 and 4)

As in the authors' code: every axis of a convolution's kernel has a basis, bases come from an
eigendecomposition once and from a step of power iteration after that, their columns sorted by
eigenvalue, and the first step only gathers a gradient and moves nothing. Leaves of one axis, and
axes longer than `max_precond_dim`, stay as they are: for the former this is Adam.

What differs from the authors' code: axes of length 1 have no basis, the heads of an attention are
one axis and its projections several matrices, each with bases of its own, and so has each layer of
a stack. Weight decay acts in the first step too, and before the step instead of after it.

Where the first gradient does not span an axis, which no matrix does that is not square, the rest of
that axis's first basis is any, and rounding chooses it: two runs on different numbers of devices
take other steps from there on, each as good.
"""

import string
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxdl import tree
from jaxdl.config import Count, NonNegative, Positive, Rate
from jaxdl.optim.arguments import DECAYED, LearningRate, add_weight_decay, in_float32
from jaxdl.optim.matrices import STACKED, Axes, axes_of, join, layered, split
from jaxdl.registry import register
from jaxdl.types import Array, PyTree

Bases = tuple[Array | None, ...]
"""(matrices, d, d) for each axis of length d, None where an axis has none."""


class SoapState(NamedTuple):
    """Steps done, the moments, and for each axis of a leaf its covariance and its basis."""

    count: Array
    mu: PyTree
    """Of the gradient, in the shape of the parameters."""
    nu: PyTree
    """Of the square of the rotated gradient: (matrices, one axis a group)."""
    covariances: PyTree
    bases: PyTree


def rotate(x: Array, bases: Bases, *, back: bool = False) -> Array:
    """Each matrix of x (matrices, d_1, ...) in its bases, or from them `back`."""
    for axis, basis in enumerate(bases, start=1):
        if basis is not None:
            # X = Q^T X, or Q X, along this axis
            here = string.ascii_lowercase[: x.ndim]
            there = here.replace(here[axis], "z")
            pair = ("z", here[axis]) if back else (here[axis], "z")
            x = jnp.einsum(f"{here},{here[0]}{pair[0]}{pair[1]}->{there}", x, basis)
    return x


def covariance(x: Array, axis: int) -> Array:
    """G G^T of each matrix along one axis: (matrices, d, d)."""
    here = string.ascii_lowercase[: x.ndim]
    return jnp.einsum(f"{here},{here.replace(here[axis], 'z')}->{here[0]}{here[axis]}z", x, x)


def eigenbasis(covariance: Array) -> Array:
    """Eigenvectors as columns, that of the largest eigenvalue first."""
    return jnp.linalg.eigh(covariance)[1][..., ::-1]


def refresh(covariances: Bases, bases: Bases, nu: Array) -> tuple[Bases, Array]:
    """One step of power iteration for every axis, and the moments in the new order of columns."""
    new = []
    for axis, (matrix, basis) in enumerate(zip(covariances, bases, strict=True), start=1):
        if basis is None:
            new.append(None)
            continue
        # S = L Q;  Q = QR(S), columns sorted by the estimates q^T L q
        power = matrix @ basis
        order = jnp.argsort(jnp.sum(basis * power, axis=-2), axis=-1, descending=True)
        new.append(jnp.linalg.qr(jnp.take_along_axis(power, order[:, None, :], axis=-1))[0])
        shape = [len(order)] + [-1 if a == axis else 1 for a in range(1, nu.ndim)]
        nu = jnp.take_along_axis(nu, order.reshape(shape), axis=axis)
    return tuple(new), nu


def scale_by_soap(
    b1: float,
    b2: float,
    eps: float,
    precondition_frequency: int,
    max_precond_dim: int,
    stacked: str,
) -> optax.GradientTransformation:
    """Adam's direction, taken in slowly turning bases of the rows and columns of each leaf."""
    layers = layered(stacked)

    def axes(params: PyTree) -> PyTree:
        named = tree.names(params)
        return jax.tree.map(lambda n, w, s: axes_of(n, w.ndim, s), named, params, layers(params))

    def blank(x: Array) -> Bases:
        """Zeros for each axis that is to have a basis."""
        if x.ndim < 3:
            return (None,) * (x.ndim - 1)
        wanted = lambda d: 1 < d <= max_precond_dim
        return tuple(jnp.zeros((len(x), d, d)) if wanted(d) else None for d in x.shape[1:])

    def init(params: PyTree) -> SoapState:
        parts = jax.tree.map(split, params, axes(params))
        return SoapState(
            count=jnp.zeros((), jnp.int32),
            mu=optax.tree.zeros_like(params),
            nu=optax.tree.zeros_like(parts),
            covariances=jax.tree.map(blank, parts),
            bases=jax.tree.map(blank, parts),
        )

    def gathered(g: Array, covariances: Bases) -> Bases:
        # L = b2 L + (1 - b2) G G^T;  R = b2 R + (1 - b2) G^T G
        return tuple(
            None if old is None else b2 * old + (1 - b2) * covariance(g, axis)
            for axis, old in enumerate(covariances, start=1)
        )

    def update(
        updates: PyTree, state: SoapState, params: PyTree | None = None
    ) -> tuple[PyTree, SoapState]:
        places = axes(updates)
        t = state.count.astype(jnp.float32)  # the first step counts for nothing
        first = state.count == 0
        keep = jnp.where(first, 0.0, 1.0)
        # sqrt(1 - b2^t) / (1 - b1^t)
        correction = jnp.sqrt(1 - b2**t) / jnp.where(first, 1.0, 1 - b1**t)

        def one(g: Array, m: Array, v: Array, bases: Bases, place: Axes) -> tuple[Array, ...]:
            # m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) (Q_L^T G Q_R)^2
            m = keep * (b1 * m + (1 - b1) * g)
            v = keep * (b2 * v + (1 - b2) * jnp.square(rotate(split(g, place), bases)))
            # u = Q_L (Q_L^T M Q_R / (sqrt(v) + eps)) Q_R^T
            inside = rotate(split(m, place), bases) / (jnp.sqrt(v) + eps)
            return correction * join(rotate(inside, bases, back=True), place, g.shape), m, v

        with jax.default_matmul_precision("highest"):
            done = jax.tree.map(one, updates, state.mu, state.nu, state.bases, places)
            moved, mu, nu = (jax.tree.map(lambda _, d, i=i: d[i], updates, done) for i in range(3))
            parts = jax.tree.map(split, updates, places)
            covariances = jax.tree.map(gathered, parts, state.covariances)
            due = state.count % precondition_frequency == 0
            bases, nu = jax.lax.switch(
                jnp.where(first, 0, jnp.where(due, 1, 2)),
                [_begin, _turn, lambda covariances, bases, nu: (bases, nu)],
                covariances,
                state.bases,
                nu,
            )
        return moved, SoapState(state.count + 1, mu, nu, covariances, bases)

    return optax.GradientTransformation(init, update)


def _begin(covariances: PyTree, bases: PyTree, nu: PyTree) -> tuple[PyTree, PyTree]:
    return jax.tree.map(eigenbasis, covariances), nu


def _turn(covariances: PyTree, bases: PyTree, nu: PyTree) -> tuple[PyTree, PyTree]:
    turned = jax.tree.map(lambda v, c, q: refresh(c, q, v), nu, covariances, bases)
    return tuple(jax.tree.map(lambda _, pair, i=i: pair[i], nu, turned) for i in range(2))


@register("optimizers")
def soap(
    learning_rate: LearningRate,
    *,
    b1: Rate = 0.95,
    b2: Rate = 0.95,
    eps: Positive = 1e-8,
    precondition_frequency: Count = 10,
    max_precond_dim: Count = 10_000,
    weight_decay: NonNegative = 1e-2,
    decay: str = DECAYED,
    stacked: str = STACKED,
) -> optax.GradientTransformation:
    """Adam in the eigenbasis of Shampoo's preconditioner, with decoupled weight decay.

    Args:
        learning_rate: step size, about AdamW's (the paper takes 3e-3); a number or a schedule of
            the step count.
        b1: decay rate of the mean of gradients.
        b2: decay rate of the mean of squared gradients, and of the covariances.
        eps: added to the root of the second moment, before its bias is corrected.
        precondition_frequency: steps between two turns of the bases.
        max_precond_dim: the longest axis that has a basis: d of them are d * d numbers, twice.
        weight_decay: a step shrinks a weight by learning_rate * weight_decay of itself.
        decay: regular expression on the path of the leaves to decay.
        stacked: the same of the leaves that hold many layers along their first axis.
    """
    return in_float32(
        optax.chain(
            scale_by_soap(b1, b2, eps, precondition_frequency, max_precond_dim, stacked),
            # w = w - learning_rate * (u + weight_decay * w)
            add_weight_decay(weight_decay, decay),
            optax.scale_by_learning_rate(learning_rate),
        )
    )
