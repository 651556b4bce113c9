"""Losses: (logits, label) -> one float32 number an example; no reduction, no parameters.

Of a whole mask: (logits, label, weight) -> one number an image. Of embeddings: (features,
label, weight) -> one number an anchor.
"""

from jaxdl.room import open_room

open_room(__name__)
