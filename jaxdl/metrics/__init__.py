"""Metrics: a builder gives `Metric(sums, value, merge, names)`, see `base.py`.

`sums(outputs, batch)` is (sum, count) of a batch, and `value` makes a number of what a whole split
adds up to: by default the quotient. With `merge="concat"`, for what no sum can say, `sums` gives a
dict of arrays (b, ...) and `value` takes that dict over the whole split. A value of several numbers
is written by name: `test/iou/sky`.

Metadata of a registered metric, both optional: `unit`, what it counts ('example', 'pixel', 'token',
or several of them); `inputs`, an output that not every objective gives.

Counting classes, a NaN is the largest logit, as for `argmax`: look at `cross_entropy` beside it.
"""

from jaxdl.room import open_room

open_room(__name__)
