"""Objectives: what is minimised, joining a model to its losses; see `jaxdl.types.Objective`."""

from jaxdl.room import open_room

open_room(__name__)
