"""Augmentations: (key, batch) -> batch, on the device, inside the step. One idea a file."""

from jaxdl.room import open_room

open_room(__name__)
