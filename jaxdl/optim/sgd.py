"""Stochastic gradient descent, with the momentum of the deep-learning era.

"On the importance of initialization and momentum in deep learning", Sutskever, Martens, Dahl,
Hinton, https://proceedings.mlr.press/v28/sutskever13.html

What differs from the paper: the learning rate stands outside the velocity, as in ResNet's recipe
(https://arxiv.org/abs/1512.03385) and PyTorch, so that a drop of it acts at once. Weight decay is
coupled: an L2 penalty's gradient, added before the momentum.
"""

import optax

from jaxdl.config import NonNegative, Rate
from jaxdl.errors import UserError
from jaxdl.optim.arguments import DECAYED, LearningRate, add_weight_decay
from jaxdl.registry import register


@register("optimizers")
def sgd(
    learning_rate: LearningRate,
    *,
    momentum: Rate = 0.9,
    nesterov: bool = False,
    weight_decay: NonNegative = 0.0,
    decay: str = DECAYED,
) -> optax.GradientTransformation:
    """SGD with momentum, optionally Nesterov's.

    Args:
        learning_rate: step size; a number or a schedule of the step count.
        momentum: how much of the velocity is kept; 0 is plain SGD, without its memory.
        nesterov: look ahead along the velocity.
        weight_decay: weight of the penalty (weight_decay / 2) |w|^2; ResNet's papers use 1e-4.
        decay: regular expression on the path of the leaves to decay.
    """
    if nesterov and not momentum:
        raise UserError("optimizer 'sgd': nesterov=True needs a momentum above 0")
    return optax.chain(
        # g = g + weight_decay * w
        add_weight_decay(weight_decay, decay),
        # v = momentum * v + g;  u = g + momentum * v if nesterov else v
        optax.trace(momentum, nesterov) if momentum else optax.identity(),
        # w = w - learning_rate * u
        optax.scale_by_learning_rate(learning_rate),
    )
