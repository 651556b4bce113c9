"""AdamW: Adam whose weight decay does not go through the moments.

"Decoupled Weight Decay Regularization", Loshchilov, Hutter, https://arxiv.org/abs/1711.05101

What differs from the paper: the decay is multiplied by the whole learning rate, as in PyTorch and
Optax; the paper multiplies it by the schedule's factor only. To carry a value over from the paper,
divide it by the peak learning rate. The default decay is PyTorch's, 100 times Optax's.
"""

import optax

from jaxdl.config import NonNegative, Positive, Rate
from jaxdl.optim.arguments import DECAYED, LearningRate, add_weight_decay
from jaxdl.registry import register


@register("optimizers")
def adamw(
    learning_rate: LearningRate,
    *,
    b1: Rate = 0.9,
    b2: Rate = 0.999,
    eps: Positive = 1e-8,
    weight_decay: NonNegative = 1e-2,
    decay: str = DECAYED,
) -> optax.GradientTransformation:
    """Adam with decoupled weight decay.

    Args:
        learning_rate: step size; a number or a schedule of the step count.
        b1: decay rate of the mean of gradients.
        b2: decay rate of the mean of squared gradients.
        eps: added to the root of the second moment.
        weight_decay: a step shrinks a weight by learning_rate * weight_decay of itself.
        decay: regular expression on the path of the leaves to decay.
    """
    return optax.chain(
        # m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2
        # u = m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)
        optax.scale_by_adam(b1, b2, eps),
        # w = w - learning_rate * (u + weight_decay * w)
        add_weight_decay(weight_decay, decay),
        optax.scale_by_learning_rate(learning_rate),
    )
