"""Optimizers: Optax transformations of a gradient, and learning-rate schedules."""

from jaxdl.room import open_room

open_room(__name__)
