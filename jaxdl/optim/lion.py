"""Lion: the sign of a momentum, found by a search over programs.

"Symbolic Discovery of Optimization Algorithms", Chen, Liang, Huang, Real et al.,
https://arxiv.org/abs/2302.06675

Nothing differs from the paper. Every entry moves by the learning rate, whatever its gradient, so
the paper takes a learning rate 3 to 10 times smaller than AdamW's and a decay 3 to 10 times larger;
the default decay is 10 times that of `adamw` here.
"""

import optax

from jaxdl.config import NonNegative, Rate
from jaxdl.optim.arguments import DECAYED, LearningRate, add_weight_decay
from jaxdl.registry import register


@register("optimizers")
def lion(
    learning_rate: LearningRate,
    *,
    b1: Rate = 0.9,
    b2: Rate = 0.99,
    weight_decay: NonNegative = 0.1,
    decay: str = DECAYED,
) -> optax.GradientTransformation:
    """Sign of a momentum, with decoupled weight decay.

    Args:
        learning_rate: how far every entry moves; a number or a schedule of the step count.
        b1: weight of the momentum in the direction of a step.
        b2: decay rate of the momentum itself.
        weight_decay: a step shrinks a weight by learning_rate * weight_decay of itself.
        decay: regular expression on the path of the leaves to decay.
    """
    return optax.chain(
        # u = sign(b1 m + (1 - b1) g);  m = b2 m + (1 - b2) g
        optax.scale_by_lion(b1, b2),
        # w = w - learning_rate * (u + weight_decay * w)
        add_weight_decay(weight_decay, decay),
        optax.scale_by_learning_rate(learning_rate),
    )
