"""Objectives: what is minimised, joining a model to its losses; see `jaxdl.types.Objective`."""
