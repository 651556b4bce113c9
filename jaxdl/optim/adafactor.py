"""Adafactor: second moments held as a row and a column, steps relative to the size of a weight.

"Adafactor: Adaptive Learning Rates with Sublinear Memory Cost", Shazeer, Stern,
https://arxiv.org/abs/1804.04235 (algorithms 4 to 6, no momentum)

The learning rate is the paper's relative step size rho_t: a step changes a leaf by about that part
of its root mean square. The paper takes min(1e-2, 1 / sqrt(t)); here the peak and the schedule are
the config's.

What differs from the paper: leaves are factored along their two largest axes, and only where both
have at least 128 entries (a small leaf costs nothing); the paper factors every matrix. Weight decay
is ours to add: decoupled and multiplied by the learning rate, which Optax's alias does not do.
"""

import optax

from jaxdl.config import Count, NonNegative, Positive
from jaxdl.optim.arguments import DECAYED, LearningRate, add_weight_decay
from jaxdl.registry import register


@register("optimizers")
def adafactor(
    learning_rate: LearningRate,
    *,
    beta2_decay: Positive = 0.8,
    clip_threshold: Positive = 1.0,
    eps1: Positive = 1e-30,
    eps2: Positive = 1e-3,
    min_dim_size_to_factor: Count = 128,
    weight_decay: NonNegative = 0.0,
    decay: str = DECAYED,
) -> optax.GradientTransformation:
    """Adafactor without momentum: memory that grows with rows plus columns.

    Args:
        learning_rate: relative step size; a number or a schedule of the step count.
        beta2_decay: c in beta2_t = 1 - t^-c.
        clip_threshold: largest root mean square of an update before it is scaled (the paper's d).
        eps1: added to squared gradients.
        eps2: the least root mean square that a leaf counts as having.
        min_dim_size_to_factor: entries that both axes need for a leaf to be factored.
        weight_decay: a step shrinks a weight by learning_rate * weight_decay of itself.
        decay: regular expression on the path of the leaves to decay.
    """
    return optax.chain(
        # R = beta2_t R + (1 - beta2_t) mean_columns(g^2 + eps1);  C likewise over rows
        # V = R C / mean(R);  u = g / sqrt(V)
        optax.scale_by_factored_rms(
            decay_rate=beta2_decay,
            min_dim_size_to_factor=min_dim_size_to_factor,
            epsilon=eps1,
        ),
        # u = u / max(1, RMS(u) / d)
        optax.clip_by_block_rms(clip_threshold),
        # u = max(eps2, RMS(w)) * u
        optax.scale_by_param_block_rms(eps2),
        # w = w - learning_rate * (u + weight_decay * w)
        add_weight_decay(weight_decay, decay),
        optax.scale_by_learning_rate(learning_rate),
    )
