"""Training: one sharded step, its state, gradients, loop and evaluation. Knows no model by name."""

from jaxdl.room import open_room

open_room(__name__)
