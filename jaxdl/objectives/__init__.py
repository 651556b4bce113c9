"""Objectives: what is minimised, joining a model to its losses. `jaxdl.types.Objective` says how."""
