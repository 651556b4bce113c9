"""Publishers' tensor names, one family of models a file: our names on the left."""

from jaxdl.room import open_room

open_room(__name__)
