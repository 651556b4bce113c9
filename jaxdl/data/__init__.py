"""Sources of examples, and the batches that are made of them.

A source is a registered builder that gives a `Source`, or simply a dict of arrays, for the name of
a split. `open_split` checks it; `train_batches` and `evaluation_batches` put it on the devices.
"""

from jaxdl.data.arrays import from_arrays
from jaxdl.data.pipeline import evaluation_batches, train_batches
from jaxdl.data.sampler import train_indices
from jaxdl.data.source import Source
from jaxdl.data.split import Split, open_split
from jaxdl.room import open_room

__all__ = [
    "Source",
    "Split",
    "evaluation_batches",
    "from_arrays",
    "open_split",
    "train_batches",
    "train_indices",
]

open_room(__name__)
