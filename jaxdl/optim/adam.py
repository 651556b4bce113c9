"""Adam: a momentum of the gradient, divided by the root of a momentum of its square.

"Adam: A Method for Stochastic Optimization", Kingma, Ba, https://arxiv.org/abs/1412.6980

What differs from the paper: it may decay weights, by an L2 penalty whose gradient goes through the
two moments like the rest (coupled, as in PyTorch's Adam). `adamw` is the decoupled one.
"""

import optax

from jaxdl.config import NonNegative, Positive, Rate
from jaxdl.optim.arguments import DECAYED, LearningRate, add_weight_decay
from jaxdl.registry import register


@register("optimizers")
def adam(
    learning_rate: LearningRate,
    *,
    b1: Rate = 0.9,
    b2: Rate = 0.999,
    eps: Positive = 1e-8,
    weight_decay: NonNegative = 0.0,
    decay: str = DECAYED,
) -> optax.GradientTransformation:
    """Adam, with coupled weight decay if any.

    Args:
        learning_rate: step size; a number or a schedule of the step count.
        b1: decay rate of the mean of gradients.
        b2: decay rate of the mean of squared gradients.
        eps: added to the root of the second moment.
        weight_decay: weight of the penalty (weight_decay / 2) |w|^2.
        decay: regular expression on the path of the leaves to decay.
    """
    return optax.chain(
        # g = g + weight_decay * w
        add_weight_decay(weight_decay, decay),
        # m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2
        # u = m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)
        optax.scale_by_adam(b1, b2, eps),
        # w = w - learning_rate * u
        optax.scale_by_learning_rate(learning_rate),
    )
