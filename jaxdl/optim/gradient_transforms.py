"""Transforms of a gradient before the optimizer: clipping, scaling, centring, noise.

Each entry is an Optax transformation that maps a gradient to a gradient; a config lists them in the
order in which they are applied. A gradient of zero comes through as zero (but for `noise`), and
leaves keep their types; norms and means are taken in float32.

`clip_block_rms`, `adaptive_clip` and `centralize` speak of layers and of units, a unit being what
one output is computed with: a column of a dense kernel (i, o), a filter (h, w, i) of a convolution.
Optax's own take the axes from the rank alone: `optax.adaptive_grad_clip` is right for such kernels,
but mixes the layers of a stack and the heads of a projection, and `optax.centralize` takes the mean
over all axes but the first, which is right for (o, i, h, w). So the axes come from `matrices.py`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from jaxdl import tree
from jaxdl.config import Count, NonNegative, Positive, Rate, Seed
from jaxdl.optim.arguments import DECAYED, chosen, in_float32
from jaxdl.optim.matrices import STACKED, axes_of, layered
from jaxdl.registry import register
from jaxdl.types import Array, PyTree

HEAD = r"(.*/)?head/.*"
"""The last layer, which gives the logits."""
KERNELS = r"(.*/)?kernel"
TINY = 1e-30


def _mapped(f: Callable[[PyTree, PyTree], PyTree]) -> optax.GradientTransformation:
    """(gradient, params) -> gradient, computed in float32 and given back in its own types."""
    return in_float32(optax.stateless(f))


def _whole(ndim: int, stack: bool) -> tuple[int, ...]:
    """The axes of one layer's part of a leaf."""
    return tuple(range(int(stack), ndim))


def _inputs(name: str, ndim: int, stack: bool) -> tuple[int, ...]:
    """The axes of a kernel along which a unit has its weights: all but layers and outputs."""
    return tuple(axis for group in axes_of(name, ndim, stack).groups[:-1] for axis in group)


@register("gradient_transforms")
def clip_norm(*, limit: Positive = 1.0) -> optax.GradientTransformation:
    """Shorten a gradient that is longer than `limit` to it (https://arxiv.org/abs/1211.5063).

    Args:
        limit: largest Euclidean norm over all leaves together.
    """
    # g = g * min(1, limit / ||g||)
    return in_float32(optax.clip_by_global_norm(limit))


@register("gradient_transforms")
def clip_value(*, limit: Positive = 1.0) -> optax.GradientTransformation:
    """Bound each entry by itself, which may turn the gradient (https://arxiv.org/abs/1308.0850).

    The paper bounds what flows back through its LSTM; here it is the gradient of the parameters.

    Args:
        limit: largest magnitude of an entry.
    """
    # g = min(max(g, -limit), limit)
    return optax.clip(limit)


@register("gradient_transforms")
def clip_block_rms(
    *, limit: Positive = 1.0, stacked: str = STACKED
) -> optax.GradientTransformation:
    """Bound the root mean square of each leaf of each layer (https://arxiv.org/abs/1804.04235).

    The paper does so to Adafactor's steps (section 6); here it is the gradient.

    Args:
        limit: largest root mean square; the paper's d.
        stacked: regular expression on the path of the leaves whose first axis counts layers.
    """
    layers = layered(stacked)

    def clipped(g: Array, stack: bool) -> Array:
        rms = jnp.sqrt(jnp.mean(jnp.square(g), _whole(g.ndim, stack), keepdims=True))
        # g = g / max(1, RMS(g) / limit)
        return g / jnp.maximum(1, rms / limit)

    return _mapped(lambda gradient, _: jax.tree.map(clipped, gradient, layers(gradient)))


@register("gradient_transforms")
def adaptive_clip(
    *,
    limit: Positive = 0.01,
    eps: Positive = 1e-3,
    exclude: str = HEAD,
    stacked: str = STACKED,
) -> optax.GradientTransformation:
    """AGC: bound each unit's gradient by the size of its weights (https://arxiv.org/abs/2102.06171).

    The leaves of a layer that are no kernels, such as a bias, count as one unit each. A table of
    embeddings is the kernel (i, o) of a one-hot vector.

    Args:
        limit: largest norm of a unit's gradient over that of its weights, the paper's lambda: 0.01
            for its batches of 4096, up to 0.16 for smaller ones.
        eps: the least norm that weights count as having, so that those of zero can leave it.
        exclude: regular expression on the path of the leaves that are left alone: the last layer's
            in the paper.
        stacked: the same of the leaves whose first axis counts layers.
    """
    excluded, layers = chosen("exclude", exclude, HEAD), layered(stacked)

    def clipped(name: str, g: Array, w: Array, alone: bool, units: bool, stack: bool) -> Array:
        if alone:
            return g
        axes = _inputs(name, g.ndim, stack) if units else _whole(g.ndim, stack)
        norm = lambda x: jnp.sqrt(jnp.sum(jnp.square(x), axes, keepdims=True))
        # g = g * min(1, limit * max(||w||, eps) / ||g||), unit by unit
        bound = limit * jnp.maximum(norm(w), eps)
        return g * jnp.minimum(1, bound / jnp.maximum(norm(g), TINY))

    def update(gradient: PyTree, params: PyTree | None) -> PyTree:
        if params is None:
            raise TypeError("adaptive_clip: call update(gradient, state, params)")
        kernels = tree.select(gradient, DECAYED)
        masks = (excluded(gradient), kernels, layers(gradient))
        return jax.tree.map(clipped, tree.names(gradient), gradient, params, *masks)

    return _mapped(update)


@register("gradient_transforms")
def unit_norm() -> optax.GradientTransformation:
    """Keep the gradient's direction and make its length 1 (https://arxiv.org/abs/1507.02030).

    A gradient of zero has no direction and stays; `optax.contrib.normalize` makes it NaN.
    """

    def update(gradient: PyTree, _: PyTree | None) -> PyTree:
        length = optax.tree.norm(gradient)
        # g = g / ||g||
        return jax.tree.map(lambda g: g / jnp.where(length > 0, length, 1), gradient)

    return _mapped(update)


@register("gradient_transforms")
def centralize(*, leaves: str = KERNELS, stacked: str = STACKED) -> optax.GradientTransformation:
    """Take from each unit's gradient its mean (https://arxiv.org/abs/2004.01461).

    A unit of a single weight has nothing but its mean, and is left alone; the paper would never
    train it.

    Args:
        leaves: regular expression on the path of the leaves that it is done to: kernels.
        stacked: the same of the leaves whose first axis counts layers.
    """
    taken, layers = chosen("leaves", leaves, KERNELS), layered(stacked)

    def centred(name: str, g: Array, take: bool, stack: bool) -> Array:
        axes = _inputs(name, g.ndim, stack)
        if not take or all(g.shape[a] == 1 for a in axes):
            return g
        # g = g - mean(g), unit by unit
        return g - jnp.mean(g, axes, keepdims=True)

    def update(gradient: PyTree, _: PyTree | None) -> PyTree:
        masks = (taken(gradient), layers(gradient))
        return jax.tree.map(centred, tree.names(gradient), gradient, *masks)

    return _mapped(update)


class Level(NamedTuple):
    """Running mean and variance of the loss, () float32, and steps, () int32."""

    mean: Array
    variance: Array
    count: Array


@register("gradient_transforms", skips=True)
def skip_spikes(
    *, deviations: Positive = 6.0, decay: Rate = 0.99, warmup: Count = 100
) -> optax.GradientTransformationExtraArgs:
    """Skip a step whose loss is far above what it was (https://arxiv.org/abs/2204.02311, 5.1).

    PaLM's authors went back to a checkpoint instead and left such batches out, by hand; here the
    step changes nothing, and is counted, like one whose gradient is not finite. So that it does,
    the gradient becomes NaN: `gradient.skip_nonfinite` must be on. A skipped loss does not move
    the mean: where the level itself has changed, `gradient.max_skipped` ends the run.

    Its `update` needs the extra argument `value`, the loss.

    Args:
        deviations: standard deviations above the mean from which it is a spike.
        decay: of the running mean and variance.
        warmup: steps before, in which none is skipped but one beyond any variance (1e19).
    """

    def update(
        gradient: PyTree, state: Level, params: PyTree | None = None, *, value: Array, **_: PyTree
    ) -> tuple[PyTree, Level]:
        above = value - state.mean
        spikes = (state.count >= warmup) & (above > deviations * jnp.sqrt(state.variance))
        spikes |= ~jnp.isfinite(above**2)
        count = optax.safe_increment(state.count)
        # a = max(1 / n, 1 - decay): the plain mean of the first losses, then the running one
        fraction = jnp.maximum(1 / count, 1 - decay)
        # m = m + a (l - m),  v = (1 - a) (v + a (l - m)^2)
        variance = (1 - fraction) * (state.variance + fraction * above**2)
        moved = Level(state.mean + fraction * above, variance, count)
        return jax.tree.map(lambda g: jnp.where(spikes, jnp.nan, g), gradient), moved

    zero = jnp.zeros((), jnp.float32)
    init = lambda _: Level(zero, zero, jnp.zeros((), jnp.int32))
    return in_float32(optax.GradientTransformationExtraArgs(init, update))


class Steps(NamedTuple):
    """Number of gradients that noise was added to: () int32."""

    count: Array


@register("gradient_transforms")
def noise(
    *, eta: Positive = 0.01, gamma: NonNegative = 0.55, seed: Seed = 0
) -> optax.GradientTransformation:
    """Add normal noise that dies away (https://arxiv.org/abs/1511.06807).

    The noise of step t is a function of (seed, t) alone; `optax.add_noise` carries a key instead.

    Args:
        eta: variance at the first step: 0.01, 0.3 or 1 in the paper.
        gamma: how fast it dies away.
        seed: of the noise; another seed of the run does not change it.
    """

    def update(gradient: PyTree, state: Steps, _: PyTree | None = None) -> tuple[PyTree, Steps]:
        key = jax.random.fold_in(jax.random.key(seed), state.count)
        # variance = eta / (1 + t)^gamma
        spread = jnp.sqrt(eta / (1.0 + state.count) ** gamma)
        # One draw for all leaves: a draw for each would take a third of a second each to compile.
        flat, unravel = ravel_pytree(gradient)
        normal = unravel(jax.random.normal(key, flat.shape))
        noisy = jax.tree.map(lambda g, n: g + spread * n, gradient, normal)
        return noisy, Steps(optax.safe_increment(state.count))

    init = lambda _: Steps(jnp.zeros((), jnp.int32))
    return in_float32(optax.GradientTransformation(init, update))
