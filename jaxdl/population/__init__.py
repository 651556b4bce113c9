"""Many runs in one program."""

from jaxdl.room import open_room

open_room(__name__)
