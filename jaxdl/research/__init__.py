"""Functions of a finished model or of several runs: what it costs, what it is made of."""

from jaxdl.room import open_room

open_room(__name__)
