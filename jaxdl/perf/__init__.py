"""Measuring cost: speed, memory, FLOPs, sizes, scaling."""

from jaxdl.room import open_room

open_room(__name__)
