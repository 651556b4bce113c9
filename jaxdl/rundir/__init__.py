"""What a run leaves on disk: one reader and one writer of every file."""

from jaxdl.room import open_room

open_room(__name__)
