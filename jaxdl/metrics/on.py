"""A metric of another target than `label`."""

from collections.abc import Callable
from typing import Annotated

from jaxdl.errors import UserError
from jaxdl.metrics.base import Metric, Outputs
from jaxdl.registry import Of, register
from jaxdl.types import Batch, as_label


@register("metrics")
def on(*, target: str, metric: Annotated[Callable[[], Metric], Of("metrics")]) -> Metric:
    """Any metric, measured on another target of the batch than `label`.

    Args:
        target: key of the batch that the metric reads as `label`. Outputs that an objective keeps
            in a dict under this name stand in the place of its own.
        metric: of one label.
    """
    inner = metric()

    def sums(outputs: Outputs, batch: Batch):
        if target not in batch:
            raise UserError(f"metric 'on' reads target '{target}', and the batch has none")
        of_target = outputs.get(target, {})
        return inner.sums({**outputs, **of_target}, as_label(batch, target))

    return inner._replace(sums=sums)
