"""Metrics: (outputs, batch) -> (sum, count). Merging is addition, the value is sum / count.

Facts of a registered metric, all optional: `each`, what it counts ('example', 'pixel', 'token');
`value`, the value of a whole split's (sum, count) where that is not a plain quotient, given
by name those arguments of the metric that it takes too; `merge="concat"`, for what no sum can say:
then a metric returns a dict of arrays (b, ...), and `value` is a function of that dict over the
whole split; `reads`, an output that not every objective gives.

Counting classes, a NaN is the largest logit, as for `argmax`: look at `cross_entropy` beside it.
"""

from jaxdl.room import open_room

open_room(__name__)
