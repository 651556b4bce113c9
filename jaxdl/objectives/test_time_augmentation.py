"""Test-time augmentation: the mean prediction over an image and some augmented views of it.

ImageNet Classification with Deep Convolutional Neural Networks. Krizhevsky, Sutskever, Hinton 2012,
section 4.1, averages over ten crops. https://papers.nips.cc/paper/4824
"""

from collections.abc import Callable
from typing import Annotated

import jax

from jaxdl.config import Count, Seed
from jaxdl.errors import UserError
from jaxdl.objectives.monte_carlo import mean_prediction
from jaxdl.registry import Of, register
from jaxdl.types import Array, Batch, Objective, PyTree

Augmentation = Annotated[Callable[[Array, Batch], Batch], Of("augmentations")]


@register("predictors", "test_time_augmentation", unit="example")
def over_views(
    objective: Objective,
    /,
    *,
    augment: tuple[Augmentation, ...],
    samples: Count = 8,
    seed: Seed = 0,
) -> Objective:
    """Predict the mean probability over the plain batch and `samples` augmented ones.

    It goes around what prepares batches, since augmentations read pixels as they are stored.
    Besides `logits` there are `entropy` and `mutual_information`, as of `mc_dropout`. All batches
    are seen under the same draws, so that an evaluation can be repeated.

    Args:
        objective: of each example. The logits of a map or a sequence would have to be moved back
            before they can be averaged, and are refused.
        augment: applied in turn, each with a key of its own.
        samples: views besides the plain one; they run one after the other.
        seed: of the draws, where the caller gives no key.
    """

    def view(batch: Batch, key: Array) -> Batch:
        for transform, k in zip(augment, jax.random.split(key, len(augment)), strict=True):
            batch = transform(k, batch)
        if "mixed_label" in batch:
            raise UserError("predictor 'test_time_augmentation' cannot average over mixtures")
        return batch

    def predict(params: PyTree, variables: PyTree, batch: Batch, key: Array | None = None):
        plain = objective.predict(params, variables, batch, key)
        if plain["logits"].ndim != 2:
            raise UserError(
                "predictor 'test_time_augmentation' is for logits of each example: those of each "
                "pixel or token do not lie on one another"
            )
        keys = jax.random.split(jax.random.key(seed) if key is None else key, samples)
        one = lambda k: objective.predict(params, variables, view(batch, k), key)
        return mean_prediction(one, keys, plain)

    return objective._replace(predict=predict)
