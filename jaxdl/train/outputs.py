"""Outputs of a network for every example of a split, gathered as the split is measured."""

import math
from typing import Literal

import jax
import jax.numpy as jnp

from jaxdl.metrics.base import Metric
from jaxdl.types import Array, Batch

MIB = 2**20
Form = Literal["logits", "log_probabilities"]

OF_CLASSES = ("classes", "soft", "mask", "tokens")
"""Kinds of targets whose logits are those of a softmax."""
LABEL = {"example": "label", "pixel": "label", "token": "tokens"}
"""The unit of an objective to the key of a batch that its logits are compared with."""


def form_of(examples: int, shape: tuple[int, ...], limit: float) -> Form | None:
    """Form in which the logits of a split are kept.

    Args:
        examples: in the split.
        shape: of one example's logits.
        limit: MiB.

    Returns:
        'logits', float32, where they take `limit` at most; 'log_probabilities', float16, where
        these take at most four times as much; else None: they are not kept.
    """
    numbers = examples * math.prod(shape)
    if 4 * numbers <= limit * MIB:
        return "logits"
    return "log_probabilities" if 2 * numbers <= 4 * limit * MIB else None


def output_rows(examples: int, limit: float, unit: str, kind: str = "classes") -> Metric:
    """The outputs of each example as a metric: a dict of arrays (n, ...) of the whole split.

    They are `index` (n,), `label` (n, ...), and `logits` or `log_probabilities` (n, ..., k) where
    they are kept; of objectives that classify examples also `prediction` (n,) and `confidence`
    (n,), the probability of the prediction. Batches must have an `index`.

    Args:
        examples: in the split.
        limit: of what is kept, in MiB; see `form_of`.
        unit: what logits are of: each 'example', 'pixel' or 'token'. The label of a token's logits
            is the next of `tokens`.
        kind: of the target: only of classes are there predictions.
    """

    def rows(outputs: dict[str, Array], batch: Batch) -> dict[str, Array]:
        logits = outputs["logits"]
        kept = {"index": batch["index"], "label": batch[LABEL[unit]]}
        form = form_of(examples, logits.shape[1:], limit)
        if form == "logits":
            kept["logits"] = logits
        elif form and kind in OF_CLASSES:
            kept["log_probabilities"] = jax.nn.log_softmax(logits).astype(jnp.float16)
        if unit == "example" and kind in OF_CLASSES:
            probabilities = jax.nn.softmax(logits)
            kept["prediction"] = jnp.argmax(probabilities, axis=-1)
            kept["confidence"] = jnp.max(probabilities, axis=-1)
        return kept

    return Metric(rows, dict, "concat")
