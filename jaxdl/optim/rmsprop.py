"""RMSprop: the gradient divided by the root of a running mean of its square.

"Neural Networks for Machine Learning", lecture 6e, Tieleman, Hinton,
https://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf

The lecture has no epsilon, and libraries disagree on where it stands. The default is PyTorch's,
outside the root. TensorFlow's, on which the recipes of Inception, MnasNet and EfficientNet rest
(https://arxiv.org/abs/1905.11946), is inside it, and starts the mean at 1:

    part("rmsprop", learning_rate=0.256, rho=0.9, momentum=0.9, eps=1e-3, eps_in_sqrt=True,
         initial=1.0, weight_decay=1e-5)

The learning rate stands inside the velocity, as in TensorFlow; PyTorch's stands outside, which is
the same while the learning rate rests. Weight decay is coupled, as in those recipes.
"""

import optax

from jaxdl.config import NonNegative, Positive, Rate
from jaxdl.optim.arguments import DECAYED, LearningRate, add_weight_decay
from jaxdl.registry import register


@register("optimizers")
def rmsprop(
    learning_rate: LearningRate,
    *,
    rho: Rate = 0.9,
    momentum: Rate = 0.0,
    eps: Positive = 1e-8,
    eps_in_sqrt: bool = False,
    initial: NonNegative = 0.0,
    weight_decay: NonNegative = 0.0,
    decay: str = DECAYED,
) -> optax.GradientTransformation:
    """RMSprop, in PyTorch's form or in TensorFlow's.

    Args:
        learning_rate: step size; a number or a schedule of the step count.
        rho: decay rate of the mean of squared gradients.
        momentum: how much of the last step is kept.
        eps: added to the root, or under it.
        eps_in_sqrt: add `eps` under the root, as TensorFlow does.
        initial: the mean of squares before the first step.
        weight_decay: weight of the penalty (weight_decay / 2) |w|^2.
        decay: regular expression on the path of the leaves to decay.
    """
    return optax.chain(
        # g = g + weight_decay * w
        add_weight_decay(weight_decay, decay),
        # v = rho v + (1 - rho) g^2;  u = g / sqrt(v + eps) if eps_in_sqrt else g / (sqrt(v) + eps)
        optax.scale_by_rms(rho, eps, initial, eps_in_sqrt),
        # d = momentum * d - learning_rate * u;  w = w + d
        optax.scale_by_learning_rate(learning_rate),
        optax.trace(momentum) if momentum else optax.identity(),
    )
