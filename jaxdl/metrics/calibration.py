"""On Calibration of Modern Neural Networks. Guo, Pleiss, Sun, Weinberger 2017.

https://arxiv.org/abs/1706.04599. Whether a network that is sure of 80% is right in 80% of cases.
Confidence is the largest probability; bin m of M holds confidences in ((m - 1) / M, m / M]. The
estimate is biased upwards where bins hold few examples, and changes with their number.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.config import Count
from jaxdl.metrics.base import Metric, Outputs, Pair
from jaxdl.metrics.classification import masked
from jaxdl.registry import register
from jaxdl.types import Batch, mask_of


def expected_gap(gap: np.ndarray, count: np.ndarray) -> float:
    """Mean over examples of their bin's gap: two vectors (bins,)."""
    # ECE = sum_m |B_m| / n |acc(B_m) - conf(B_m)|, and gap_m = |B_m| (acc - conf)
    return float(np.abs(gap).sum() / count.sum()) if count.sum() > 0 else math.nan


def largest_gap(gap: np.ndarray, count: np.ndarray) -> float:
    """The largest gap of a bin that is not empty."""
    filled = count > 0
    return float(np.max(np.abs(gap[filled]) / count[filled])) if filled.any() else math.nan


def gaps(outputs: Outputs, batch: Batch, bins: int = 15) -> Pair:
    """(hits less confidences, examples) of each bin: two vectors (bins,)."""
    probabilities = jax.nn.softmax(outputs["logits"].astype(jnp.float32))
    confidence = jnp.max(probabilities, axis=-1)
    hit = jnp.argmax(outputs["logits"], axis=-1) == batch["label"]
    mask = mask_of(batch)
    inner_edges = jnp.asarray(np.arange(1, bins) / bins, jnp.float32)
    place = jnp.searchsorted(inner_edges, confidence, side="left")
    into_bins = lambda x: jnp.zeros(bins, jnp.float32).at[place].add(jnp.where(mask > 0, x, 0.0))
    return into_bins(hit - confidence), into_bins(mask)


@register("metrics")
def calibration_error(*, bins: Count = 15) -> Metric:
    """Expected calibration error: what confidence and accuracy of a bin differ by, on average."""
    return Metric(partial(gaps, bins=bins), expected_gap)


@register("metrics")
def max_calibration_error(*, bins: Count = 15) -> Metric:
    """Maximum calibration error: what confidence and accuracy differ by in the worst bin."""
    return Metric(partial(gaps, bins=bins), largest_gap)


def squared_distances(outputs: Outputs, batch: Batch) -> Pair:
    """(sum, count) of |p - one_hot(label)|^2."""
    probabilities = jax.nn.softmax(outputs["logits"].astype(jnp.float32))
    truth = jax.nn.one_hot(batch["label"], probabilities.shape[-1])
    return masked(jnp.sum((probabilities - truth) ** 2, axis=-1), batch)


@register("metrics")
def brier() -> Metric:
    """Mean squared distance of the probabilities from the truth, summed over classes: 0 to 2.

    Some halve it for two classes. Brier 1950,
    https://journals.ametsoc.org/view/journals/mwre/78/1/1520-0493_1950_078_0001_vofeit_2_0_co_2.xml
    """
    return Metric(squared_distances)
