"""Augmentation by domain: what may change in a picture without changing what it shows.

A digit is not mirrored, an aerial view has no upright, a scan's grey levels mean something. The
stronger a policy, the more it suits little data and fine-tuning: "How to train your ViT? Data,
Augmentation, and Regularization in Vision Transformers", Steiner, Kolesnikov, Zhai et al. 2021,
https://arxiv.org/abs/2106.10270. The lists are this project's own choice; no paper has them.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

from jaxdl.augment.affine import random_affine, random_rotation
from jaxdl.augment.batch import image_bytes
from jaxdl.augment.blur import random_blur
from jaxdl.augment.compose import in_order
from jaxdl.augment.crop import random_crop
from jaxdl.augment.enhance import color_jitter, random_brightness, random_contrast
from jaxdl.augment.erase import random_erasing
from jaxdl.augment.flip import random_flip, random_vertical_flip
from jaxdl.augment.randaugment import rand_augment
from jaxdl.registry import register
from jaxdl.types import Array, Batch

Augmentation = Callable[[Array, Batch], Batch]

# domain -> what 'light' does, what 'standard' adds, what 'strong' adds to both
POLICIES: dict[str, tuple[list[Augmentation], list[Augmentation], list[Augmentation]]] = {
    "photographs": (
        [random_crop, random_flip],
        [color_jitter],
        [rand_augment, random_erasing],
    ),
    "characters": (
        [partial(random_crop, padding=2)],
        [partial(random_affine, degrees=10, translate=0.1, scale=(0.9, 1.1), shear=5)],
        [random_erasing],
    ),
    "medical": (
        [random_flip],
        [partial(random_rotation, degrees=15), partial(random_brightness, strength=0.1)],
        [
            partial(random_affine, degrees=10, translate=0.05, scale=(0.9, 1.1), shear=0),
            partial(random_contrast, strength=0.2),
            random_blur,
        ],
    ),
    "aerial": (
        [random_flip, random_vertical_flip],
        [partial(random_rotation, degrees=180), partial(color_jitter, hue=0.0)],
        [random_blur, random_erasing],
    ),
}


@register("augmentations", pixels="uint8")
def domain_policy(
    key: Array,
    batch: Batch,
    /,
    *,
    domain: Literal["photographs", "characters", "medical", "aerial"] = "photographs",
    strength: Literal["light", "standard", "strong"] = "standard",
) -> Batch:
    """Augmentations suited to images of one domain, by strength (https://arxiv.org/abs/2106.10270).

    Args:
        domain: photographs of things; characters and drawings, which are not mirrored; medical
            images, whose colours stay; aerial views, which have no upright.
        strength: each holds what the weaker ones do. Fine-tuning on little data takes 'strong'.
    """
    image_bytes(batch, "domain_policy")
    light, standard, strong = POLICIES[domain]
    chosen = {"light": light, "standard": light + standard, "strong": light + standard + strong}
    return in_order(key, batch, augmentations=tuple(chosen[strength]))
