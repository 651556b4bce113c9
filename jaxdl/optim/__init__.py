"""How parameters move, given a gradient: Optax transformations and schedules of their size."""

from jaxdl.room import open_room

open_room(__name__)
