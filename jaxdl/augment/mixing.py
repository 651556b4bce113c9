"""Two examples become one that is labelled with both: each with the one before it in the batch.

Labels are not mixed here: `label` stays the first's, `mixed_label` is the other's and `lam` the
part that the first has, so that an objective may mix its losses, which for cross-entropy is the
same. Batches come in random order, so that a neighbour is as random a partner as any; and on many
devices only a row at each border has to travel. Where the neighbour is padding, an example stays
whole. Bytes are rounded to bytes again, an error of at most half a step in 255.

They come last among augmentations: what moves or recolours images after them would treat two at
once. The batch is what the objective sees: under accumulation, the micro-batch.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from jaxdl.augment.batch import Probability, sides
from jaxdl.augment.erase import inside
from jaxdl.config import Positive
from jaxdl.errors import UserError
from jaxdl.registry import register
from jaxdl.types import Array, Batch, mask_of

Per = Literal["batch", "example"]


def _partner(x: Array) -> Array:
    return jnp.roll(x, 1, axis=0)


def _refuse(batch: Batch, name: str, maps: bool) -> None:
    if "mixed_label" in batch:
        raise UserError(f"{name}: the batch is mixed already; 'mixup_or_cutmix' takes turns")
    if "label" not in batch:
        raise UserError(f"{name} mixes labels, and the batch has none")
    if batch["label"].ndim != 1 and not maps:
        raise UserError(f"{name} cannot mix segmentation masks: 'cutmix' can paste them")


def _lam(key: Array, batch: Batch, alpha: float, per: Per) -> Array:
    """lambda ~ Beta(alpha, alpha), (b,) float32; 1 where the partner is padding."""
    b = batch["label"].shape[0]
    drawn = jax.random.beta(key, alpha, alpha, (b if per == "example" else 1,))
    return jnp.where(_partner(mask_of(batch)) > 0, jnp.broadcast_to(drawn, (b,)), 1.0)


def _blended(image: Array, lam: Array) -> Array:
    # x = lambda x_i + (1 - lambda) x_j
    lam = sides(lam, image)
    mixed = lam * image.astype(jnp.float32)
    mixed += (1 - lam) * _partner(image).astype(jnp.float32)
    is_bytes = jnp.issubdtype(image.dtype, jnp.integer)
    return (jnp.round(mixed) if is_bytes else mixed).astype(image.dtype)


def _box(key: Array, lam: Array, shape: tuple[int, int], per: Per) -> Array:
    """A mask (b, h, w) of 1 - lam of the image, about, less what sticks out of it."""
    b, (h, w) = lam.shape[0], shape
    whole = jnp.array([[h, w]])
    # r_h = H sqrt(1 - lambda), r_w = W sqrt(1 - lambda), the centre uniform
    size = (whole * jnp.sqrt(1 - lam)[:, None]).astype(jnp.int32)
    centre = jax.random.randint(key, (b if per == "example" else 1, 2), 0, whole)
    return inside(jnp.broadcast_to(centre, (b, 2)) - size // 2, size, shape)


def _kept(box: Array) -> Array:
    return 1 - jnp.mean(box, axis=(1, 2), dtype=jnp.float32)


def _labelled(batch: Batch, image: Array, lam: Array) -> Batch:
    return {**batch, "image": image, "mixed_label": _partner(batch["label"]), "lam": lam}


@register("augmentations", mixes=True)
def mixup(key: Array, batch: Batch, /, *, alpha: Positive = 0.2, per: Per = "batch") -> Batch:
    """Blend each image with its partner, in a proportion drawn from Beta(alpha, alpha).

    mixup: Beyond Empirical Risk Minimization. Zhang, Cisse, Dauphin, Lopez-Paz 2017.
    https://arxiv.org/abs/1710.09412

    Args:
        key: draws the proportion.
        batch: image (b, h, w, c) and label (b,).
        alpha: 1 for all proportions alike, less for mostly one of the two.
        per: whether one proportion is drawn for the batch, as in the paper's code, or one for
            each example.
    """
    _refuse(batch, "mixup", maps=False)
    lam = _lam(key, batch, alpha, per)
    return _labelled(batch, _blended(batch["image"], lam), lam)


@register("augmentations", mixes=True)
def cutmix(key: Array, batch: Batch, /, *, alpha: Positive = 1.0, per: Per = "batch") -> Batch:
    """Paste a rectangle of each image's partner into it; `lam` is the fraction that is kept.

    CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features. Yun, Han,
    Oh, Chun, Choe, Yoo 2019. https://arxiv.org/abs/1905.04899. A mask is pasted like the image, and
    nothing else is to be mixed then: https://arxiv.org/abs/1906.01916

    Args:
        key: draws proportion and place.
        batch: image (b, h, w, c), label (b,) or (b, h, w).
        alpha: of Beta(alpha, alpha), from which the kept fraction is drawn; 1 for all alike.
        per: whether one rectangle is drawn for the batch, or one for each example.
    """
    _refuse(batch, "cutmix", maps=True)
    image, label = batch["image"], batch["label"]
    ratio, place = jax.random.split(key)
    box = _box(place, _lam(ratio, batch, alpha, per), image.shape[1:3], per)
    pasted = jnp.where(box[..., None], _partner(image), image)
    if label.ndim == 3:
        return {**batch, "image": pasted, "label": jnp.where(box, _partner(label), label)}
    return _labelled(batch, pasted, _kept(box))


@register("augmentations", mixes=True)
def mixup_or_cutmix(
    key: Array,
    batch: Batch,
    /,
    *,
    probability: Probability = 1.0,
    switch: Probability = 0.5,
    mixup_alpha: Positive = 0.8,
    cutmix_alpha: Positive = 1.0,
    per: Per = "batch",
) -> Batch:
    """Take turns at random: mixup, CutMix or neither; the defaults are DeiT's.

    Training data-efficient image transformers & distillation through attention. Touvron et al.
    2020. https://arxiv.org/abs/2012.12877

    Args:
        key: draws the turn, proportion and place.
        batch: image (b, h, w, c) and label (b,).
        probability: that anything is mixed.
        switch: probability that this is CutMix.
        mixup_alpha: see `mixup`.
        cutmix_alpha: see `cutmix`.
        per: whether one turn is drawn for the batch, or one for each example.
    """
    _refuse(batch, "mixup_or_cutmix", maps=False)
    turn, first, second = jax.random.split(key, 3)
    b = batch["label"].shape[0]
    draws = jax.random.uniform(turn, (b if per == "example" else 1, 2))
    mixes, cuts = jnp.broadcast_to(draws < jnp.array([[probability, switch]]), (b, 2)).T
    blended = mixup(first, batch, alpha=mixup_alpha, per=per)
    pasted = cutmix(second, batch, alpha=cutmix_alpha, per=per)

    def chosen(name: str, whole: Array) -> Array:
        mixed = jnp.where(sides(cuts, whole), pasted[name], blended[name])
        return jnp.where(sides(mixes, whole), mixed, whole)

    return _labelled(
        batch, chosen("image", batch["image"]), chosen("lam", jnp.ones(b, jnp.float32))
    )
