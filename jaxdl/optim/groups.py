"""Parameter groups: freezing and learning-rate multipliers, by path and by depth.

One learning rate is multiplied, leaf by leaf: discriminative rates and layer-wise decay are
"Universal Language Model Fine-tuning for Text Classification", Howard, Ruder,
https://arxiv.org/abs/1801.06146 (the rate of a layer is that of the next one / 2.6), and
"BEiT: BERT Pre-Training of Image Transformers", Bao, Dong, Piao, Wei,
https://arxiv.org/abs/2106.08254. Layers nearer the input get the lower rate.
"""

import operator
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
import optax

from jaxdl import tree
from jaxdl.errors import UserError
from jaxdl.nn.stack import STACKED
from jaxdl.optim.arguments import chosen
from jaxdl.types import PyTree


def group_rates(params: PyTree, lr_multipliers: Mapping[str, float]) -> PyTree:
    """For each leaf, the factor of the first pattern that matches its whole path; else 1."""
    masks = [
        (chosen("config.lr_multipliers", p)(params), factor) for p, factor in lr_multipliers.items()
    ]
    found = jax.tree.map(lambda _: 1.0, params)
    for mask, factor in reversed(masks):
        found = jax.tree.map(lambda old, hit, f=factor: f if hit else old, found, mask)
    return found


def layer_rates(params: PyTree, order: Sequence[str], decay: float) -> PyTree:
    """For each leaf of the backbone, decay^(layers between it and the head).

    A layer is a child of the backbone that has a kernel, together with the norms, tokens and
    positions that follow it; each of the blocks that are stacked along axis 0 is one, and their
    factors differ along that axis. The head, and whatever is outside the backbone, has 1.

    Args:
        params: {'backbone', 'head', ...}.
        order: names of the backbone's children, as they are called.
        decay: the rate of a layer, as a part of the next layer's.
    """
    if "backbone" not in params:
        raise UserError("config.layer_decay needs a model with a backbone, and this has none")
    backbone = params["backbone"]
    first, last, depth = {}, {}, -1
    for name in [n for n in order if n in backbone]:
        leaves = tree.flatten(backbone[name])
        blocks = [x.shape[0] for path, x in leaves.items() if _is_stacked(path, name)]
        opens = blocks or depth < 0 or any(path.endswith("kernel") for path in leaves)
        depth += max(blocks, default=1) if opens else 0
        first[name], last[name] = depth - max(blocks, default=1) + 1, max(depth, 0)

    def rate(path: str, leaf: jax.Array) -> float | np.ndarray:
        name, _, rest = path.partition("/")
        if not _is_stacked(rest, name):
            return decay ** (depth + 1 - last[name])
        at = first[name] + np.arange(leaf.shape[0])
        return (decay ** (depth + 1.0 - at)).reshape(-1, *[1] * (leaf.ndim - 1)).astype(np.float32)

    ones = jax.tree.map(lambda _: 1.0, params)
    return {**ones, "backbone": jax.tree.map(rate, tree.names(backbone), backbone)}


def _is_stacked(path: str, name: str) -> bool:
    return STACKED in (name, *path.split("/"))


def partitioned(
    rest: optax.GradientTransformation, groups: Mapping[str, optax.GradientTransformation]
) -> optax.GradientTransformationExtraArgs:
    """Optimizers by path, each with a state and a count of its own.

    Args:
        rest: of the leaves that no pattern matches.
        groups: regular expression to optimizer; the first one that matches a whole path holds.
    """
    if not groups:
        return optax.with_extra_args_support(rest)
    choose = [(p, chosen("config.optimizers", p)) for p in groups]
    names = [f"group{i}" for i in range(len(groups))]

    def labels(params: PyTree) -> PyTree:
        found = jax.tree.map(lambda _: "rest", params)
        for name, (_, mask) in reversed(list(zip(names, choose, strict=True))):
            found = jax.tree.map(lambda old, hit, n=name: n if hit else old, found, mask(params))
        used = set(jax.tree.leaves(found))
        for name, (pattern, _) in zip(names, choose, strict=True):
            if name not in used:
                raise UserError(f"config.optimizers: those before '{pattern}' take all it matches")
        if "rest" not in used:
            raise UserError(
                "config.optimizers leave no parameter to config.optimizer: leave a group out, and "
                "set config.optimizer to its optimizer"
            )
        return found

    return optax.partition(dict(zip(names, groups.values(), strict=True)) | {"rest": rest}, labels)


def _some_left(pattern: str, mask: Callable[[PyTree], PyTree]) -> Callable[[PyTree], PyTree]:
    """The mask of frozen leaves, refused where nothing is left to train."""

    def checked(params: PyTree) -> PyTree:
        frozen = mask(params)
        if all(jax.tree.leaves(frozen)):
            raise UserError(f"config.freeze='{pattern}' matches every parameter: none would train")
        return frozen

    return checked


def grouped(
    optimizer: optax.GradientTransformation,
    *,
    freeze: str | None = None,
    lr_multipliers: Mapping[str, float] | None = None,
    order: Sequence[str] = (),
    layer_decay: float | None = None,
) -> optax.GradientTransformationExtraArgs:
    """An optimizer whose learning rate differs from leaf to leaf.

    Its last step must be linear in the learning rate. A frozen leaf has no memory in the
    optimizer's state, is not decayed, and its update is zero.

    Args:
        optimizer: what moves everything alike.
        freeze: regular expression on the paths of leaves that do not move.
        rates: regular expression to factor; the first one that matches a path holds.
        order: the backbone's children in the order of their calls, for `layer_decay`.
        layer_decay: the rate of a layer, as a part of the next layer's.
    """
    optimizer = optax.with_extra_args_support(optimizer)
    if freeze is not None:
        stays = _some_left(freeze, chosen("config.freeze", freeze))
        moves = lambda params: jax.tree.map(operator.not_, stays(params))
        optimizer = optax.chain(
            optax.masked(optimizer, moves), optax.masked(optax.set_to_zero(), stays)
        )
    if not lr_multipliers and layer_decay is None:
        return optimizer

    def factors(params: PyTree) -> PyTree:
        found = group_rates(params, lr_multipliers or {})
        if layer_decay is None:
            return found
        return jax.tree.map(lambda a, b: a * b, found, layer_rates(params, order, layer_decay))

    def init(params: PyTree) -> PyTree:
        factors(params)  # a pattern that matches nothing is found out before the first step
        return optimizer.init(params)

    def update(updates: PyTree, state: PyTree, params: PyTree | None = None, **extra):
        updates, state = optimizer.update(updates, state, params, **extra)
        scale = lambda u, f: u * np.asarray(f, u.dtype)
        return jax.tree.map(scale, updates, factors(params)), state

    return optax.GradientTransformationExtraArgs(init, update)
