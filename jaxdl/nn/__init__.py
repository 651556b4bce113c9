"""Layers with parameters that two models or more are built from."""

from jaxdl.room import open_room

open_room(__name__)
