"""How publishers name the tensors of a family, one family a file: our names on the left."""

from jaxdl.room import open_room

open_room(__name__)
