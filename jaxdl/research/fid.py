"""Fréchet inception distance: how far two sets of images are apart, in a network's features.

Heusel, Ramsauer, Unterthiner, Nessler, Hochreiter 2017. https://arxiv.org/abs/1706.08500

Numbers compare only where network, weights, resizing and the number of images are the same: with
fewer images the distance comes out larger, and with fewer than dimensions the covariance is
singular. Published FIDs rest on one network that is none of ours: the authors' TensorFlow graph of
2015 with 1008 classes, whose pooling inside the blocks differs, and on its way of resizing. What is
computed here, with the weights of torchvision or timm, ranks sets of images in the same spirit,
but must not be set beside published numbers.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.assemble import Plan, assemble
from jaxdl.augment.normalize import normalize
from jaxdl.config import Config
from jaxdl.errors import UserError
from jaxdl.hub.load import pretrained
from jaxdl.loaded import load_run, load_start, pooled_features
from jaxdl.metrics.frechet import Moments, distance, merge, moments
from jaxdl.session import whole_split
from jaxdl.train.sharding import fetch
from jaxdl.types import Array, Batch, PyTree

Features = Callable[[Batch], Array]
"""A batch -> features (b, d), float32."""


def fid(features: Features, batches_a: Iterable[Batch], batches_b: Iterable[Batch]) -> float:
    """The Fréchet distance between the features of two sets of examples.

    Args:
        features: of a batch; see `inception_features`.
        batches_a: of one set; rows where the `mask` of a batch is 0 are left out.
        batches_b: of the other.

    Raises:
        UserError: a set has fewer than two examples.
    """
    return distance(moments_of(features, batches_a), moments_of(features, batches_b))


def moments_of(features: Features, batches: Iterable[Batch]) -> Moments:
    """Mean and covariance of a set's features, which can be kept and compared with many others."""

    def valid(batch: Batch) -> np.ndarray:
        found = fetch(features(batch))
        return found[fetch(batch["mask"]) > 0] if "mask" in batch else found

    parts = [moments(found) for found in map(valid, batches)]
    if not parts:
        raise UserError("a set of examples has no batch at all")
    return functools.reduce(merge, parts)


def fid_of(
    config: Config,
    split_a: str,
    split_b: str,
    *,
    workdir: Path | None = None,
    features: Features | None = None,
) -> float:
    """The distance of two splits of a config's source, as its network or another one sees them.

    Args:
        config: of a run.
        split_a: of the source, such as 'train[:1000]'.
        split_b: likewise.
        workdir: the run's directory; without it, weights are those that a run would begin with.
        features: in place of those of the config's network, on batches as they are stored.
    """
    data = dataclasses.replace(config.data, validation=split_a, test=split_b)
    config = dataclasses.replace(config, data=data)
    if features:
        plan = assemble(config)
    else:
        run = load_run(workdir, config=config) if workdir else load_start(config)
        opened = {role: run.opened(role) for role in ("validation", "test")}
        plan = run.plan._replace(splits={**run.plan.splits, **opened})
        features = run_features(plan, run.params, run.variables)
    return fid(features, whole_split(config, plan, "validation"), whole_split(config, plan, "test"))


def run_features(plan: Plan, params: PyTree, variables: PyTree) -> Features:
    """Features of a run's network, the head's input; maps and sequences as means over positions."""
    features = pooled_features(plan)
    return lambda batch: features(params, variables, batch)


def inception_features(
    weights: str | Path,
    *,
    size: int = 299,
    mean: tuple[float, ...] = (0.5,),
    std: tuple[float, ...] = (0.5,),
    **args: Any,
) -> Features:
    """The 2048 means of Inception v3's last maps, of batches with `image` (b, h, w, 1 or 3).

    Args:
        weights: a file, a Hugging Face id or an address, under torchvision's or timm's names.
        size: that images are resized to, bilinearly and without aliasing.
        mean: that images in [0, 1] are normalised with, as the weights were trained: 0.5 is that
            of timm's 'inception_v3.tf_in1k'.
        std: likewise.
        args: of the model, where the weights need them.
    """
    module, variables = pretrained(weights, "inception_v3", image=(size, size, 3), **args)

    @jax.jit
    def pool_features(variables: PyTree, image: Array) -> Array:
        image = normalize(None, {"image": image}, mean=mean, std=std)["image"]
        image = jnp.repeat(image, 3 // image.shape[-1], axis=-1)
        image = jax.image.resize(image, (len(image), size, size, 3), "bilinear")
        maps = module.apply(variables, image, train=False, method="features")
        return jnp.mean(maps, axis=(1, 2))

    return lambda batch: pool_features(variables, batch["image"])
