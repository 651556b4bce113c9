"""Files of a run directory: one reader and one writer of each."""

from jaxdl.room import open_room

open_room(__name__)
