"""The order of things: clip, then the optimizer, then what goes around both.

Clipping by the global norm is "On the difficulty of training Recurrent Neural Networks", Pascanu,
Mikolov, Bengio, https://arxiv.org/abs/1211.5063
"""

from collections.abc import Callable, Sequence

import optax

Wrapper = Callable[[optax.GradientTransformation], optax.GradientTransformation]


def chain(
    optimizer: optax.GradientTransformation,
    *,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    wrappers: Sequence[Wrapper] = (),
) -> optax.GradientTransformationExtraArgs:
    """Join an optimizer with clipping and wrappers into one transformation.

    Args:
        optimizer: turns a gradient into a step.
        clip_norm: largest Euclidean norm over all leaves together.
        clip_value: largest magnitude of an entry; applied before `clip_norm`, so that both hold.
        wrappers: transformations of the whole, the first one innermost. SAM is one: what it hands
            inward is its second gradient, and that is the one which is clipped.

    Returns:
        A transformation that takes extra arguments (`value`, `grad_fn`), whoever uses them.
    """
    parts = []
    if clip_value is not None:
        # g = min(max(g, -clip_value), clip_value)
        parts.append(optax.clip(clip_value))
    if clip_norm is not None:
        # g = g * min(1, clip_norm / ||g||)
        parts.append(optax.clip_by_global_norm(clip_norm))
    joined = optax.chain(*parts, optimizer)
    for wrap in wrappers:
        joined = wrap(joined)
    return optax.with_extra_args_support(joined)
