"""The machine: one sharded step and what surrounds it. Knows no model, no loss and no name."""

from jaxdl.room import open_room

open_room(__name__)
