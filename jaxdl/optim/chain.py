"""The order of things: first the gradient, then the optimizer, then what goes around both."""

from collections.abc import Callable, Sequence

import optax

Wrapper = Callable[[optax.GradientTransformation], optax.GradientTransformation]


def chain(
    optimizer: optax.GradientTransformation,
    *,
    transforms: Sequence[optax.GradientTransformation] = (),
    wrappers: Sequence[Wrapper] = (),
) -> optax.GradientTransformationExtraArgs:
    """Join an optimizer with clipping and wrappers into one transformation.

    Args:
        optimizer: turns a gradient into a step.
        transforms: of the gradient, in order, before the optimizer sees it.
        wrappers: transformations of the whole, the first one innermost. SAM is one: what it hands
            inward is its second gradient, and that is the one which is clipped.

    Returns:
        A transformation that takes extra arguments (`value`, `grad_fn`), whoever uses them.
    """
    joined = optax.chain(*transforms, optimizer)
    for wrap in wrappers:
        joined = wrap(joined)
    return optax.with_extra_args_support(joined)
