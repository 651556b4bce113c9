"""A rate that falls when the loss no longer does.

The rule is that of `torch.optim.lr_scheduler.ReduceLROnPlateau`, whose `patience` is one less than
ours, as Optax has it: https://optax.readthedocs.io/en/latest/api/contrib.html

It watches the loss of training, averaged over windows of steps, and not that of a held-out split:
validation happens between steps, outside the program that a step is, and its state would have to
come back in. Where the two part ways, stop early as well.
"""

from typing import Annotated, Any

import jax
import jax.numpy as jnp
import msgspec
import optax

from jaxdl.config import Count, Duration, NonNegative, Rate
from jaxdl.errors import UserError
from jaxdl.registry import register
from jaxdl.types import Array, PyTree

Fraction = Annotated[float, msgspec.Meta(gt=0, lt=1)]
Times = Annotated[int, msgspec.Meta(ge=0)]


@register("wrappers", scales=True)
def reduce_on_plateau(
    inner: optax.GradientTransformation,
    /,
    *,
    every: Duration = "1 epoch",
    patience: Count = 10,
    factor: Fraction = 0.1,
    cooldown: Times = 0,
    min_scale: Rate = 0.0,
    rtol: Rate = 1e-4,
    atol: NonNegative = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """Lower the rate when the training loss rests.

    Its `update` needs the extra argument `value`, the loss of the step. The schedule of the run
    goes on beneath: `constant` leaves the rate to this alone.

    Args:
        inner: the optimizer, whose update is scaled.
        every: steps in a window, whose mean loss is looked at. The step that ends a window is the
            first with its new scale.
        patience: windows in a row without a better mean, after which the rate falls.
        factor: what it then is multiplied by.
        cooldown: windows after a fall that do not count against the patience.
        min_scale: the scale does not fall below it.
        rtol: a mean is better if it is below (1 - rtol) * best - atol; made for losses above 0.
        atol: see rtol; one of the two must be above 0.
    """
    where = "wrapper 'reduce_on_plateau'"
    if every < 1:
        raise UserError(f"{where}: `every` must be at least 1 step")
    if not rtol and not atol:
        raise UserError(f"{where}: one of rtol and atol must be above 0")
    inner = optax.with_extra_args_support(inner)
    watch = optax.contrib.reduce_on_plateau(
        factor, patience, rtol, atol, cooldown, accumulation_size=every, min_scale=min_scale
    )

    def init(params: PyTree) -> tuple[PyTree, PyTree]:
        # Optax would keep means and scale in the type of the parameters, and begin with infinity,
        # which is not better to begin with and looks like a mishap wherever a state is checked.
        watched = watch.init(jnp.zeros((), jnp.float32))
        worst = jnp.asarray(jnp.finfo(jnp.float32).max, jnp.float32)
        return watched._replace(best_value=worst), inner.init(params)

    def update(
        updates: PyTree,
        state: tuple[PyTree, PyTree],
        params: PyTree | None = None,
        *,
        value: Array | None = None,
        **extra: Any,
    ) -> tuple[PyTree, tuple[PyTree, PyTree]]:
        if value is None:
            raise TypeError("reduce_on_plateau: call update(gradient, state, params, value=loss)")
        updates, moved = inner.update(updates, state[1], params, value=value, **extra)
        scale, watched = watch.update(jnp.ones((), jnp.float32), state[0], value=value)
        updates = jax.tree.map(lambda u: (scale * u).astype(u.dtype), updates)
        return updates, (watched, moved)

    return optax.GradientTransformationExtraArgs(init, update)
